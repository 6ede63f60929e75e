package syncapi

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/platform/web"
	"lyceum/rooms"
)

// TestIdleCostsNoStatement counts what a connected client without news costs the database.
func TestIdleCostsNoStatement(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice := h.as(t, "alice")
		for range 3 {
			h.room(t, "alice", "bob")
		}
		alice.sync("set_presence", "offline")
		alice.sync("set_presence", "offline")
		for _, more := range [][]string{{}, {"timeout", "5"}, {"filter", `{"room":{"state":{"lazy_load_members":true}}}`}} {
			before := h.statements.Load()
			const requests = 100
			for range requests {
				alice.sync(append(more, "set_presence", "offline")...)
			}
			// The background parts of all domains send some meanwhile; one for each request would be 100.
			if n := h.statements.Load() - before; n > requests/3 {
				t.Fatalf("%v: %d statements for %d requests without news", more, n, requests)
			}
		}
	})
}

// roomOf makes a room with many members who are connected.
func roomOf(t testing.TB, engine string, n int) (h *testNode, room string, all []*client) {
	users := make([]string, n)
	for i := range users {
		users[i] = fmt.Sprintf("u%d", i)
	}
	h = open(t, engine, users...)
	room = h.room(t, "alice", users...)
	for _, name := range users {
		c := h.as(t, name)
		c.sync("set_presence", "offline")
		all = append(all, c)
	}
	return h, room, all
}

// TestDeliverCostsNoEncoding counts statements and encodings of a message for one and for many receivers.
func TestDeliverCostsNoEncoding(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			h, room, all := roomOf(t, engine, 30)
			alice := h.as(t, "alice")
			alice.say(room, "first") // counts are loaded by it
			for _, c := range all {
				c.sync("set_presence", "offline")
			}
			alice.say(room, "second")
			statements, encodings := h.statements.Load(), rooms.Encodings()
			for _, c := range all {
				same(t, "delivered", bodies(in(c.sync("set_presence", "offline"), "join", room, "timeline.events")), "[second]")
			}
			if n := rooms.Encodings() - encodings; n != 1 {
				t.Errorf("%d encodings for %d receivers", n, len(all))
			}
			if n := h.statements.Load() - statements; n > int64(len(all))/2 { // by background parts
				t.Errorf("%d statements for %d receivers", n, len(all))
			}
			// Typing and receipts too.
			event := alice.say(room, "third")
			alice.do(room, "receipt/m.read/"+url.PathEscape(event), nil)
			alice.Want(200, "PUT "+at(room, "typing/"+url.PathEscape(id("alice"))), obj{"typing": true})
			statements = h.statements.Load()
			for _, c := range all {
				a := c.sync("set_presence", "offline")
				same(t, "ephemeral events", len(in(a, "join", room, "ephemeral.events").Array()), 2)
			}
			if n := h.statements.Load() - statements; n > int64(len(all))/2 { // by background parts
				t.Errorf("%d statements for %d receivers of typing and receipts", n, len(all))
			}
		})
	}
}

// newQuery is the query of a request whose client has all news.
func (h *testNode) newQuery(t testing.TB, name string) *query {
	u, err := h.user(t.Context(), id(name))
	if err != nil {
		t.Fatal(err)
	}
	u.served.Store(true)
	var m snapshot
	h.takeSnapshot(u, &m, 0, false)
	u.tokenIssued(&m.positions, m.sequence)
	return &query{s: h.Sync, user: u, device: "D", filter: &filter{}, origin: origin{since: m.positions}, scratch: &scratch{}}
}

