package syncapi

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"lyceum/platform/caller"
	"lyceum/platform/conf"
	"lyceum/platform/web"
)

var ago = regexp.MustCompile(`"last_active_ago":\d+`)

// TestAnswersOfAnySize: an answer that is too large to be held in memory is sent while it is built, and has the same content.
func TestAnswersOfAnySize(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		long := strings.Repeat("x", 50_000)
		small := h.room(t, "alice", "bob")
		before := bob.sync().Get("next_batch").String()
		var rooms []string
		for range 3 {
			rooms = append(rooms, h.room(t, "alice", "bob"))
		}
		after := bob.sync().Get("next_batch").String()
		for _, room := range rooms {
			for n := range 12 {
				alice.state(room, "m.test", fmt.Sprint(n), obj{"x": long})
			}
			for range 25 { // so that they are not in the timeline
				alice.say(room, "said")
			}
		}
		alice.create(obj{"invite": []string{id("bob")}, "name": "Invited"})
		alice.say(small, "news")
		for name, parameters := range map[string][]string{
			"first":         nil,
			"lazy":          {"filter", `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`},
			"since before":  {"since", before},
			"since after":   {"since", after},
			"full state":    {"since", after, "full_state", "true"},
			"state after":   {"since", after, "use_state_after", "true"},
			"nothing joins": {"filter", `{"room":{"rooms":[]}}`},
		} {
			parameters = append(parameters, "set_presence", "offline")
			bob.since = ""
			whole := bob.peek(parameters...)
			if length := whole.Header.Get("Content-Length"); length == "" {
				t.Errorf("%s: an answer of %d bytes was sent as it was built", name, len(whole.Body))
			}
			h.streamedBytes = 300_000
			pieces := bob.peek(parameters...)
			h.streamedBytes = streamedBytes
			if large := len(whole.Body) > 1<<20; large != (pieces.Header.Get("Content-Length") == "") || large == (name == "nothing joins") {
				t.Errorf("%s: an answer of %d bytes has the length %q", name, len(pieces.Body), pieces.Header.Get("Content-Length"))
			}
			if ago.ReplaceAllString(string(pieces.Body), "") != ago.ReplaceAllString(string(whole.Body), "") {
				t.Errorf("%s: %d bytes in pieces differ from %d as a whole", name, len(pieces.Body), len(whole.Body))
			}
			bob.since = pieces.Get("next_batch").String()
			if rest := bob.peek("set_presence", "offline"); rest.Get("rooms").Exists() {
				t.Errorf("%s: then came %s", name, rest.Body)
			}
		}
	})
}

// TestNobodyIsKeptFromSync: /sync answers whatever others send to rooms or invite to, also beside clients that do not read their answers.
func TestNobodyIsKeptFromSync(t *testing.T) {
	h := open(t, "sqlite")
	alice, bob := h.as(t, "alice"), h.as(t, "bob")
	room := h.room(t, "alice", "bob", "carol", "dave", "erin")
	long := strings.Repeat("x", 60_000)
	for n := range 350 { // more than a process holds for all clients
		alice.state(room, "m.test", fmt.Sprint(n), obj{"x": long})
	}
	server, err := web.New(web.Options{
		Log: slog.New(slog.DiscardHandler), Authenticator: h.node.People,
		Config: web.Config{MaxInFlight: 16 << 20, SendTimeout: conf.Duration(time.Minute)},
	})
	if err != nil {
		t.Fatal(err)
	}
	server.Add(h.routes...)
	on := httptest.NewServer(server.Handler())
	defer on.Close()
	defer on.CloseClientConnections()
	get := func(name string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, on.URL+api+"/sync?set_presence=offline", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+name)
		answer, err := on.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = answer.Body.Close() })
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("%s got %d", name, answer.StatusCode)
		}
		return answer
	}
	for _, name := range []string{"carol", "dave", "erin"} { // as many as there are slots
		get(name)
	}
	if n, err := io.Copy(io.Discard, get("bob").Body); err != nil || n < 20<<20 {
		t.Errorf("%d bytes came: %v", n, err)
	}
	bob.do(room, "leave", nil)
}

// blockedWriter takes a part of an answer, and then blocks until it is released.
type blockedWriter struct {
	sink
	reached func()
	falls   chan struct{}
}

func (w *blockedWriter) Write(p []byte) (int, error) {
	if w.bytes > 1<<20 && w.reached != nil {
		w.reached()
		<-w.falls
	}
	return w.sink.Write(p)
}

