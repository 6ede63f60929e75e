package syncapi

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
)

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Fatalf("%s: expected %s, found %s", what, w, g)
	}
}

func TestTalk(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		a := alice.sync()
		if n := len(in(a, "join", room, "timeline.events").Array()); n == 0 || in(a, "join", room, "state.events.0").Exists() {
			t.Fatalf("%s", a.Body)
		}
		bob.sync()
		first := bob.say(room, "one")
		a = alice.sync()
		same(t, "alice gets", bodies(in(a, "join", room, "timeline.events")), "[one]")
		same(t, "counts", in(a, "join", room, "unread_notifications.notification_count"), 1)
		e := in(a, "join", room, "timeline.events.0")
		if e.Get("room_id").Exists() || e.Get("unsigned.transaction_id").Exists() || e.Get("unsigned.membership").String() != "join" {
			t.Fatalf("%s", e)
		}
		if a.Get("device_one_time_keys_count.signed_curve25519").String() != "0" || a.Get("device_unused_fallback_key_types").String() != "[]" {
			t.Fatalf("%s", a.Body)
		}
		b := bob.sync()
		if !in(b, "join", room, "timeline.events.0.unsigned.transaction_id").Exists() {
			t.Fatalf("%s", b.Body)
		}
		if a := alice.sync(); a.Get("rooms").Exists() {
			t.Fatalf("%s", a.Body)
		}
		// Only the counts change: a private receipt of the user, also with a filter that hides receipts.
		alice.do(room, "receipt/m.read.private/"+url.PathEscape(first), nil)
		a = alice.sync("filter", `{"room":{"ephemeral":{"types":[]}}}`)
		same(t, "counts after reading", in(a, "join", room, "unread_notifications.notification_count"), 0)
		if b := bob.sync(); strings.Contains(string(b.Body), "m.read.private") {
			t.Fatalf("%s", b.Body)
		}
		// A redaction that comes later changes what is in memory.
		before := *alice
		bob.say(room, "two")
		bob.Want(200, "PUT "+at(room, "redact/"+url.PathEscape(first)+"/r"), obj{"reason": "why"})
		before.since = ""
		a = before.sync()
		for _, e := range in(a, "join", room, "timeline.events").Array() {
			if e.Get("event_id").String() == first &&
				(e.Get("content.body").Exists() || e.Get("unsigned.redacted_because.content.reason").String() != "why") {
				t.Fatalf("%s", e)
			}
		}
		same(t, "alice gets", bodies(in(alice.sync(), "join", room, "timeline.events")), "[two]")
		// So does one of what an event replaced.
		secret := bob.state(room, "m.room.member", id("bob"), obj{"membership": "join", "displayname": "secret"})
		bob.state(room, "m.room.member", id("bob"), obj{"membership": "join", "displayname": "fine"})
		before.since = ""
		if a := before.sync(); strings.Count(string(a.Body), "secret") != 2 {
			t.Fatalf("%s", a.Body)
		}
		bob.Want(200, "PUT "+at(room, "redact/"+url.PathEscape(secret)+"/s"), obj{})
		for range 2 {
			before.since = ""
			if a := before.sync(); strings.Contains(string(a.Body), "secret") || !strings.Contains(string(a.Body), "fine") {
				t.Fatalf("%s", a.Body)
			}
		}
		alice.sync()
		// Relations are bundled.
		target := bob.say(room, "old")
		bob.send(
			room,
			"m.room.message",
			obj{
				"msgtype":       "m.text",
				"body":          "* new",
				"m.new_content": obj{"msgtype": "m.text", "body": "new"},
				"m.relates_to":  obj{"rel_type": "m.replace", "event_id": target},
			},
		)
		a = alice.sync()
		if in(a, "join", room, "timeline.events.0.unsigned.m\\.relations.m\\.replace.content.m\\.new_content.body").String() != "new" {
			t.Fatalf("%s", a.Body)
		}
	})
}

