package syncapi

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// The members that devices have are the same as in a simple map from members to event ids, also when answers are lost.
func TestLazyMembersAsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLazyMembers()
		const device = "@a:b\x00D"
		var at vector
		has, pending := map[string]string{}, map[string]string{}
		l.noteSent(device, nil, &at, []sentMember{l.hashOf("!r", "u0", "$first")})
		pending["u0"] = "$first"
		for step := range rapid.IntRange(1, 30).Draw(t, "answers") {
			from := at
			lost := step > 0 && rapid.IntRange(0, 3).Draw(t, "lost") == 0
			if lost {
				from[0]--
			}
			got := l.sentTo(device, &from)
			if lost {
				if step > 0 {
					pending = map[string]string{}
				}
			} else {
				for k, v := range pending {
					has[k] = v
				}
				pending = map[string]string{}
			}
			for n := range 6 {
				user := fmt.Sprint("u", n)
				for _, id := range []string{"$first", "$0", "$1", "$2"} {
					if want := has[user] == id; got.contains(l.hashOf("!r", user, id)) != want {
						t.Fatalf("step %d: the device has %s of %s: %v, expected %v", step, id, user, !want, want)
					}
				}
			}
			var answer []sentMember
			for range rapid.IntRange(0, 5).Draw(t, "given") {
				user, id := fmt.Sprint("u", rapid.IntRange(0, 5).Draw(t, "user")), fmt.Sprint("$", rapid.IntRange(0, 2).Draw(t, "event"))
				answer = append(answer, l.hashOf("!r", user, id))
				pending[user] = id
			}
			at = from
			at[0]++
			l.noteSent(device, &from, &at, answer)
		}
	})
}

// TestWhoLeftInAGapIsTold: a client that asks for the full state is told too, as it may keep the old membership else.
func TestWhoLeftInAGapIsTold(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob, carol := h.as(t, "alice"), h.as(t, "bob"), h.as(t, "carol")
		for _, full := range []string{"false", "true"} {
			for _, section := range []string{"state", "state_after"} {
				room := alice.create(obj{"preset": "public_chat"})
				bob.do(room, "join", nil)
				carol.do(room, "join", nil)
				carol.say(room, "hello")
				more := []string{
					"filter",
					`{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`,
					"full_state",
					full,
					"use_state_after",
					fmt.Sprint(section == "state_after"),
				}
				alice.sync(more...)
				carol.do(room, "leave", nil)
				for n := range 3 {
					bob.say(room, fmt.Sprint(n))
				}
				told := map[string]string{}
				for _, e := range in(alice.sync(more...), "join", room, section+".events").Array() {
					if e.Get("type").String() == "m.room.member" {
						told[e.Get("state_key").String()] = e.Get("content.membership").String()
					}
				}
				if told[id("carol")] != "leave" {
					t.Errorf("full_state %s: carol is not told to have left in %s: %v", full, section, told)
				}
			}
		}
	})
}