// TestASlowClientHoldsLittle: an answer that waits for its client holds little memory, as little is charged for it and many may wait.
func TestASlowClientHoldsLittle(t *testing.T) {
	const each, charged = 4, 3 << 20
	h := open(t, "sqlite")
	alice := h.as(t, "alice")
	names := []string{"alice", "bob", "carol", "dave"}
	room := h.room(t, "alice", names[1:]...)
	long := strings.Repeat("x", 60_000)
	for n := range stateAtOnce - 20 {
		alice.state(room, "m.test", fmt.Sprint(n), obj{"x": long})
	}
	server, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler), Authenticator: h.node.People})
	if err != nil {
		t.Fatal(err)
	}
	server.Add(h.routes...)
	live := func() int {
		runtime.GC()
		runtime.GC() // also what pools held
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	ask := func(name string, w *blockedWriter) {
		w.header, w.status = http.Header{}, http.StatusOK
		r := httptest.NewRequest("GET", api+"/sync?set_presence=offline", nil)
		r.Header.Set("Authorization", "Bearer "+name)
		server.Handler().ServeHTTP(w, r)
		if w.status != http.StatusOK || w.bytes < 10<<20 || w.last != '}' {
			t.Errorf("%s: status %d, %d bytes that end with %q", name, w.status, w.bytes, w.last)
		}
	}
	ask("alice", &blockedWriter{}) // fills what has bounds of its own
	before := live()
	var reached, ended sync.WaitGroup
	falls := make(chan struct{})
	for _, name := range names {
		for range each {
			reached.Add(1)
			w := &blockedWriter{reached: sync.OnceFunc(reached.Done), falls: falls}
			ended.Go(func() {
				defer w.reached() // also of one that was refused
				ask(name, w)
			})
		}
	}
	reached.Wait()
	held := (live() - before) / each / len(names)
	close(falls)
	ended.Wait()
	t.Logf("a reader held %d KiB", held>>10)
	if held > charged {
		t.Errorf("a reader that does not read held %d KiB, expected %d at most", held>>10, charged>>10)
	}
}

// TestAnInitialAnswerOfFewRoomsWaitsForNoSlot: it needs no slot for a large answer, which others may hold for long.
func TestAnInitialAnswerOfFewRoomsWaitsForNoSlot(t *testing.T) {
	h := open(t, "sqlite")
	room := h.room(t, "alice", "bob")
	others := make([]queueUser, h.largeSlots.free)
	for i := range others {
		if !h.largeSlots.tryAcquire(&others[i]) {
			t.Fatal("no place is free")
		}
		defer h.largeSlots.release(&others[i], 0)
	}
	if a := h.as(t, "bob").sync("set_presence", "offline"); !in(a, "join", room, "").Exists() {
		t.Errorf("the room is not in %s", a.Body)
	}
}

// TestARequestWithASlotWaitsForNobody: its statements are not queued behind others, as other requests wait for the slot.
func TestARequestWithASlotWaitsForNobody(t *testing.T) {
	h := open(t, "sqlite")
	work := caller.NewWork(t.Context(), caller.ID{User: id("alice")})
	u, err := h.user(work, id("alice"))
	if err != nil {
		t.Fatal(err)
	}
	q := query{s: h.Sync, user: u, scratch: &scratch{}}
	holds := func(want int32) {
		t.Helper()
		if n := work.HeldResources.Load(); n != want {
			t.Errorf("it holds %d, expected %d", n, want)
		}
	}
	if err := q.acquireLarge(work); err != nil {
		t.Fatal(err)
	}
	holds(1)
	q.releaseLarge()
	holds(0)
	if err := q.acquireSmall(work); err != nil { // of one that becomes large
		t.Fatal(err)
	}
	if err := q.chargeBytes(work, largeBytes); err != nil {
		t.Fatal(err)
	}
	holds(1)
	q.releaseSlot()
	holds(0)
}

// TestARequestThatWaitsForASlotHoldsNothing: many may wait, each for an answer with all of its account data.
func TestARequestThatWaitsForASlotHoldsNothing(t *testing.T) {
	h := open(t, "sqlite")
	room := h.room(t, "bob")
	bob := h.as(t, "bob")
	for _, of := range []string{"", "/rooms/" + url.PathEscape(room)} {
		bob.Want(200, "PUT "+api+"/user/"+url.PathEscape(id("bob"))+of+"/account_data/m.test", obj{"x": strings.Repeat("x", largeBytes)})
	}
	u, err := h.user(t.Context(), id("bob"))
	if err != nil {
		t.Fatal(err)
	}
	others := make([]queueUser, h.largeSlots.free)
	for i := range others {
		if !h.largeSlots.tryAcquire(&others[i]) {
			t.Fatal("no place is free")
		}
		defer h.largeSlots.release(&others[i], 0)
	}
	q := query{s: h.Sync, user: u, filter: &filter{}, scratch: &scratch{}}
	q.initial = true
	h.takeSnapshot(u, &q.snapshot, 0, false)
	q.upto = q.positions
	if _, _, err := q.buildSmall(t.Context()); !errors.Is(err, errLarge) {
		t.Errorf("it ended with %v", err)
	}
	if q.global != nil || q.roomData != nil || q.ignored != nil {
		t.Errorf("it holds %d bytes of account data, and that of %d rooms", bytesOfData(q.global), len(q.roomData))
	}
}