// TestMemberships goes through what may happen to a user in a room between two requests.
func TestMemberships(t *testing.T) {
	for _, c := range []struct {
		name    string
		before  func(alice, bob *client, room string) // bob syncs afterwards
		between func(alice, bob *client, room string)
		section string
		events  string // of bob's timeline: types, or bodies
		state   bool   // with a state
	}{
		{"join", nil, func(_, bob *client, room string) { bob.do(room, "join", nil) }, "join", "", true},
		{"invite", nil, func(alice, _ *client, room string) { alice.do(room, "invite", obj{"user_id": id("bob")}) }, "invite", "", false},
		{"invite and join", nil, func(alice, bob *client, room string) {
			alice.do(room, "invite", obj{"user_id": id("bob")})
			bob.do(room, "join", nil)
		}, "join", "", true},
		{"rejected invite", func(alice, _ *client, room string) { alice.do(room, "invite", obj{"user_id": id("bob")}) }, func(alice,
			bob *client, room string,
		) {
			alice.state(room, "m.room.name", "", obj{"name": "secret"})
			bob.do(room, "leave", nil)
		}, "leave", "m.room.member", false},
		{"leave", func(_, bob *client, room string) { bob.do(room, "join", nil) }, func(alice, bob *client, room string) {
			alice.say(room, "one")
			bob.do(room, "leave", nil)
			alice.say(room, "two")
		}, "leave", "one m.room.member", false},
		{"kick", func(_, bob *client, room string) { bob.do(room, "join", nil) }, func(alice, _ *client, room string) {
			alice.do(room, "kick", obj{"user_id": id("bob")})
			alice.say(room, "two")
		}, "leave", "m.room.member", false},
		{"kick and ban", func(_, bob *client, room string) { bob.do(room, "join", nil) }, func(alice, _ *client, room string) {
			alice.do(room, "kick", obj{"user_id": id("bob")})
			alice.say(room, "two")
			alice.do(room, "ban", obj{"user_id": id("bob")})
		}, "leave", "m.room.member m.room.member", false},
		{"ban after leave", func(_, bob *client, room string) {
			bob.do(room, "join", nil)
			bob.do(room, "leave", nil)
		}, func(alice, _ *client, room string) {
			alice.state(room, "m.room.name", "", obj{"name": "secret"})
			alice.do(room, "ban", obj{"user_id": id("bob")})
		}, "leave", "m.room.member", false},
		{"leave and rejoin", func(_, bob *client, room string) { bob.do(room, "join", nil) }, func(alice, bob *client, room string) {
			bob.do(room, "leave", nil)
			alice.state(room, "m.room.topic", "", obj{"topic": "new"})
			bob.do(room, "join", nil)
		}, "join", "m.room.member m.room.topic m.room.member", false},
		{"forget", func(_, bob *client, room string) { bob.do(room, "join", nil) }, func(_, bob *client, room string) {
			bob.do(room, "leave", nil)
			bob.do(room, "forget", nil)
		}, "leave", "m.room.member", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, func(t *testing.T, h *testNode) {
				alice, bob := h.as(t, "alice"), h.as(t, "bob")
				room := h.room(t, "alice", "carol")
				for i := range 12 {
					alice.say(room, fmt.Sprint("old", i))
				}
				if c.before != nil {
					c.before(alice, bob, room)
				}
				bob.sync()
				c.between(alice, bob, room)
				a := bob.sync()
				sec := in(a, c.section, room, "")
				if !sec.Exists() || len(a.Get("rooms").Map()) != 1 {
					t.Fatalf("%s", a.Body)
				}
				var events []string
				for _, e := range sec.Get("timeline.events").Array() {
					if b := e.Get("content.body"); b.Exists() {
						events = append(events, b.String())
					} else {
						events = append(events, e.Get("type").String())
					}
				}
				if c.events != "" {
					same(t, "timeline", strings.Join(events, " "), c.events)
				}
				if (len(sec.Get("state.events").Array()) > 0) != c.state {
					t.Fatalf("%s", a.Body)
				}
				if c.section == "invite" {
					if !strings.Contains(sec.Raw, id("alice")) || sec.Get(`invite_state.events.#(type=="m.room.member")`).Raw == "" {
						t.Fatalf("%s", a.Body)
					}
				}
				if strings.Contains(string(a.Body), "secret") {
					t.Fatalf("the state of a room came to one who was not in it: %s", a.Body)
				}
				if c.section == "join" && (sec.Get("timeline.limited").Bool() != c.state || sec.Get("summary.m\\.joined_member_count").Int() != 3) {
					t.Fatalf("%s", a.Body)
				}
				if a := bob.sync(); a.Get("rooms").Exists() {
					t.Fatalf("it came twice: %s", a.Body)
				}
				fresh := h.as(t, "bob2")
				a = fresh.sync("filter", `{"room":{"include_leave":true}}`)
				section := c.section
				if c.name == "forget" {
					section = "none"
				}
				if a.Get("rooms."+section).Exists() != (section != "none") {
					t.Fatalf("%s", a.Body)
				}
				if strings.Contains(string(a.Body), "secret") || c.name == "leave" && strings.Contains(string(a.Body), "two") {
					t.Fatalf("%s", a.Body)
				}
			})
		})
	}
}

