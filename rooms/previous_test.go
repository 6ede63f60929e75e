package rooms

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/platform/web/webtest"
)

// TestWhatWasReplacedIsShownToWhoMaySeeIt: prev_content is given to one who may see the event that was replaced, or was a member
// when it was, and had it as the state of the room. So it is by every way in which events are read.
func TestWhatWasReplacedIsShownToWhoMaySeeIt(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for history, hidden := range map[string]string{
			"world_readable": "", "shared": "", "invited": "before away", "joined": "before invited away",
		} {
			id := h.alice.create(
				obj{
					"preset":        "public_chat",
					"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": history}}},
				},
			)
			h.carol.join(id)
			secret := map[string]bool{} // of the events: may not be seen by bob
			var all []string
			set := func(who *person, typ, key, text string) {
				t.Helper()
				content := obj{"topic": text}
				if typ == "m.room.member" {
					content = obj{"membership": "join", "displayname": text}
				}
				e := who.state(id, typ, key, content)
				secret[e] = strings.Contains(hidden, strings.Fields(text)[0])
				all = append(all, e)
			}
			round := func(when string) {
				set(h.alice, "m.room.topic", "", when+" 1")
				set(h.carol, "m.room.member", h.carol.id, when+" 1")
				for n := range 2 { // nobody changes these any more
					set(h.alice, "org.example."+when, "", fmt.Sprint(when, " ", n))
				}
			}
			last := func(when string) { // what is the state when bob comes is no secret
				set(h.alice, "m.room.topic", "", when+" 2")
				set(h.carol, "m.room.member", h.carol.id, when+" 2")
				for _, e := range all[len(all)-2:] {
					secret[e] = false
				}
			}
			for n := range 2 {
				set(h.alice, "m.room.member", h.alice.id, fmt.Sprint("before ", n))
			}
			round("before")
			h.alice.invite(id, h.bob.id)
			round("invited")
			last("invited")
			check := func(when string) {
				t.Helper()
				token := h.bob.Want(200, at("GET", id, "messages?dir=b&limit=3"), nil)
				ways := []string{
					"messages?dir=b&limit=100", "messages?dir=f&limit=100", "messages?dir=b&limit=1&filter=" + esc(`{"lazy_load_members":true}`),
					"state", "members",
				}
				for _, name := range []string{"start", "end"} {
					if way := "members?at=" + token.Get(name).String(); h.bob.Call(at("GET", id, way), nil).Status == 200 {
						ways = append(ways, way)
					}
				}
				for _, typ := range []string{
					"m.room.topic", "m.room.member/" + h.alice.id, "m.room.member/" + h.carol.id,
					"m.room.member/" + h.bob.id, "org.example.before",
				} {
					ways = append(ways, "state/"+typ+"?format=event")
				}
				for _, e := range all {
					for _, way := range []string{
						"event/" + esc(e), "context/" + esc(e),
						"context/" + esc(e) + "?filter=" + esc(`{"lazy_load_members":true}`),
					} {
						if h.bob.Call(at("GET", id, way), nil).Status == 200 {
							ways = append(ways, way)
						}
					}
				}
				for _, way := range ways {
					n := 0
					webtest.Events(gjson.ParseBytes(h.bob.Want(200, at("GET", id, way), nil).Body), func(e gjson.Result) {
						replaced := e.Get("unsigned.replaces_state").String()
						if replaced == "" {
							return
						}
						n++
						if given := e.Get("unsigned.prev_content").Exists(); given == secret[replaced] || given != e.Get("unsigned.prev_sender").Exists() {
							t.Errorf("%s, %s, %s: shown: %v: %s", history, when, way, given, e)
						}
					})
					if n == 0 && !strings.HasPrefix(way, "event/") && !strings.HasPrefix(way, "messages?dir=b&limit=1&") &&
						!strings.HasPrefix(way, "members?at=") {
						t.Errorf("%s, %s, %s: no state that replaced another", history, when, way)
					}
				}
			}
			h.bob.join(id)
			check("joined")
			round("joined")
			check("stayed")
			h.bob.leave(id)
			check("left")
			round("away")
			check("away")
			last("away")
			h.bob.join(id)
			check("back")
			round("again")
			check("stayed again")
			h.alice.state(id, "m.room.history_visibility", "", obj{"history_visibility": "joined"})
			check("closed")
			h.alice.state(id, "m.room.history_visibility", "", obj{"history_visibility": "shared"})
			round("open")
			check("opened")
		}
	})
}

// TestMembersOfATime are for those who may see what was said then.
func TestMembersOfATime(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for history, may := range map[string]map[string]bool{
			"world_readable": {"before": true, "invited": true, "joined": true, "away": true, "back": true},
			"shared":         {"before": true, "invited": true, "joined": true, "away": true, "back": true},
			"invited":        {"invited": true, "joined": true, "back": true},
			"joined":         {"joined": true, "back": true},
		} {
			id := h.alice.create(
				obj{
					"preset":        "public_chat",
					"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": history}}},
				},
			)
			tokens := map[string]string{}
			then := func(when string) {
				h.alice.say(id, when)
				tokens[when] = h.alice.Want(200, at("GET", id, "messages?dir=b&limit=1"), nil).Get("start").String()
			}
			then("before")
			h.alice.invite(id, h.bob.id)
			then("invited")
			h.bob.join(id)
			then("joined")
			h.bob.leave(id)
			then("away")
			h.bob.join(id)
			then("back")
			h.alice.say(id, "now")
			for when, token := range tokens {
				status := 403
				if may[when] {
					status = 200
				}
				if got := h.bob.Call(at("GET", id, "members?at="+token), nil); got.Status != status {
					t.Errorf("%s, %s: expected %d, found %d %s", history, when, status, got.Status, got.Body)
				}
			}
		}
	})
}
