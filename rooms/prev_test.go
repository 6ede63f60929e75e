package rooms

import (
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lyceum/accounts"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

// prev_content is of the event before: a redaction of that takes it out wherever the later one was read already.
func TestWhatWasReplacedIsRedactedInItsSuccessor(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		old := h.alice.state(id, "m.room.topic", "", obj{"topic": "secret"})
		now := h.alice.state(id, "m.room.topic", "", obj{"topic": "fine"})
		for _, secret := range []bool{true, false} {
			for _, read := range []string{
				"event/" + esc(now), "state/m.room.topic/?format=event", "state", "messages?dir=b&limit=50",
				"context/" + esc(now),
			} {
				a := h.alice.Want(200, at("GET", id, read), nil)
				if !strings.Contains(string(a.Body), now) || strings.Contains(string(a.Body), "secret") != secret {
					t.Errorf("%s, secret expected: %v: %s", read, secret, a.Body)
				}
			}
			h.alice.Want(200, at("PUT", id, "redact/"+esc(old)+"/r"), obj{})
		}
		if n := len(h.replacers); n == 0 || n > h.cache.EstimatedSize() {
			t.Errorf("%d events that replaced others are known, %d are cached", n, h.cache.EstimatedSize())
		}
		h.cache.InvalidateAll()
		if n := len(h.replacers); n != 0 {
			t.Errorf("nothing is cached, and %d events that replaced others are known", n)
		}
	})
}

// behindGate makes rooms of a process that is not started, whose commits wait while the gate is shut. Of what waits the queue takes so
// many; 0: the usual.
func behindGate(t *testing.T, queue int) (*dbfault.SQLite, *role.Process, *Rooms) {
	t.Helper()
	gate := dbfault.NewSQLite()
	t.Cleanup(gate.Close)
	d, err := db.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "test.db"), db.Options{Driver: gate.Driver()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := db.Migrate(t.Context(), d, slog.New(slog.DiscardHandler), lease.Migrations(), accounts.Migrations(), Migrations()); err != nil {
		t.Fatal(err)
	}
	p := roletest.New(t, d)
	p.Streams = stream.New(stream.Options{DB: d, Bus: p.Bus, Leases: p.Leases, Log: p.Log, Queue: queue})
	return gate, p, wire(t, p)
}

// openBehind starts the process and makes a public room.
func openBehind(t *testing.T, gate *dbfault.SQLite, p *role.Process, r *Rooms, creator string) (room string) {
	t.Helper()
	roletest.Start(t, p)
	t.Cleanup(gate.Open) // before the process stops, which waits for its commits
	room, err := r.Create(t.Context(), creator, &Create{Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	return room
}

// The owner builds upon what it queued: a redaction that is not stored yet counts for what replaces its target.
func TestWhatIsBeingRedactedIsNotTakenIntoItsSuccessor(t *testing.T) {
	ctx := t.Context()
	gate, p, r := behindGate(t, 0)
	var mu sync.Mutex
	told := map[string]string{} // what was replaced, as the tails of this process get it
	r.stream.Subscribe(func(rows []stream.Row) {
		mu.Lock()
		defer mu.Unlock()
		for _, row := range rows {
			if e, err := r.FromRow(row); err == nil {
				told[e.ID] = string(e.PrevContent)
			}
		}
	})
	const alice = "@alice:example.org"
	id := openBehind(t, gate, p, r, alice)
	topic := func(text string) Send {
		return Send{Sender: alice, Type: "m.room.topic", StateKey: new(string), Content: encodeJSON(map[string]string{"topic": text})}
	}
	old, err := r.Send(ctx, id, topic("secret"))
	if err != nil {
		t.Fatal(err)
	}
	r.owned.Drop(r.stream.Shard(id)) // what it knows of the state is read again
	gate.Shut()
	type result struct {
		id  string
		err error
	}
	results := make(chan result, 2)
	start := func(req Send) {
		go func() {
			id, err := r.Send(ctx, id, req)
			results <- result{id, err}
		}()
	}
	queued := func(typ string) func() bool {
		return func() (last bool) {
			r.owned.Peek(ctx, id, func(rm *room) {
				last = rm.lastEventID != "" && rm.recent[rm.lastEventID] != nil && rm.recent[rm.lastEventID].Type == typ
			})
			return last
		}
	}
	start(Send{Sender: alice, Type: event.TypeRedaction, Redacts: old})
	roletest.Until(t, "the redaction is queued", queued(event.TypeRedaction))
	start(topic("fine"))
	roletest.Until(t, "the new topic is queued behind it", queued("m.room.topic"))
	gate.Open()
	ids := map[string]bool{}
	for range 2 {
		got := <-results
		if got.err != nil {
			t.Fatal(got.err)
		}
		ids[got.id] = true
	}
	roletest.Until(t, "the events are told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		n := 0
		for id := range ids {
			prev, ok := told[id]
			if ok {
				n++
			}
			if strings.Contains(prev, "secret") {
				t.Fatal("an event is told with what it replaced, as that was before the redaction")
			}
		}
		return n == 2
	})
}
