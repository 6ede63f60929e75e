package push

import (
	"context"
	"errors"
	"testing"

	"lyceum/rooms"
)

// The evaluation of rules, which may be costly, ends when nobody waits for the count.
func TestACountEndsWithItsRequest(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		const user, said = "@bob:here.test", 40
		room := n.Room(t, "alice", "bob")
		n.Say(t, "alice", room, "first")
		n.wantUnread(t, "bob", room, 1, 0) // what the rules ask for is in memory from now on
		for range said {
			n.Say(t, "alice", room, "more")
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if c, err := n.Unread(gone, user, room); !errors.Is(err, context.Canceled) {
			t.Errorf("a count that nobody waits for: %+v, %v", c, err)
		}

		// Only the first events are looked at: those behind are none.
		rules, err := n.rulesOf(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		l, e := n.entry(user, room)
		events, ok := l.after(e, rules)
		if !ok || len(events) != said {
			t.Fatalf("expected %d events that are not counted, found %d, %t", said, len(events), ok)
		}
		holes := append([]*rooms.Event(nil), events...)
		clear(holes[said/2 : said-1])
		defer func() {
			if recover() != nil {
				t.Error("events were evaluated after the request had ended")
			}
		}()
		if err := n.advance(gone, reader{user, room, l, e, rules}, holes); !errors.Is(err, context.Canceled) {
			t.Errorf("found %v", err)
		}
		n.wantUnread(t, "bob", room, said+1, 0)
	})
}