func TestKnock(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := alice.create(obj{"initial_state": []obj{{"type": "m.room.join_rules", "state_key": "", "content": obj{"join_rule": "knock"}}}})
		bob.sync()
		bob.Want(200, "POST "+api+"/knock/"+url.PathEscape(room), obj{})
		if a := bob.sync(); in(a, "knock", room, `knock_state.events.#(type=="m.room.create")`).Raw == "" {
			t.Fatalf("%s", a.Body)
		}
		if a := bob.sync(); a.Get("rooms").Exists() {
			t.Fatalf("%s", a.Body)
		}
	})
}

func TestFilters(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		other := h.room(t, "alice", "bob")
		bob.sync()
		alice.say(room, "one")
		name := alice.state(room, "m.room.name", "", obj{"name": "N"})
		alice.send(room, "x.other", obj{"url": "mxc://x/y"})
		alice.say(room, "two")
		alice.say(other, "three")
		for _, c := range []struct {
			filter string
			want   string // types and bodies of the timeline of room
			state  string // ids of the state
			other  bool
		}{
			{`{}`, "one m.room.name x.other two", "", true},
			{`{"room":{"timeline":{"types":["m.room.message"]}}}`, "one two", name, true},
			{`{"room":{"timeline":{"types":["m.room.message"],"limit":1}}}`, "two", name, true},
			{`{"room":{"timeline":{"not_types":["m.*"]}}}`, "x.other", name, false},
			{`{"room":{"timeline":{"contains_url":true}}}`, "x.other", name, false},
			{`{"room":{"timeline":{"contains_url":false,"types":["m.room.mess*"]}}}`, "one two", name, true},
			{`{"room":{"timeline":{"not_senders":["@alice:here.test"]}}}`, "", name, false},
			{`{"room":{"timeline":{"senders":["@alice:here.test"],"limit":2}}}`, "x.other two", name, true},
			{`{"room":{"timeline":{"limit":0}}}`, "", name, true},
			{`{"room":{"timeline":{"limit":0},"state":{"types":[]}}}`, "", "", true},
			{`{"room":{"timeline":{"rooms":[]}}}`, "", name, false},
			{`{"room":{"rooms":["` + room + `"]}}`, "one m.room.name x.other two", "", false},
			{`{"room":{"not_rooms":["` + room + `"]}}`, "", "", true},
		} {
			a := bob.peek("filter", c.filter)
			var got, ids []string
			for _, e := range in(a, "join", room, "timeline.events").Array() {
				if b := e.Get("content.body"); b.Exists() {
					got = append(got, b.String())
				} else {
					got = append(got, e.Get("type").String())
				}
			}
			for _, e := range in(a, "join", room, "state.events").Array() {
				ids = append(ids, e.Get("event_id").String())
			}
			if strings.Join(got, " ") != c.want || strings.Join(ids, " ") != c.state || in(a, "join", other, "").Exists() != c.other {
				t.Errorf("%s: found %v and state %v: %s", c.filter, got, ids, a.Body)
			}
			a = bob.peek("filter", c.filter, "use_state_after", "true")
			if in(a, "join", room, "state").Exists() {
				t.Errorf("%s", a.Body)
			}
			if sec := in(a, "join", room, ""); sec.Exists() && !sec.Get("state_after.events").IsArray() {
				t.Errorf("%s", a.Body)
			}
		}
		a := bob.peek("filter", `{"event_fields":["content.body","type"],"room":{"timeline":{"types":["m.room.message"]}}}`)
		same(t, "event_fields", in(a, "join", room, "timeline.events.0").Raw, `{"content":{"body":"one"},"type":"m.room.message"}`)
		stored := bob.Want(200, "POST "+api+"/user/"+url.PathEscape(id("bob"))+"/filter", obj{"room": obj{"rooms": []string{}}}).
			Get("filter_id").
			String()
		if a := bob.peek("filter", stored); a.Get("rooms").Exists() {
			t.Fatalf("%s", a.Body)
		}
		if a := h.http.As("alice").Call("GET "+api+"/sync?filter="+url.QueryEscape(stored), nil); a.Status == 200 {
			t.Fatalf("another user's filter was taken: %s", a.Body)
		}
		for _, bad := range []string{
			"filter={", "filter=%7B%22room%22:1%7D", "since=s", "since=nonsense", "set_presence=here", "timeout=x",
			"full_state=7",
		} {
			if a := h.http.As("alice").Call("GET "+api+"/sync?"+bad, nil); a.Status < 400 || a.Status >= 500 {
				t.Errorf("%s: found %d %s", bad, a.Status, a.Body)
			}
		}
	})
}

