package syncapi

import (
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/platform/web"
)

// sections checks that a room has the parts that clients read without a check.
func sections(t *testing.T, what string, room gjson.Result, names ...string) {
	t.Helper()
	for _, name := range names {
		part := room.Get(name)
		if !part.IsObject() || name != "summary" && name != "unread_notifications" && !part.Get("events").IsArray() {
			t.Errorf("%s: %s is missing: %s", what, name, room.Raw)
		}
	}
	if tl := room.Get("timeline"); !tl.Get("limited").IsBool() || tl.Get("prev_batch").String() == "" {
		t.Errorf("%s: timeline has no limited or prev_batch: %s", what, tl.Raw)
	}
}

// TestSectionsAreThereWhenEmpty: a room in an answer has all its parts, whatever its news are.
func TestSectionsAreThereWhenEmpty(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		joined := []string{"timeline", "state", "ephemeral", "account_data", "summary", "unread_notifications"}
		sections(t, "first", in(bob.sync(), "join", room, ""), joined...)
		alice.say(room, "hello")
		a := bob.sync()
		sections(t, "message", in(a, "join", room, ""), joined...)
		if s := in(a, "join", room, "summary"); s.Raw != "{}" {
			t.Errorf("a message brings the summary %s", s.Raw)
		}
		for _, top := range []string{"account_data", "to_device", "rooms.invite", "rooms.leave"} {
			if a.Get(top).Exists() {
				t.Errorf("%s is there without news: %s", top, a.Body)
			}
		}
		bob.Want(200, "PUT "+api+"/user/"+id("bob")+"/rooms/"+room+"/account_data/m.test", obj{"x": 1})
		a = bob.sync()
		sections(t, "account data", in(a, "join", room, ""), joined...)
		if in(a, "join", room, "timeline.limited").Bool() || in(a, "join", room, "account_data.events.0.type").String() != "m.test" {
			t.Errorf("account data: found %s", a.Body)
		}
		// What is before the empty timeline is found with its token.
		before := in(a, "join", room, "timeline.prev_batch").String()
		if found := bob.Want(200, "GET "+at(room, "messages?dir=b&limit=1&from="+before), nil); found.Get("chunk.0.content.body").
			String() !=
			"hello" {
			t.Errorf("before the timeline: %s", found.Body)
		}
		alice.do(room, "kick", obj{"user_id": id("bob")})
		sections(t, "left", in(bob.sync("filter", `{"room":{"timeline":{"limit":0}}}`), "leave", room, ""), "timeline", "state", "account_data")
		alice.do(room, "invite", obj{"user_id": id("bob")})
		if !in(bob.sync(), "invite", room, "invite_state.events").IsArray() {
			t.Error("an invite without state")
		}
		bob.do(room, "leave", nil)
		sections(t, "refused", in(bob.sync(), "leave", room, ""), "timeline", "state", "account_data")
	})
}

// TestForgottenRoomsComeOnce: each device is told of the leave, and never again of the forgotten room.
func TestForgottenRoomsComeOnce(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		bob.sync()
		bob.do(room, "leave", nil)
		if !in(bob.sync(), "leave", room, "").Exists() {
			t.Fatal("the leave is not given")
		}
		bob.do(room, "forget", nil)
		more := [][]string{
			{},
			{"full_state", "true"},
			{"filter", `{"room":{"include_leave":true}}`},
			{"filter", `{"room":{"include_leave":true}}`, "full_state", "true"},
		}
		for _, m := range more {
			alice.say(room, "later")
			bob.Want(200, "PUT "+api+"/user/"+id("bob")+"/rooms/"+room+"/account_data/m.test", obj{"x": len(m)})
			if a := bob.sync(m...); a.Get("rooms").Exists() {
				t.Errorf("%v: found %s", m, a.Get("rooms").Raw)
			}
			if a := h.as(t, "bob").sync(m...); a.Get("rooms").Exists() {
				t.Errorf("from the start, %v: found %s", m, a.Get("rooms").Raw)
			}
		}
	})
}

// TestOwnPresenceAnswersNoWait: a request that waits makes its user online, so the user's own presence does not answer it.
func TestOwnPresenceAnswersNoWait(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		bob := h.as(t, "bob")
		bob.sync("set_presence", "offline")
		bob.Want(200, "PUT "+api+"/presence/"+id("bob")+"/status", obj{"presence": "online", "status_msg": "here"})
		began := time.Now()
		a := bob.peek("set_presence", "offline", "timeout", "300")
		if took := time.Since(began); took < 300*time.Millisecond || !strings.Contains(a.Get("presence").Raw, "here") {
			t.Errorf("after %v: found %s", took, a.Body)
		}
		answered := make(chan string, 1)
		go func() { answered <- string(bob.peek("set_presence", "offline", "timeout", "20000").Body) }()
		bob.Want(200, "PUT "+api+"/user/"+id("bob")+"/account_data/m.test", obj{"x": 1})
		if a := <-answered; !strings.Contains(a, "m.test") {
			t.Errorf("found %s", a)
		}
	})
}

// TestGuestsSync: guests hear of their rooms (client-server API, "Guest Access").
func TestGuestsSync(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		h.node.People["guest"] = &web.Identity{UserID: id("bob"), DeviceID: "GUEST", Guest: true}
		room := h.room(t, "alice", "bob")
		guest := h.as(t, "guest")
		sections(t, "a guest", in(guest.sync(), "join", room, ""), "timeline", "state", "ephemeral", "account_data")
		h.as(t, "alice").say(room, "hello")
		same(t, "a guest gets", bodies(in(guest.sync(), "join", room, "timeline.events")), "[hello]")
	})
}
