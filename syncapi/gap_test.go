package syncapi

import (
	"testing"
)

// A client takes "state", then the timeline. When it does not get all events after the first of the timeline, that must
// lead to the current state all the same.
func TestATimelineWithGapsLeadsToTheCurrentState(t *testing.T) {
	joined := obj{
		"preset":        "public_chat",
		"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}},
	}
	for _, c := range []struct {
		name, filter, key string
		between           func(alice, bob *client, room string) // bob and carol are members
	}{
		{"away from hidden history", "", "m.room.member|" + id("dave"), func(alice, bob *client, room string) {
			alice.do(room, "invite", obj{"user_id": id("dave")})
			bob.do(room, "leave", nil)
			bob.as("dave").do(room, "join", nil)
			bob.do(room, "join", nil)
			bob.say(room, "back")
		}},
		{"members read lazily", `{"room":{"state":{"lazy_load_members":true}}}`, "m.room.member|" + id("carol"), func(_, bob *client,
			room string,
		) {
			carol := bob.as("carol")
			carol.say(room, "hello")
			bob.do(room, "leave", nil)
			carol.state(room, "m.room.member", id("carol"), obj{"membership": "join", "displayname": "C"})
			bob.do(room, "join", nil)
		}},
		{"some senders are filtered out", `{"room":{"timeline":{"not_senders":["` + id("alice") + `"]}}}`, "m.room.topic|", func(alice,
			bob *client, room string,
		) {
			bob.state(room, "m.room.topic", "", obj{"topic": "old"})
			alice.state(room, "m.room.topic", "", obj{"topic": "new"})
			bob.say(room, "one")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(t *testing.T, h *testNode) {
				alice, bob := h.as(t, "alice"), h.as(t, "bob")
				room := alice.create(joined)
				for _, who := range []string{"bob", "carol"} {
					h.as(t, who).do(room, "join", nil)
				}
				alice.state(room, "m.room.power_levels", "", obj{"users": obj{id("bob"): 100}})
				more := []string{"set_presence", "offline"}
				if c.filter != "" {
					more = append(more, "filter", c.filter)
				}
				follow, late := newWatcher(bob, "bob", false), newWatcher(h.as(t, "bob2"), "bob", false)
				look := func(w *watcher) {
					a := w.sync(more...)
					for _, list := range []string{"state.events", "timeline.events"} {
						for _, e := range in(a, "join", room, list).Array() {
							if e.Get("state_key").Exists() {
								w.put(room, e)
							}
						}
					}
				}
				look(follow)
				c.between(alice, bob, room)
				look(follow)
				look(late)
				events := alice.Want(200, "GET "+at(room, "state"), nil)
				for _, e := range events.Get("@this").Array() {
					if stateKey(e) != c.key {
						continue
					}
					for name, w := range map[string]*watcher{"one who follows": follow, "a new device": late} {
						if got := w.state[room][c.key]; got != e.Get("event_id").String() {
							t.Errorf("%s has %s as %s, now is %s", name, got, c.key, e)
						}
					}
				}
			})
		})
	}
}