func TestLimited(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		bob.sync()
		topic := alice.state(room, "m.room.topic", "", obj{"topic": "T"})
		for i := range 60 { // more than memory keeps
			alice.say(room, fmt.Sprint(i))
		}
		a := bob.peek("filter", `{"room":{"timeline":{"limit":5}}}`)
		same(t, "timeline", bodies(in(a, "join", room, "timeline.events")), "[55 56 57 58 59]")
		same(t, "limited", in(a, "join", room, "timeline.limited"), true)
		same(t, "state", in(a, "join", room, "state.events.#.event_id"), fmt.Sprintf("[%q]", topic))
		prev := in(a, "join", room, "timeline.prev_batch").String()
		m := bob.Want(200, "GET "+at(room, "messages?dir=b&limit=2&from="+prev), nil)
		same(t, "older", bodies(m.Get("chunk")), "[54 53]")
		a = bob.peek("full_state", "true", "timeout", "60000")
		if len(in(a, "join", room, "state.events").Array()) < 6 {
			t.Fatalf("%s", a.Body)
		}
	})
}

func TestLazyMembers(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob", "carol", "dave")
		for range 12 {
			h.as(t, "dave").say(room, "x")
		}
		filter := `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":3}}}`
		members := func(more ...string) string {
			var out []string
			a := bob.peek(append([]string{"filter", filter}, more...)...)
			for _, e := range in(a, "join", room, "state.events").Array() {
				if e.Get("type").String() == "m.room.member" {
					out = append(out, strings.Split(e.Get("state_key").String(), ":")[0][1:])
				}
			}
			bob.since = a.Get("next_batch").String()
			return strings.Join(out, " ")
		}
		// The room has no name: the heroes come too.
		same(t, "at first", members(), "alice bob carol dave")
		alice.say(room, "1")
		same(t, "redundant", members(), "")
		bob.since = ""
		alice.state(room, "m.room.name", "", obj{"name": "N"})
		h.as(t, "dave").say(room, "x")
		h.as(t, "dave").say(room, "x")
		h.as(t, "dave").say(room, "x")
		same(t, "of a room with a name", members(), "bob dave")
		place := bob.since
		alice.say(room, "2")
		same(t, "a new sender", members(), "alice")
		bob.since = place
		same(t, "the answer was lost", members(), "alice")
		alice.say(room, "3")
		same(t, "redundant", members(), "")
		// In a gap all changes come, redundant or not.
		h.as(t, "carol").do(room, "leave", nil)
		for range 5 {
			alice.say(room, "4")
		}
		same(t, "in a gap", members(), "carol")
		filter = `{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true}}}`
		alice.say(room, "5")
		same(t, "redundant as asked for", members(), "alice")
	})
}