// answerOnce answers a query once, as a request or a signal does.
func (q *query) answerOnce(t testing.TB, w *writer) bool {
	seen, known := q.user.sequenceAt(&q.since)
	q.s.takeSnapshot(q.user, &q.snapshot, seen, known)
	q.upto = q.positions
	w.b, w.comma = w.b[:0], false
	empty, err := q.writeAnswer(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	return empty
}

// BenchmarkIdleSync is a signal to a client for which nothing is new, by its number of rooms. "cold" has a
// token that this process did not give out.
func BenchmarkIdleSync(b *testing.B) {
	for _, n := range []int{1, 50, 500} {
		h := open(b, "sqlite")
		for range n {
			h.room(b, "alice")
		}
		q := h.newQuery(b, "alice")
		w := &writer{}
		run := func(b *testing.B) {
			q.answerOnce(b, w)
			b.ReportAllocs()
			statements := h.statements.Load()
			for b.Loop() {
				if !q.answerOnce(b, w) {
					b.Fatalf("not empty: %s", w.b)
				}
			}
			b.ReportMetric(float64(h.statements.Load()-statements)/float64(b.N), "statements/op")
		}
		b.Run(fmt.Sprintf("warm/rooms=%d", n), run)
		q.user.issued = [4]issuedToken{}
		b.Run(fmt.Sprintf("cold/rooms=%d", n), run)
	}
}

// BenchmarkDeliver is one message to 100 receivers in a room, without sending it.
func BenchmarkDeliver(b *testing.B) {
	h, room, _ := roomOf(b, "sqlite", 100)
	alice := h.as(b, "alice")
	alice.say(room, "first")
	var all []*query
	w := &writer{}
	for i := range 100 {
		q := h.newQuery(b, fmt.Sprintf("u%d", i))
		all = append(all, q)
		_ = q
	}
	alice.say(room, "second")
	for _, q := range all {
		q.answerOnce(b, w) // the counts are loaded
	}
	b.ReportAllocs()
	statements, encodings := h.statements.Load(), rooms.Encodings()
	for b.Loop() {
		for _, q := range all {
			if q.answerOnce(b, w) {
				b.Fatal("the answer is empty")
			}
		}
	}
	b.ReportMetric(float64(h.statements.Load()-statements)/float64(b.N), "statements/op")
	b.ReportMetric(float64(rooms.Encodings()-encodings)/float64(b.N), "encodings/op")
}

// BenchmarkParallel is many clients asking while rows come in.
func BenchmarkParallel(b *testing.B) {
	h, room, _ := roomOf(b, "sqlite", 50)
	stop, stopped := make(chan struct{}), make(chan struct{})
	alice := h.as(b, "alice")
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				alice.say(room, "x")
			}
		}
	}()
	queries := make(chan *query, 50)
	for i := range 50 {
		queries <- h.newQuery(b, fmt.Sprintf("u%d", i))
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		q, w := <-queries, &writer{}
		for pb.Next() {
			q.answerOnce(b, w)
			q.since = q.upto
			q.user.tokenIssued(&q.upto, q.sequence)
		}
		queries <- q
	})
	close(stop)
	<-stopped
}

// BenchmarkRound is one message to 25 clients that wait for it: it is sent, each gets its answer and asks again. What
// package web does is part of it.
func BenchmarkRound(b *testing.B) {
	h, room, all := roomOf(b, "sqlite", 25)
	server, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler), Authenticator: h.node.People})
	if err != nil {
		b.Fatal(err)
	}
	server.Add(h.routes...)
	alice := h.as(b, "alice")
	alice.say(room, "first")
	var users []*user
	answered := make(chan struct{}, 1<<16)
	var ends atomic.Bool
	var clients sync.WaitGroup
	for i, c := range all {
		name := fmt.Sprintf("u%d", i)
		u, err := h.user(b.Context(), id(name))
		if err != nil {
			b.Fatal(err)
		}
		users = append(users, u)
		since := c.sync("set_presence", "offline", "filter", `{"room":{"state":{"lazy_load_members":true}}}`).Get("next_batch").String()
		query := "/sync?set_presence=offline&timeout=60000&filter=" + url.QueryEscape(`{"room":{"state":{"lazy_load_members":true}}}`) + "&since="
		clients.Go(func() {
			for !ends.Load() {
				w := httptest.NewRecorder()
				r := httptest.NewRequest("GET", api+query+since, nil)
				r.Header.Set("Authorization", "Bearer "+name)
				server.Handler().ServeHTTP(w, r)
				since = gjson.GetBytes(w.Body.Bytes(), "next_batch").String()
				answered <- struct{}{}
			}
		})
	}
	allWait := func() {
		for _, u := range users {
			for u.requests.Load() == 0 {
				runtime.Gosched()
			}
		}
	}
	allWait()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		alice.say(room, "next")
		for range all {
			<-answered
		}
		allWait()
	}
	b.StopTimer()
	ends.Store(true)
	alice.say(room, "last")
	clients.Wait()
}
