package push

import (
	"context"
	"errors"
	"net/url"
	"testing"

	"lyceum/platform/role/roletest"
	"lyceum/rooms"
	"lyceum/rooms/roomstest"
)

// The evaluation of rules, which may be costly, ends when the request for the count has ended.
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
		l, e := n.userCount(user, room)
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
		if err := n.advance(gone, unreadQuery{user, room, l, e, rules}, holes); !errors.Is(err, context.Canceled) {
			t.Errorf("found %v", err)
		}
		n.wantUnread(t, "bob", room, said+1, 0)
	})
}

// changes are changes of the facts of a room, each with a message that highlights only after it.
var changes = []struct {
	name, who, state string
	content          obj
	says             string
	more             obj
}{
	{
		"the power levels",
		"alice",
		"m.room.power_levels/",
		obj{"notifications": obj{"room": 0}},
		"@room look",
		obj{"m.mentions": obj{"room": true}},
	},
	{
		"the name of the user",
		"bob",
		"m.room.member/@bob:here.test",
		obj{"membership": "join", "displayname": "Zaphod"},
		"Zaphod, are you there?",
		nil,
	},
}

// TestACountThatStandsStillKeepsNothingOld: a change of the state comes between the events that a count takes and the state that it reads.
// The facts that it keeps then count for all later events.
func TestACountThatStandsStillKeepsNothingOld(t *testing.T) {
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			harness.Run(t, func(t *testing.T, n *node) {
				const user = "@bob:here.test"
				room := n.Room(t, "alice", "bob", "carol")
				n.Say(t, "alice", room, "first")
				n.wantUnread(t, "bob", room, 1, 0)
				n.Say(t, "alice", room, "second")
				rules, err := n.rulesOf(t.Context(), user)
				if err != nil {
					t.Fatal(err)
				}
				l, e := n.userCount(user, room)
				var events []*rooms.Event
				roletest.Until(t, "what was said is heard", func() bool { events, _ = l.after(e, rules); return len(events) == 1 })
				n.HTTP.As(c.who).Want(200, "PUT "+roomstest.API+"/rooms/"+url.PathEscape(room)+"/state/"+c.state, c.content)
				roletest.Until(t, "the change is heard", func() bool { heard, _ := l.after(e, rules); return len(heard) == 2 })
				e.evaluating.Lock()
				err = n.advance(t.Context(), unreadQuery{user, room, l, e, rules}, events)
				e.evaluating.Unlock()
				if err != nil {
					t.Fatal(err)
				}
				n.Say(t, "carol", room, c.says, c.more)
				n.wantUnread(t, "bob", room, 3, 1)
				n.forgetCounts()
				n.wantUnread(t, "bob", room, 3, 1)
			})
		})
	}
}

// TestAnOldEventSaysNothingOfNow: an event is evaluated that is older than a change made before anybody asked for the room, so that the
// subscription never brings the change.
func TestAnOldEventSaysNothingOfNow(t *testing.T) {
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			harness.Run(t, func(t *testing.T, n *node) {
				room := n.Room(t, "alice", "bob", "carol")
				old := n.Say(t, "alice", room, "old")
				n.HTTP.As(c.who).Want(200, "PUT "+roomstest.API+"/rooms/"+url.PathEscape(room)+"/state/"+c.state, c.content)
				n.worked(t)
				n.forgetCounts()
				e, err := n.Rooms.Event(t.Context(), old)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := n.evaluate(t.Context(), "@bob:here.test", e); err != nil {
					t.Fatal(err)
				}
				n.Say(t, "carol", room, c.says, c.more)
				if c := n.unread(t, "bob", room); c.Highlight != 1 {
					t.Errorf("expected that it highlights, found %+v", c)
				}
			})
		})
	}
}
