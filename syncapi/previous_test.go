package syncapi

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/platform/web/webtest"
)

// TestWhatWasReplacedIsShownToWhoMaySeeIt: an answer has prev_content for a user who may see the event that was replaced, or was a
// member when it was replaced.
func TestWhatWasReplacedIsShownToWhoMaySeeIt(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob, carol := h.as(t, "alice"), h.as(t, "bob"), h.as(t, "carol")
		for history, hidden := range map[string]string{
			"world_readable": "", "shared": "", "invited": "before away", "joined": "before invited away",
		} {
			room := alice.create(
				obj{
					"preset":        "public_chat",
					"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": history}}},
				},
			)
			carol.do(room, "join", nil)
			secret := map[string]bool{} // of the events: may not be seen by bob
			round := func(when string) {
				for n := range 3 {
					text := fmt.Sprint(when, " ", n)
					for _, e := range []string{
						alice.state(room, "m.room.topic", "", obj{"topic": text}),
						alice.state(room, "org.example."+when, "", obj{"topic": text}),
						carol.state(room, "m.room.member", id("carol"), obj{"membership": "join", "displayname": text}),
					} { // what is the state when bob comes is no secret
						secret[e] = strings.Contains(hidden, when) && (n < 2 || when == "before")
					}
				}
				carol.say(room, when)
			}
			seen := 0
			check := func(when string, a gjson.Result) {
				t.Helper()
				webtest.Events(a, func(e gjson.Result) {
					replaced := e.Get("unsigned.replaces_state").String()
					if is, known := secret[replaced]; known {
						seen++
						if given := e.Get("unsigned.prev_content").Exists(); given == is || given != e.Get("unsigned.prev_sender").Exists() {
							t.Errorf("%s, %s: shown: %v: %s", history, when, given, e)
						}
					}
				})
			}
			filters := []string{
				`{}`,
				`{"room":{"timeline":{"limit":100}}}`,
				`{"room":{"timeline":{"limit":1}}}`,
				`{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":1}}}`,
			}
			anew := func(when string) {
				t.Helper()
				for _, filter := range filters {
					for _, after := range []string{"true", "false"} {
						seen = 0
						for _, more := range [][]string{{"full_state", "true"}, {"full_state", "false"}} {
							a := (&client{Client: bob.Client, t: t}).peek(append(more, "filter", filter, "use_state_after", after)...)
							check(when, in(a, "join", room, ""))
							check(when+" later", in(bob.peek(append(more, "filter", filter, "use_state_after", after)...), "join", room, ""))
						}
						if seen == 0 {
							t.Errorf("%s, %s: nothing is looked at", history, when)
						}
					}
				}
			}
			round("before")
			alice.do(room, "invite", obj{"user_id": id("bob")})
			bob.sync()
			round("invited")
			bob.do(room, "join", nil)
			anew("joined")
			round("joined")
			anew("stayed")
			bob.sync()
			round("again")
			anew("stayed long")
			bob.do(room, "leave", nil)
			for _, filter := range filters {
				check("left", in(bob.peek("filter", filter), "leave", room, ""))
			}
			check("long left", in((&client{Client: bob.Client, t: t}).peek("filter", `{"room":{"include_leave":true}}`), "leave", room, ""))
			round("away")
			check("away", in(bob.peek(), "leave", room, ""))
			bob.do(room, "join", nil)
			anew("back")
			bob.sync()
			round("later")
			anew("stayed again")
			bob.sync()
			bob.do(room, "leave", nil)
			alice.do(room, "ban", obj{"user_id": id("bob")})
			check("banned", in(bob.sync(), "leave", room, ""))
		}
	})
}

// TestNewStateCostsMembersNoStatement: a member may see what was replaced, so nothing is read to decide it.
func TestNewStateCostsMembersNoStatement(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			h, room, all := roomOf(t, engine, 30)
			alice := h.as(t, "alice")
			alice.state(room, "m.room.history_visibility", "", obj{"history_visibility": "joined"})
			alice.state(room, "m.room.topic", "", obj{"topic": "first"})
			for _, c := range all {
				c.sync("set_presence", "offline")
			}
			alice.state(room, "m.room.topic", "", obj{"topic": "second"})
			alice.say(room, "hello")
			statements := h.statements.Load()
			for _, c := range all {
				a := in(c.sync("set_presence", "offline"), "join", room, "timeline.events")
				same(t, "replaced", a.Get("0.unsigned.prev_content.topic").String(), "first")
			}
			if n := h.statements.Load() - statements; n > int64(len(all))/2 { // by background parts
				t.Errorf("%d statements for %d receivers", n, len(all))
			}
		})
	}
}