func TestIgnoredUsers(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		alice.Want(
			200,
			"PUT "+api+"/user/"+url.PathEscape(id("alice"))+"/account_data/m.ignored_user_list",
			obj{"ignored_users": obj{id("bob"): obj{}}},
		)
		a := alice.sync()
		if a.Get(`account_data.events.#(type=="m.ignored_user_list")`).Raw == "" ||
			a.Get(`account_data.events.#(type=="m.push_rules")`).Raw == "" {
			t.Fatalf("%s", a.Body)
		}
		e := bob.say(room, "hidden")
		bob.do(room, "receipt/m.read/"+url.PathEscape(e), nil)
		bob.Want(200, "PUT "+at(room, "typing/"+url.PathEscape(id("bob"))), obj{"typing": true})
		hidden := bob.create(obj{"invite": []string{id("alice")}})
		bob.Want(200, "PUT "+api+"/presence/"+url.PathEscape(id("bob"))+"/status", obj{"presence": "online", "status_msg": "hidden"})
		if a = alice.sync(); strings.Contains(string(a.Body), "hidden") || strings.Contains(string(a.Body), id("bob")) ||
			strings.Contains(string(a.Body), hidden) {
			t.Fatalf("%s", a.Body)
		}
		bob.Want(200, "PUT "+at(room, "state/m.room.member/"+url.PathEscape(id("bob"))), obj{"membership": "join", "displayname": "B"})
		if a = alice.sync(); len(in(a, "join", room, "timeline.events").Array()) != 1 {
			t.Fatalf("state events of ignored users stay: %s", a.Body)
		}
		alice.Want(200, "PUT "+api+"/user/"+url.PathEscape(id("alice"))+"/account_data/m.ignored_user_list", obj{"ignored_users": obj{}})
		if a = alice.sync(); !in(a, "invite", hidden, "").Exists() {
			t.Fatalf("the invite of who is ignored no more did not come: %s", a.Body)
		}
		if a = alice.sync(); a.Get("rooms").Exists() {
			t.Fatalf("it came twice: %s", a.Body)
		}
	})
}

