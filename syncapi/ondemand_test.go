package syncapi

import (
	"path/filepath"
	"sync"
	"testing"

	"lyceum/platform/engines/enginestest"
)

// A process without the role sync keeps nothing in memory until a client asks it. Then it answers like one with the role.
func TestServesWithoutTheRole(t *testing.T) {
	writers := []string{"events", "receipts", "typing", "presence", "todevice", "accountdata", "devicelists"}
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			target := "sqlite:" + filepath.Join(t.TempDir(), "test.db")
			if engine == "postgres" {
				target = enginestest.TestPostgres(t)
			}
			h := startAs(t, target, writers)
			alice, bob := h.as(t, "alice"), h.as(t, "bob")
			room := h.room(t, "alice", "bob")
			first := bob.say(room, "before")
			for _, tail := range h.subscriptions {
				if tail.IsActive() {
					t.Fatal("a tail is on that no role of the process needs")
				}
			}
			if h.mu.RLock(); len(h.events.byKey) > 0 {
				t.Error("events are kept in memory")
			}
			h.mu.RUnlock()
			var wg sync.WaitGroup
			for range 4 { // the first requests come at once
				wg.Go(func() { h.as(t, "bob").sync() })
			}
			a := alice.sync()
			wg.Wait()
			same(t, "what was before", bodies(in(a, "join", room, "timeline.events")), "[before]")
			same(t, "unread", in(a, "join", room, "unread_notifications.notification_count"), 1)
			bob.say(room, "after")
			bob.do(room, "receipt/m.read/"+first, nil)
			bob.Want(200, "PUT "+at(room, "typing/"+id("bob")), obj{"typing": true})
			a = alice.sync()
			same(t, "news", bodies(in(a, "join", room, "timeline.events")), "[after]")
			same(t, "unread", in(a, "join", room, "unread_notifications.notification_count"), 2)
			same(t, "others", len(in(a, "join", room, "ephemeral.events").Array()), 2)
			bob.Want(200, "PUT "+at(room, "redact/"+first+"/r"), obj{})
			fresh := h.as(t, "alice")
			a = fresh.sync()
			for _, e := range in(a, "join", room, "timeline.events").Array() {
				if e.Get("event_id").String() == first && e.Get("content.body").Exists() {
					t.Errorf("a redacted event is shown: %s", e)
				}
			}
		})
	}
}