func TestEphemeral(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		root := alice.say(room, "root")
		reply := alice.send(
			room,
			"m.room.message",
			obj{"body": "in thread", "msgtype": "m.text", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}},
		)
		alice.sync()
		a := bob.sync("filter", `{"room":{"timeline":{"unread_thread_notifications":true}}}`)
		same(t, "of the thread", in(a, "join", room, "unread_thread_notifications").Map()[root].Get("notification_count"), 1)
		same(t, "of the rest", in(a, "join", room, "unread_notifications.notification_count"), 1)
		same(t, "of all", in(h.as(t, "bob").sync(), "join", room, "unread_notifications.notification_count"), 2)
		bob.do(room, "receipt/m.read/"+url.PathEscape(root), obj{"thread_id": "main"})
		bob.do(room, "receipt/m.read/"+url.PathEscape(root), obj{})
		bob.do(room, "receipt/m.read/"+url.PathEscape(reply), obj{"thread_id": root})
		a = alice.sync()
		found := map[string]bool{}
		for _, e := range in(a, "join", room, "ephemeral.events").Array() {
			for on, content := range e.Get("content").Map() {
				r := content.Get(`m\.read`).Map()[id("bob")]
				found[on+" "+r.Get("thread_id").String()] = true
			}
		}
		if len(found) != 3 || !found[root+" main"] || !found[root+" "] || !found[reply+" "+root] {
			t.Fatalf("%v in %s", found, a.Body)
		}
		n := h.statements.Load()
		bob.Want(200, "PUT "+at(room, "typing/"+url.PathEscape(id("bob"))), obj{"typing": true})
		a = alice.sync()
		if !strings.Contains(in(a, "join", room, "ephemeral").Raw, `{"type":"m.typing","content":{"user_ids":["@bob:here.test"]}}`) {
			t.Fatalf("after %d statements: %s", h.statements.Load()-n, a.Body)
		}
		bob.Want(200, "PUT "+at(room, "typing/"+url.PathEscape(id("bob"))), obj{"typing": false})
		if a = alice.sync(); in(a, "join", room, "ephemeral.events.0.content.user_ids").Raw != "[]" {
			t.Fatalf("%s", a.Body)
		}
		bob.Want(200, "PUT "+api+"/user/"+url.PathEscape(id("bob"))+"/rooms/"+url.PathEscape(room)+"/account_data/x.y", obj{"a": 1})
		if a = bob.sync(); in(a, "join", room, "account_data.events.0.type").String() != "x.y" {
			t.Fatalf("%s", a.Body)
		}
	})
}

func TestPresence(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		h.room(t, "alice", "bob")
		online := func(name string) {
			h.as(t, name).
				Want(200, "PUT "+api+"/presence/"+url.PathEscape(id(name))+"/status", obj{"presence": "online", "status_msg": "I am " + name})
		}
		online("bob")
		online("carol")
		alice := h.as(t, "alice")
		a := alice.sync("set_presence", "offline")
		if s := a.Get("presence").Raw; !strings.Contains(s, "I am bob") || strings.Contains(s, "carol") {
			t.Fatalf("%s", a.Body)
		}
		online("dave")
		if a := alice.sync("set_presence", "offline"); a.Get("presence").Exists() {
			t.Fatalf("%s", a.Body)
		}
		h.room(t, "alice", "carol")
		if a := alice.sync("set_presence", "offline"); !strings.Contains(a.Get("presence").Raw, "I am carol") {
			t.Fatalf("who comes to share a room is there: %s", a.Body)
		}
		if a := alice.peek("filter", `{"presence":{"not_senders":["@bob:here.test"]}}`); strings.Contains(a.Get("presence").Raw, "bob") {
			t.Fatalf("%s", a.Body)
		}
	})
}

// TestPresenceOfAJoinedRoom: a user who joins a room gets the presence of all its members.
func TestPresenceOfAJoinedRoom(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		room := h.room(t, "bob", "carol", "dave")
		for name, state := range map[string]string{"bob": "online", "carol": "unavailable", "dave": "offline"} {
			status := "PUT " + api + "/presence/" + url.PathEscape(id(name)) + "/status"
			h.as(t, name).Want(200, status, obj{"presence": "online"})
			h.as(t, name).Want(200, status, obj{"presence": state, "status_msg": "I am " + name})
		}
		alice := h.as(t, "alice")
		if a := alice.sync("set_presence", "offline"); a.Get("presence").Exists() {
			t.Fatalf("%s", a.Body)
		}
		alice.do(room, "join", nil)
		a := alice.sync("set_presence", "offline")
		found := map[string]string{}
		for _, e := range a.Get("presence.events").Array() {
			found[e.Get("content.status_msg").String()] = e.Get("content.presence").String()
		}
		same(t, "presence", found, map[string]string{"I am bob": "online", "I am carol": "unavailable", "I am dave": "offline"})
		if a := alice.sync("set_presence", "offline"); a.Get("presence").Exists() {
			t.Fatalf("once more: %s", a.Body)
		}
	})
}

// TestWhatOneDoesIsActivity: a receipt and a typing notice, as well as a message.
func TestWhatOneDoesIsActivity(t *testing.T) {
	for what, act := range map[string]func(bob *client, room, event string){
		"a message": func(bob *client, room, _ string) { bob.say(room, "here") },
		"a receipt": func(bob *client, room, event string) {
			bob.Want(200, "POST "+at(room, "receipt/m.read/"+url.PathEscape(event)), obj{})
		},
		"typing": func(bob *client, room, _ string) {
			bob.Want(200, "PUT "+at(room, "typing/"+url.PathEscape(id("bob"))), obj{"typing": true, "timeout": 20000})
		},
	} {
		t.Run(what, func(t *testing.T) {
			run(t, func(t *testing.T, h *testNode) {
				room := h.room(t, "alice", "bob")
				event := h.as(t, "alice").say(room, "hello")
				bob := h.as(t, "bob")
				bob.sync() // bob is there
				ago := func() int64 {
					return bob.Want(200, "GET "+api+"/presence/"+url.PathEscape(id("bob"))+"/status", nil).Get("last_active_ago").Int()
				}
				const quiet = 400
				roletest.Until(t, "bob was quiet", func() bool { return ago() > quiet })
				act(bob, room, event)
				roletest.Until(t, "bob is active", func() bool { return ago() < quiet/2 })
			})
		})
	}
}

func TestDevices(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		alice.sync()
		change := func(name string) {
			if err := h.Devices.DevicesRemoved(t.Context(), id(name), []string{"OLD"}); err != nil {
				t.Fatal(err)
			}
		}
		room := h.room(t, "alice", "bob")
		same(t, "who joins", alice.sync().Get("device_lists.changed"), `["@bob:here.test"]`)
		same(t, "whom one joins", func() string { bob.sync(); return "" }(), "")
		change("bob")
		change("carol")
		same(t, "who changes", alice.sync().Get("device_lists.changed"), `["@bob:here.test"]`)
		bob.do(room, "leave", nil)
		same(t, "who goes", alice.sync().Get("device_lists.left"), `["@bob:here.test"]`)
		same(t, "whom one leaves", bob.sync().Get("device_lists.left"), `["@alice:here.test"]`)
	})
}

// TestOneUserWaitsABoundedNumberOfTimes: each request costs memory until it is answered.
func TestOneUserWaitsABoundedNumberOfTimes(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice := h.as(t, "alice")
		alice.sync("set_presence", "offline")
		h.mu.RLock()
		u := h.users[id("alice")]
		h.mu.RUnlock()
		u.requests.Add(maxRequests)
		if a := alice.Call("GET "+api+"/sync?since="+url.QueryEscape(alice.since)+"&timeout=1000&set_presence=offline", nil); a.Status != 429 ||
			a.Get("retry_after_ms").Int() == 0 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		u.requests.Add(-maxRequests)
		alice.sync("set_presence", "offline")
	})
}

// TestLargeAnswersWaitBesideSmallOnes: while no slot for a large answer is free, requests that wait for one do not delay small answers,
// neither of other users nor of the same user.
func TestLargeAnswersWaitBesideSmallOnes(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		alice.sync("set_presence", "offline")
		bob.sync("set_presence", "offline")
		alice.Want(200, "PUT "+api+"/user/"+url.PathEscape(id("alice"))+"/account_data/x.large", obj{"text": strings.Repeat("x", 2*largeBytes)})
		inside := make([]queueUser, h.largeSlots.free)
		for i := range inside {
			if !h.largeSlots.tryAcquire(&inside[i]) {
				t.Fatal("a place is taken")
			}
		}
		large := make(chan int, 2)
		go func() {
			large <- len(alice.Want(200, "GET "+api+"/sync?set_presence=offline&since="+url.QueryEscape(alice.since), nil).Body) // becomes large
		}()
		go func() { large <- len(alice.Want(200, "GET "+api+"/sync?set_presence=offline", nil).Body) }() // all there is
		roletest.Until(t, "both wait for a place", func() bool {
			h.largeSlots.mu.Lock()
			defer h.largeSlots.mu.Unlock()
			return len(h.largeSlots.queue) == 1 && len(h.largeSlots.queue[0].waiting) == 2 && len(h.smallSlots) == 0
		})
		alice.Want(
			200,
			"GET "+api+"/sync?set_presence=offline&filter="+url.QueryEscape(
				`{"account_data":{"not_types":["x.large"]}}`,
			)+"&since="+url.QueryEscape(
				alice.since,
			),
			nil,
		)
		bob.sync("set_presence", "offline")
		select {
		case <-large:
			t.Fatal("a large answer without a place")
		default:
		}
		for i := range inside {
			h.largeSlots.release(&inside[i], time.Second)
		}
		for range 2 {
			if n := <-large; n < 2*largeBytes {
				t.Errorf("%d bytes", n)
			}
		}
		h.largeSlots.mu.Lock()
		defer h.largeSlots.mu.Unlock()
		if h.largeSlots.free != len(inside) || len(h.smallSlots) != 0 {
			t.Errorf("%d large and %d small places are not given back", len(inside)-h.largeSlots.free, len(h.smallSlots))
		}
	})
}

// TestLargeAnswersArePacked: large answers are compressed for clients that accept it, and have the same content.
func TestLargeAnswersArePacked(t *testing.T) {
	h := open(t, "sqlite")
	alice := h.as(t, "alice")
	alice.sync("set_presence", "offline")
	alice.Want(200, "PUT "+api+"/user/"+url.PathEscape(id("alice"))+"/account_data/x.large", obj{"text": strings.Repeat("x", 2*largeBytes)})
	server, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler), Authenticator: h.node.People, Config: web.Config{Compress: true}})
	if err != nil {
		t.Fatal(err)
	}
	server.Add(h.Routes()...)
	ask := func(packed bool) string {
		r := httptest.NewRequest("GET", api+"/sync?set_presence=offline", nil)
		r.Header.Set("Authorization", "Bearer alice")
		if packed {
			r.Header.Set("Accept-Encoding", "gzip")
		}
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, r)
		if got := w.Header().Get("Content-Encoding"); w.Code != 200 || (got == "gzip") != packed ||
			w.Header().Get("Content-Length") != fmt.Sprint(w.Body.Len()) {
			t.Fatalf("%d %v", w.Code, w.Header())
		}
		var body io.Reader = w.Body
		if packed {
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		}
		text, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if plain, packed := ask(false), ask(true); len(plain) < 2*largeBytes || plain != packed {
		t.Errorf("%d bytes, and %d that were packed", len(plain), len(packed))
	}
}

// TestWait checks that a request that waits is answered by news and by nothing else.
func TestWait(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		alice.sync("set_presence", "offline")
		bob.sync("set_presence", "offline")
		got := make(chan string, 1)
		go func() {
			a := alice.sync("timeout", "20000", "set_presence", "offline", "filter", `{"room":{"timeline":{"types":["m.room.message"]}}}`)
			got <- string(a.Body)
		}()
		roletest.Until(t, "alice waits", func() bool {
			h.mu.RLock()
			defer h.mu.RUnlock()
			return h.users[id("alice")].requests.Load() == 1
		})
		bob.send(room, "x.other", obj{}) // filtered out
		bob.say(room, "hello")
		select {
		case body := <-got:
			if !strings.Contains(body, "hello") || !json.Valid([]byte(body)) {
				t.Fatal(body)
			}
		case <-time.After(15 * time.Second):
			t.Fatal("the message did not come")
		}
	})
}
