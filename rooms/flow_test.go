package rooms

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/stream"
)

func TestVisibility(t *testing.T) {
	// bob is invited after "before", joins after "invited", leaves after "joined" and comes back at the end
	// where the case says so.
	serve(t, func(t *testing.T, h *house) {
		for _, c := range []struct {
			history     string
			back        bool
			bob, nobody string
		}{
			{"world_readable", false, "before invited joined left", "before invited joined left"},
			{"shared", false, "before invited joined", ""},
			{"invited", false, "invited joined", ""},
			{"joined", false, "joined", ""},
			{"shared", true, "before invited joined left", ""},
			{"invited", true, "invited joined", ""},
			{"joined", true, "joined", ""},
		} {
			id := h.alice.create(
				obj{
					"preset":        "public_chat",
					"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": c.history}}},
				},
			)
			before := h.alice.say(id, "before")
			h.alice.invite(id, h.bob.id)
			h.alice.say(id, "invited")
			h.bob.join(id)
			h.alice.say(id, "joined")
			h.bob.leave(id)
			left := h.alice.say(id, "left")
			if c.back {
				h.bob.join(id)
			}
			if got := strings.Join(h.bob.bodies(id), " "); got != c.bob {
				t.Errorf("%s, back %t: bob sees %q, expected %q", c.history, c.back, got, c.bob)
			}
			if c.nobody == "" {
				h.carol.refused(403, "M_FORBIDDEN", at("GET", id, "messages?dir=b"), nil)
				h.carol.refused(404, "M_NOT_FOUND", at("GET", id, "event/"+esc(before)), nil)
				h.carol.refused(404, "M_NOT_FOUND", at("GET", id, "context/"+esc(before)), nil)
			} else if got := strings.Join(h.carol.bodies(id), " "); got != c.nobody {
				t.Errorf("%s: carol sees %q, expected %q", c.history, got, c.nobody)
			}
			for eventID, body := range map[string]string{before: "before", left: "left"} {
				want := 404
				if slices.Contains(strings.Fields(c.bob), body) {
					want = 200
				}
				h.bob.Want(want, at("GET", id, "event/"+esc(eventID)), nil)
			}
		}
	})
}

func TestOwnMembershipIsSeen(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(
			obj{
				"preset":        "public_chat",
				"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}},
			},
		)
		h.alice.say(id, "before")
		h.bob.join(id)
		h.bob.say(id, "here")
		h.bob.leave(id)
		h.alice.state(id, "m.room.topic", "", obj{"topic": "later"})
		a := h.bob.Want(200, at("GET", id, "messages?dir=b&limit=4"), nil)
		var got []string
		for _, e := range a.Get("chunk").Array() {
			got = append(got, e.Get("type").String()+" "+e.Get("content.membership").String()+" "+e.Get("unsigned.membership").String())
		}
		if want := "[m.room.member leave leave m.room.message  join m.room.member join join m.room.history_visibility  leave]"; fmt.Sprint(
			got,
		) != want {
			t.Fatalf("found %v, expected %s", got, want)
		}
		h.bob.refused(404, "M_NOT_FOUND", at("GET", id, "state/m.room.topic"), nil) // the state of the leave
		h.bob.Want(200, at("POST", id, "forget"), nil)
		h.bob.refused(403, "M_FORBIDDEN", at("GET", id, "messages?dir=b"), nil)
		h.alice.refused(400, "M_UNKNOWN", at("POST", id, "forget"), nil)
		h.carol.refused(404, "M_NOT_FOUND", at("POST", id, "forget"), nil)
	})
}

func TestMembershipTransitions(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		set := func(h *house, id, membership string) {
			switch membership {
			case "none":
			case "join":
				h.alice.invite(id, h.bob.id)
				h.bob.join(id)
			case "invite":
				h.alice.invite(id, h.bob.id)
			case "leave":
				h.alice.invite(id, h.bob.id)
				h.bob.leave(id)
			case "ban":
				h.alice.Want(200, at("POST", id, "ban"), obj{"user_id": h.bob.id})
			}
		}
		bob := obj{"user_id": h.bob.id}
		for _, c := range []struct {
			from, by, do string
			status       int
		}{
			{"none", "bob", "join", 403},
			{"none", "bob", "leave", 403},
			{"none", "alice", "kick", 403},
			{"none", "alice", "unban", 403},
			{"none", "alice", "ban", 200},
			{"none", "carol", "ban", 403},
			{"none", "carol", "invite", 403},
			{"none", "alice", "invite", 200},
			{"invite", "bob", "join", 200},
			{"invite", "bob", "leave", 200},
			{"invite", "alice", "invite", 200},
			{"invite", "alice", "kick", 200},
			{"invite", "bob", "ban", 403},
			{"join", "bob", "join", 200},
			{"join", "bob", "leave", 200},
			{"join", "alice", "kick", 200},
			{"join", "alice", "ban", 200},
			{"join", "alice", "invite", 403},
			{"join", "alice", "unban", 403},
			{"join", "bob", "unban", 403},
			{"leave", "bob", "leave", 200},
			{"leave", "bob", "join", 403},
			{"leave", "bob", "kick", 403},
			{"leave", "bob", "unban", 403},
			{"leave", "alice", "kick", 403},
			{"leave", "alice", "invite", 200},
			{"ban", "bob", "join", 403},
			{"ban", "bob", "leave", 403},
			{"ban", "alice", "invite", 403},
			{"ban", "alice", "kick", 403},
			{"ban", "alice", "unban", 200},
			{"ban", "alice", "ban", 200},
			{"ban", "carol", "unban", 403},
		} {
			id := h.alice.create(obj{"preset": "private_chat"})
			set(h, id, c.from)
			who := map[string]*person{"alice": h.alice, "bob": h.bob, "carol": h.carol}[c.by]
			var body any = bob
			if c.do == "join" || c.do == "leave" {
				body = obj{}
			}
			before := h.alice.Want(200, at("GET", id, "members"), nil).Body
			a := who.Call(at("POST", id, c.do), body)
			if a.Status != c.status || c.status == 403 && a.Errcode() != "M_FORBIDDEN" {
				t.Errorf("%s, %s by %s: expected %d, found %d %s", c.from, c.do, c.by, c.status, a.Status, a.Body)
			}
			if after := h.alice.Want(200, at("GET", id, "members"), nil).Body; c.status == 403 && len(before) != len(after) {
				t.Errorf("%s, %s by %s changed the members", c.from, c.do, c.by)
			}
		}
	})
}

func TestKnockAndRestricted(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}}}})
		h.bob.Want(200, "POST /_matrix/client/v3/knock/"+esc(id), obj{"reason": "please"})
		h.bob.refused(403, "M_FORBIDDEN", at("POST", id, "join"), obj{})
		h.alice.invite(id, h.bob.id)
		h.bob.join(id)
		h.bob.refused(403, "M_FORBIDDEN", "POST /_matrix/client/v3/knock/"+esc(id), obj{})
		h.bob.refused(404, "M_NOT_FOUND", "POST /_matrix/client/v3/knock/"+esc("!nothere:example.org"), obj{})

		inner := h.alice.create(obj{"initial_state": []obj{{"type": "m.room.join_rules", "content": obj{
			"join_rule": "restricted", "allow": []obj{{"type": "m.room_membership", "room_id": id}},
		}}}})
		h.carol.refused(403, "M_FORBIDDEN", at("POST", inner, "join"), obj{})
		h.bob.join(inner)
		h.bob.leave(inner)
		h.bob.Want(200, at("PUT", inner, "state/m.room.member/"+esc(h.bob.id)), obj{"membership": "join", "displayname": "B"})
		if got := h.alice.Want(200, at("GET", inner, "state/m.room.member/"+esc(h.bob.id)), nil).Get("displayname").String(); got != "B" {
			t.Fatal(got)
		}
		h.bob.refused(403, "M_FORBIDDEN", at("PUT", inner, "state/m.room.member/"+esc(h.carol.id)), obj{"membership": "join"})
	})
}

func TestTransactionsAreScoped(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(nil)
		send := func(p *person, rest string) string {
			return p.Want(200, at("PUT", id, rest), obj{"body": "x"}).Get("event_id").String()
		}
		first := send(h.alice, "send/m.room.message/1")
		if again := send(h.alice, "send/m.room.message/1"); again != first {
			t.Fatal("a repeated request made another event")
		}
		if other := send(h.alice, "send/m.other/1"); other == first {
			t.Fatal("the same id at another endpoint is another transaction")
		}
		second := &person{h.alice.As("alice2"), t, h.alice.id}
		if other := send(second, "send/m.room.message/1"); other == first {
			t.Fatal("the same id on another device is another transaction")
		}
		redaction := send(h.alice, "redact/"+esc(first)+"/1")
		if redaction == first {
			t.Fatal("a redaction is another transaction")
		}
		if got := h.alice.Want(200, at("GET", id, "event/"+esc(redaction)), nil).Get("unsigned.transaction_id").String(); got != "1" {
			t.Fatalf("transaction_id %q", got)
		}
		h.alice.refused(400, "M_INVALID_PARAM", at("PUT", id, "send/m.room.message/"+strings.Repeat("x", 300)), obj{})
	})
}

func TestStateEvents(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat", "room_alias_name": "one"})
		h.bob.join(id)
		h.bob.refused(403, "M_FORBIDDEN", at("PUT", id, "state/m.room.name"), obj{"name": "bob's"})
		first := h.alice.state(id, "m.room.name", "", obj{"name": "A"})
		if again := h.alice.Want(200, at("PUT", id, "state/m.room.name"), obj{"name": "A"}).Get("event_id").String(); again != first {
			t.Fatal("the same state made another event")
		}
		e := h.bob.Want(200, at("GET", id, "state/m.room.name?format=event"), nil)
		if e.Get("event_id").String() != first || e.Get("room_id").String() != id || e.Get("content.name").String() != "A" {
			t.Fatalf("%s", e.Body)
		}
		h.alice.state(id, "m.room.name", "", obj{"name": "B"})
		last := h.bob.Want(200, at("GET", id, "messages?dir=b&limit=1"), nil)
		if last.Get("chunk.0.unsigned.prev_content.name").String() != "A" || last.Get("chunk.0.unsigned.replaces_state").String() != first {
			t.Fatalf("%s", last.Body)
		}
		h.alice.state(id, "org.example.x", "a/b c", obj{"k": 1})
		if got := h.bob.Want(200, at("GET", id, "state/org.example.x/a%2Fb%20c"), nil).Get("k").Int(); got != 1 {
			t.Fatal(got)
		}
		h.bob.refused(404, "M_NOT_FOUND", at("GET", id, "state/org.example.x"), nil)
		h.alice.refused(400, "M_INVALID_PARAM", at("PUT", id, "state/m.room.create"), obj{})
		h.alice.refused(400, "M_BAD_JSON", at("PUT", id, "state/org.example.x"), "[1]")
		h.alice.refused(400, "M_NOT_JSON", at("PUT", id, "state/org.example.x"), "{")
		h.alice.refused(413, "M_TOO_LARGE", at("PUT", id, "send/m.room.message/big"), obj{"body": strings.Repeat("x", 70_000)})
		h.alice.refused(413, "M_TOO_LARGE", at("PUT", id, "send/"+strings.Repeat("x", 300)+"/1"), obj{})
		h.alice.refused(400, "M_BAD_JSON", at("PUT", id, "send/m.room.message/float"), `{"x":1.5}`)
		h.alice.refused(400, "M_BAD_ALIAS", at("PUT", id, "state/m.room.canonical_alias"), obj{"alias": "#nothere:example.org"})
		h.alice.refused(400, "M_INVALID_PARAM", at("PUT", id, "state/m.room.canonical_alias"), obj{"alias": "none"})
		h.alice.state(id, "m.room.canonical_alias", "", obj{"alias": "#one:example.org", "alt_aliases": []string{"#one:example.org"}})
		h.alice.refused(
			400,
			"M_INVALID_PARAM",
			"POST /_matrix/client/v3/createRoom",
			obj{"initial_state": []obj{{"type": "x", "state_key": "a\x00b", "content": obj{}}}},
		)
		for _, c := range []struct {
			code    string
			content any
		}{
			{"M_BAD_ALIAS", obj{"alias": "#one:example.org"}}, // of another room
			{"M_BAD_ALIAS", obj{"alt_aliases": []string{"#new:example.org", "#nothere:example.org"}}},
			{"M_INVALID_PARAM", obj{"alias": "none"}},
			{"M_BAD_JSON", obj{"alias": 5}},
		} {
			h.alice.refused(400, c.code, "POST /_matrix/client/v3/createRoom", obj{
				"room_alias_name": "new", "initial_state": []obj{{"type": "m.room.canonical_alias", "content": c.content}},
			})
		}
		h.alice.create(obj{
			"room_alias_name": "new", "initial_state": []obj{{"type": "m.room.canonical_alias", "content": obj{
				"alias":       "#new:example.org",
				"alt_aliases": []string{"#new:example.org"},
			}}},
		})
		h.alice.refused(400, "M_INVALID_PARAM", "POST /_matrix/client/v3/createRoom", obj{"invite": []string{"bob"}})
		h.alice.refused(400, "M_UNSUPPORTED_ROOM_VERSION", "POST /_matrix/client/v3/createRoom", obj{"room_version": "13"})
		h.alice.refused(400, "M_ROOM_IN_USE", "POST /_matrix/client/v3/createRoom", obj{"room_alias_name": "one"})
		h.alice.say(id, "nul \x00 in a body")
		h.alice.send(id, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": first, "key": "\x00"}})

		joined := h.bob.Want(200, at("GET", id, "joined_members"), nil)
		if len(joined.Get("joined").Map()) != 2 {
			t.Fatalf("%s", joined.Body)
		}
		for id, m := range joined.Get("joined").Map() { // matrix-nio refuses a member without both
			for _, key := range []string{"display_name", "avatar_url"} {
				if v := m.Get(key); !v.Exists() || v.Raw != "null" {
					t.Errorf("%s of %s, who has none: expected null, found %q", key, id, v.Raw)
				}
			}
		}
		if got := h.bob.Want(200, "GET /_matrix/client/v3/joined_rooms", nil).Get("joined_rooms.0").String(); got != id {
			t.Fatal(got)
		}
		token := h.bob.Want(200, at("GET", id, "messages?dir=b&limit=1"), nil).Get("start").String()
		h.bob.leave(id)
		if n := len(h.alice.Want(200, at("GET", id, "members?membership=join"), nil).Get("chunk").Array()); n != 1 {
			t.Fatal(n)
		}
		if n := len(h.alice.Want(200, at("GET", id, "members?not_membership=leave&at="+token), nil).Get("chunk").Array()); n != 2 {
			t.Fatal(n)
		}
		h.bob.refused(403, "M_FORBIDDEN", at("GET", id, "joined_members"), nil)
		h.alice.refused(400, "M_INVALID_PARAM", at("GET", id, "members?at=x"), nil)
		h.alice.refused(400, "M_INVALID_PARAM", at("GET", id, "members?membership=x"), nil)
	})
}

func TestAliases(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		const path = "/_matrix/client/v3/directory/room/%23here:example.org"
		h.nobody.Want(404, "GET "+path, nil)
		h.bob.refused(403, "M_FORBIDDEN", "PUT "+path, obj{"room_id": id})
		h.alice.Want(200, "PUT "+path, obj{"room_id": id})
		h.alice.refused(409, "M_UNKNOWN", "PUT "+path, obj{"room_id": id})
		for range 2 { // a request that the fleet does again is answered as it was
			if err := h.putAlias(t.Context(), alias{name: "#once:example.org", roomID: id, creator: h.alice.id}, "the same"); err != nil {
				t.Error(err)
			}
		}
		h.alice.Want(200, "DELETE /_matrix/client/v3/directory/room/%23once:example.org", nil)
		h.alice.refused(400, "M_INVALID_PARAM", "PUT /_matrix/client/v3/directory/room/%23:example.org", obj{"room_id": id})
		other := h.alice.create(obj{"preset": "public_chat"})
		h.alice.refused(409, "M_UNKNOWN", "PUT "+path, obj{"room_id": other})
		h.bob.refused(409, "M_UNKNOWN", "PUT "+path, obj{"room_id": h.bob.create(nil)})
		h.bob.Want(200, "POST /_matrix/client/v3/join/"+esc(other), nil)
		h.bob.refused(409, "M_UNKNOWN", "PUT "+path, obj{"room_id": other})
		h.alice.refused(400, "M_INVALID_PARAM", "PUT /_matrix/client/v3/directory/room/%23x:other.org", obj{"room_id": id})
		h.alice.refused(400, "M_INVALID_PARAM", "PUT /_matrix/client/v3/directory/room/x", obj{"room_id": id})
		h.nobody.Want(400, "GET /_matrix/client/v3/directory/room/here:example.org", nil)
		if a := h.nobody.Want(200, "GET "+path, nil); a.Get("room_id").String() != id || a.Get("servers.0").String() != server {
			t.Fatalf("%s", a.Body)
		}
		if got := h.bob.Want(200, "POST /_matrix/client/v3/join/%23here:example.org", nil).Get("room_id").String(); got != id {
			t.Fatal(got)
		}
		h.alice.state(id, "m.room.canonical_alias", "", obj{"alias": "#here:example.org"})
		if got := h.bob.Want(200, at("GET", id, "aliases"), nil).Get("aliases.0").String(); got != "#here:example.org" {
			t.Fatal(got)
		}
		h.carol.refused(403, "M_FORBIDDEN", at("GET", id, "aliases"), nil)
		h.bob.refused(403, "M_FORBIDDEN", "DELETE "+path, nil)
		h.carol.refused(403, "M_FORBIDDEN", "DELETE "+path, nil)
		h.alice.Want(200, "DELETE "+path, nil)
		h.alice.refused(404, "M_NOT_FOUND", "DELETE "+path, nil)
		if h.alice.Want(200, at("GET", id, "state/m.room.canonical_alias"), nil).Get("alias").Exists() {
			t.Fatal("the alias is gone and still canonical")
		}
		h.carol.refused(404, "M_NOT_FOUND", "POST /_matrix/client/v3/join/%23here:example.org", nil)
		h.carol.refused(404, "M_NOT_FOUND", "POST /_matrix/client/v3/join/!nothere:example.org", nil)
		h.carol.refused(400, "M_INVALID_PARAM", "POST /_matrix/client/v3/join/nothing", nil)
	})
}

func relates(kind, id string, more obj) obj {
	rel := obj{"rel_type": kind, "event_id": id}
	content := obj{"m.relates_to": rel, "msgtype": "m.text", "body": "related"}
	for k, v := range more {
		if k == "key" {
			rel[k] = v
		} else {
			content[k] = v
		}
	}
	return content
}

func TestRelations(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		h.bob.join(id)
		root := h.alice.say(id, "root")
		h.bob.send(id, "m.reaction", relates("m.annotation", root, obj{"key": "+1"}))
		h.bob.refused(400, "M_DUPLICATE_ANNOTATION", at("PUT", id, "send/m.reaction/again"), relates("m.annotation", root, obj{"key": "+1"}))
		h.alice.send(id, "m.reaction", relates("m.annotation", root, obj{"key": "+1"}))
		h.bob.send(id, "m.room.message", relates("m.replace", root, obj{"m.new_content": obj{"body": "not mine"}}))
		h.alice.send(id, "m.room.message", relates("m.replace", root, obj{"m.new_content": obj{"body": "edit 1"}}))
		time.Sleep(2 * time.Millisecond) // of edits of one millisecond the larger id is the newer one
		edit := h.alice.send(id, "m.room.message", relates("m.replace", root, obj{"m.new_content": obj{"body": "edit 2"}}))
		reference := h.bob.send(id, "org.example.ref", relates("m.reference", root, nil))
		one := h.bob.send(id, "m.room.message", relates("m.thread", root, nil))
		two := h.bob.send(id, "m.room.message", relates("m.thread", root, nil))
		h.bob.send(id, "m.room.message", relates("m.replace", two, obj{"m.new_content": obj{"body": "reply edited"}}))
		h.bob.refused(400, "M_UNKNOWN", at("PUT", id, "send/m.room.message/nested"), relates("m.thread", one, nil))

		check := func(p *person, mine bool) {
			t.Helper()
			a := p.Want(200, at("GET", id, "event/"+esc(root)), nil)
			rel := a.Get(`unsigned.m\.relations`)
			if rel.Get(`m\.replace.event_id`).String() != edit || rel.Get(`m\.replace.content.m\.new_content.body`).String() != "edit 2" {
				t.Fatalf("the edit: %s", a.Body)
			}
			if rel.Get(`m\.reference.chunk.0.event_id`).String() != reference || rel.Get(`m\.annotation`).Exists() {
				t.Fatalf("the reference: %s", a.Body)
			}
			th := rel.Get(`m\.thread`)
			if th.Get("count").Int() != 2 || th.Get("latest_event.event_id").String() != two || th.Get("current_user_participated").Bool() != mine {
				t.Fatalf("the thread: %s", a.Body)
			}
			if th.Get(`latest_event.unsigned.m\.relations.m\.replace.content.m\.new_content.body`).String() != "reply edited" {
				t.Fatalf("the edit in the thread: %s", a.Body)
			}
		}
		check(h.alice, true)
		check(h.bob, true)
		h.carol.join(id)
		check(h.carol, false)

		list := func(p *person, rest string) (types []string, next string) {
			t.Helper()
			a := p.Want(200, at1("GET", id, "relations/"+esc(root)+rest), nil)
			for _, e := range a.Get("chunk").Array() {
				types = append(types, e.Get(`content.m\.relates_to.rel_type`).String())
			}
			return types, a.Get("next_batch").String()
		}
		types, next := list(h.bob, "?limit=3")
		if fmt.Sprint(types) != "[m.thread m.thread m.reference]" || next == "" {
			t.Fatal(types, next)
		}
		types, next = list(h.bob, "?limit=50&from="+next)
		if fmt.Sprint(types) != "[m.replace m.replace m.replace m.annotation m.annotation]" || next != "" {
			t.Fatal(types, next)
		}
		if types, _ = list(h.bob, "/m.thread"); len(types) != 2 {
			t.Fatal(types)
		}
		if types, _ = list(h.bob, "/m.annotation/m.reaction?dir=f"); len(types) != 2 {
			t.Fatal(types)
		}
		if types, _ = list(h.bob, "?recurse=true&limit=100"); len(types) != 9 {
			t.Fatal(types)
		}
		if got := h.bob.Want(200, at1("GET", id, "relations/"+esc(root)+"?recurse=true"), nil).Get("recursion_depth").Int(); got != 3 {
			t.Fatal(got)
		}

		other := h.alice.say(id, "another root")
		h.alice.send(id, "m.room.message", relates("m.thread", other, nil))
		threads := h.bob.Want(200, at1("GET", id, "threads?limit=1"), nil)
		if threads.Get("chunk.0.event_id").String() != other || !threads.Get("next_batch").Exists() {
			t.Fatalf("%s", threads.Body)
		}
		threads = h.bob.Want(200, at1("GET", id, "threads?limit=1&from="+threads.Get("next_batch").String()), nil)
		if threads.Get("chunk.0.event_id").String() != root || threads.Get("next_batch").Exists() {
			t.Fatalf("%s", threads.Body)
		}
		threads = h.bob.Want(200, at1("GET", id, "threads?include=participated"), nil)
		if threads.Get("chunk.0.event_id").String() != root || len(threads.Get("chunk").Array()) != 1 {
			t.Fatalf("%s", threads.Body)
		}
		h.alice.Want(200, at("PUT", id, "redact/"+esc(edit)+"/e"), obj{})
		if got := h.bob.Want(200, at("GET", id, "event/"+esc(root)),
			nil).Get(`unsigned.m\.relations.m\.replace.content.m\.new_content.body`).String(); got != "edit 1" {
			t.Fatal(got)
		}
		h.carol.leave(id)
		h.alice.send(id, "m.room.message", relates("m.replace", root, obj{"m.new_content": obj{"body": "secret"}}))
		if a := h.carol.Want(200, at("GET", id, "event/"+esc(root)), nil); strings.Contains(string(a.Body), "secret") {
			t.Fatalf("an edit after the leave is seen: %s", a.Body)
		}
	})
}

func TestMessagesFilterAndContext(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		h.bob.join(id)
		var ids []string
		for i := range 10 {
			p := h.alice
			if i%2 == 1 {
				p = h.bob
			}
			ids = append(ids, p.say(id, fmt.Sprint(i)))
		}
		h.bob.send(id, "m.room.message", obj{"body": "file", "url": "mxc://x/y"})
		get := func(query string) (out []string) {
			t.Helper()
			a := h.alice.Want(200, at("GET", id, "messages?limit=100&"+query), nil)
			for _, e := range a.Get("chunk").Array() {
				out = append(out, e.Get("content.body").String())
			}
			return out
		}
		for filter, want := range map[string]string{
			`{"types":["m.room.message"],"senders":["@bob:example.org"],"contains_url":false}`: "[9 7 5 3 1]",
			`{"contains_url":true}`: "[file]",
			`{"types":["m.room.mess*"],"not_senders":["@bob:example.org"]}`:     "[8 6 4 2 0]",
			`{"not_types":["m.room.*"]}`:                                        "[]",
			`{"types":[]}`:                                                      "[]",
			`{"not_rooms":["` + id + `"]}`:                                      "[]",
			`{"related_by_rel_types":["m.thread"]}`:                             "[]",
			`{"related_by_senders":["@bob:example.org"],"types":["*message*"]}`: "[]",
		} {
			if got := fmt.Sprint(get("dir=b&filter=" + esc(filter))); got != want {
				t.Errorf("%s: found %s, expected %s", filter, got, want)
			}
		}
		for _, bad := range []string{
			"messages", "messages?dir=x", "messages?dir=b&limit=x", "messages?dir=b&limit=-1",
			"messages?dir=b&from=x", "messages?dir=b&to=s1", "messages?dir=b&from=t-1",
		} {
			if a := h.alice.Call(at("GET", id, bad), nil); a.Status != 400 {
				t.Errorf("%s: %d %s", bad, a.Status, a.Body)
			}
		}
		for _, bad := range []string{"[]", "{", `{"types":1}`, `{"limit":-1}`, `{"types":["\u0000"]}`} {
			if a := h.alice.Call(at("GET", id, "messages?dir=b&filter="+esc(bad)), nil); a.Status != 400 {
				t.Errorf("%s: %d %s", bad, a.Status, a.Body)
			}
		}
		lazy := h.alice.Want(200, at("GET", id, "messages?dir=b&limit=1&filter="+esc(`{"lazy_load_members":true}`)), nil)
		if len(lazy.Get("state").Array()) != 1 || lazy.Get("state.0.state_key").String() != h.bob.id {
			t.Fatalf("%s", lazy.Body)
		}
		c := h.alice.Want(200, at("GET", id, "context/"+esc(ids[5])+"?limit=4"), nil)
		if c.Get("event.event_id").String() != ids[5] || c.Get("events_before.0.event_id").String() != ids[4] ||
			c.Get("events_before.1.event_id").String() != ids[3] ||
			c.Get("events_after.0.event_id").String() != ids[6] ||
			c.Get("events_after.1.event_id").String() != ids[7] ||
			len(c.Get("state").Array()) < 6 {
			t.Fatalf("%s", c.Body)
		}
		before := h.alice.Want(200, at("GET", id, "messages?dir=b&limit=1&from="+c.Get("start").String()), nil)
		after := h.alice.Want(200, at("GET", id, "messages?dir=f&limit=1&from="+c.Get("end").String()), nil)
		if before.Get("chunk.0.event_id").String() != ids[2] || after.Get("chunk.0.event_id").String() != ids[8] {
			t.Fatalf("%s %s", before.Body, after.Body)
		}
		one := h.alice.Want(200, at("GET", id, "context/"+esc(ids[5])+"?limit=0"), nil)
		if len(one.Get("events_before").Array()) != 0 || len(one.Get("events_after").Array()) != 0 {
			t.Fatalf("%s", one.Body)
		}
		e, err := h.Event(context.Background(), ids[5])
		if err != nil {
			t.Fatal(err)
		}
		near := h.alice.Want(200, at1("GET", id, fmt.Sprintf("timestamp_to_event?dir=f&ts=%d", e.OriginServerTS)), nil)
		if near.Get("origin_server_ts").Int() != e.OriginServerTS {
			t.Fatalf("%s", near.Body)
		}
		h.alice.refused(404, "M_NOT_FOUND", at1("GET", id, "timestamp_to_event?dir=b&ts=1"), nil)
		h.carol.refused(403, "M_FORBIDDEN", at1("GET", id, "timestamp_to_event?dir=f&ts=1"), nil)
	})
}

func TestIgnoredAreNotShown(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		h.bob.join(id)
		h.bob.say(id, "noise")
		h.alice.say(id, "signal")
		if err := h.Accounts.PutAccountData(context.Background(), h.alice.id, "", "m.ignored_user_list",
			json.RawMessage(`{"ignored_users":{"@bob:example.org":{}}}`)); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(h.alice.bodies(id)); got != "[signal]" {
			t.Fatal(got)
		}
		root, other := h.alice.say(id, "root"), h.alice.say(id, "other root")
		h.carol.join(id)
		h.bob.send(id, "m.room.message", relates("m.thread", root, nil))
		h.carol.send(id, "m.room.message", relates("m.thread", other, nil))
		h.bob.send(id, "m.room.message", relates("m.thread", other, nil))
		for who, want := range map[*person]int{h.alice: 1, h.carol: 2} {
			if a := who.Want(200, at1("GET", id, "threads"), nil); len(a.Get("chunk").Array()) != want ||
				a.Get("chunk.0.event_id").String() != other {
				t.Errorf("expected %d threads, the first %s, found %s", want, other, a.Body)
			}
		}
	})
}

func TestUpgrade(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for _, c := range []struct{ from, to string }{{"10", "11"}, {"11", "12"}, {"12", "12"}, {"12", "11"}} {
			alias := "up" + c.from + c.to
			old := h.alice.create(obj{
				"preset": "public_chat", "room_version": c.from, "name": "N", "topic": "T", "room_alias_name": alias, "visibility": "public",
				"creation_content": obj{"type": "org.example.kind"},
			})
			h.bob.join(old)
			h.alice.Want(200, at("POST", old, "ban"), obj{"user_id": h.carol.id})
			h.bob.refused(403, "M_FORBIDDEN", at("POST", old, "upgrade"), obj{"new_version": c.to})
			h.alice.refused(400, "M_UNSUPPORTED_ROOM_VERSION", at("POST", old, "upgrade"), obj{"new_version": "nope"})
			id := h.alice.Want(200, at("POST", old, "upgrade"), obj{"new_version": c.to}).Get("replacement_room").String()
			state := func(id, typ string) string {
				t.Helper()
				return string(h.alice.Want(200, at("GET", id, "state/"+typ), nil).Body)
			}
			if got := h.alice.Want(200, at("GET", old, "state/m.room.tombstone"), nil).Get("replacement_room").String(); got != id {
				t.Fatal(got)
			}
			create := h.alice.Want(200, at("GET", id, "state/m.room.create"), nil)
			if create.Get("predecessor.room_id").String() != old || create.Get("room_version").String() != c.to ||
				create.Get("type").String() != "org.example.kind" {
				t.Fatalf("%s", create.Body)
			}
			for _, typ := range []string{"m.room.name", "m.room.topic", "m.room.join_rules", "m.room.history_visibility"} {
				if state(id, typ) != state(old, typ) {
					t.Errorf("%s was not taken over", typ)
				}
			}
			if got := h.nobody.Want(200, "GET /_matrix/client/v3/directory/room/%23"+alias+":example.org", nil).Get("room_id").String(); got != id {
				t.Fatal("the alias was not moved")
			}
			if got := h.alice.Want(200, at("GET", id, "state/m.room.canonical_alias"), nil).Get("alias").String(); got != "#"+alias+":example.org" {
				t.Fatal(got)
			}
			h.bob.refused(403, "M_FORBIDDEN", at("PUT", old, "send/m.room.message/x"), obj{"body": "x"})
			h.bob.join(id)
			h.bob.say(id, "here now")
			h.carol.refused(403, "M_FORBIDDEN", at("POST", id, "join"), obj{})
			h.alice.state(id, "m.room.name", "", obj{"name": "still in power"})
			if v, err := h.DirectoryVisibility(context.Background(), id); err != nil || v != "public" {
				t.Fatal(v, err)
			}
		}
	})
}

func TestProfileAndDeactivation(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		ctx := context.Background()
		id := h.alice.create(obj{"preset": "public_chat"})
		if _, err := h.Accounts.CreateUser(ctx, accounts.NewUser{Name: "bob"}); err != nil {
			t.Fatal(err)
		}
		h.bob.join(id)
		if err := h.Accounts.SetProfile(ctx, h.bob.id, "displayname", json.RawMessage(`"Robert"`)); err != nil {
			t.Fatal(err)
		}
		if err := h.ProfileChanged(ctx, h.bob.id, "displayname"); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for h.alice.Want(200, at("GET", id, "joined_members"), nil).Get("joined."+strings.ReplaceAll(h.bob.id, ".",
			`\.`)+".display_name").String() != "Robert" {
			if time.Now().After(deadline) {
				t.Fatal("the new name did not come")
			}
			time.Sleep(5 * time.Millisecond)
		}
		shares, err := h.SharesRoom(ctx, h.alice.id, h.bob.id)
		if err != nil || !shares {
			t.Fatal(shares, err)
		}
		if users, err := h.UsersSharingRoom(ctx, h.alice.id); err != nil || fmt.Sprint(users) != "[@bob:example.org]" {
			t.Fatal(users, err)
		}
		head, _, err := h.Head(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		heroes, joined, invited, err := h.RoomSummary(ctx, head, h.alice.id)
		if err != nil || fmt.Sprint(heroes) != "[@bob:example.org]" || joined != 2 || invited != 0 {
			t.Fatal(heroes, joined, invited, err)
		}
		stripped, err := h.StrippedState(ctx, head.Root, h.bob.id)
		if err != nil || len(stripped) != 3 || !strings.Contains(string(stripped[2]), `"membership":"join"`) {
			t.Fatalf("%s %v", stripped, err)
		}
		for range 2 {
			if err := h.UserDeactivated(ctx, h.bob.id, false); err != nil {
				t.Fatal(err)
			}
		}
		if m, err := h.Membership(ctx, h.bob.id, id); err != nil || m.Membership != event.MembershipLeave {
			t.Fatal(m, err)
		}
		if shares, err := h.SharesRoom(ctx, h.alice.id, h.bob.id); err != nil || shares {
			t.Fatal(shares, err)
		}
	})
}

func TestSummariesAndGuests(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"name": "Open", "preset": "public_chat"})
		closed := h.alice.create(obj{"name": "Closed", "preset": "private_chat"})
		h.bob.join(id)
		a := h.nobody.Want(200, "GET /_matrix/client/v1/room_summary/"+esc(id), nil)
		if a.Get("name").String() != "Open" || a.Get("num_joined_members").Int() != 2 || a.Get("membership").Exists() ||
			a.Get("join_rule").String() != "public" {
			t.Fatalf("%s", a.Body)
		}
		h.nobody.Want(404, "GET /_matrix/client/v1/room_summary/"+esc(closed), nil)
		h.bob.refused(404, "M_NOT_FOUND", "GET /_matrix/client/v1/room_summary/"+esc(closed), nil)
		h.bob.refused(404, "M_NOT_FOUND", "GET /_matrix/client/v1/room_summary/!x:example.org", nil)
		if got := h.alice.Want(200, "GET /_matrix/client/v1/room_summary/"+esc(closed), nil).Get("membership").String(); got != "join" {
			t.Fatal(got)
		}
		guest := &person{h.nobody.As("guest"), t, "@guest:example.org"}
		guest.refused(403, "M_GUEST_ACCESS_FORBIDDEN", at("POST", id, "join"), obj{})
		h.alice.state(id, "m.room.guest_access", "", obj{"guest_access": "can_join"})
		guest.join(id)
		guest.say(id, "hello")
	})
}

func TestInvitesMayBeBlocked(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(nil)
		err := h.Accounts.PutAccountData(
			context.Background(),
			h.bob.id,
			"",
			"m.invite_permission_config",
			json.RawMessage(`{"default_action":"block"}`),
		)
		if err != nil {
			t.Fatal(err)
		}
		h.alice.refused(403, "M_INVITE_BLOCKED", at("POST", id, "invite"), obj{"user_id": h.bob.id})
		h.alice.refused(403, "M_INVITE_BLOCKED", "POST /_matrix/client/v3/createRoom", obj{"invite": []string{h.bob.id}})
		h.alice.refused(403, "M_FORBIDDEN", at("POST", id, "invite"), obj{"medium": "email", "address": "x@example.org"})
		h.alice.refused(400, "M_MISSING_PARAM", at("POST", id, "invite"), obj{})
	})
}

func TestSuspendedUsersOnlyReadAndLeave(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id, own := h.alice.create(obj{"preset": "public_chat"}), ""
		h.bob.join(id)
		own = h.bob.say(id, "mine")
		others := h.alice.say(id, "hers")
		set := func(on bool) {
			bob := *h.people["bob"]
			bob.Suspended = on
			h.people["bob"] = &bob
		}
		set(true)
		h.bob.refused(403, "M_USER_SUSPENDED", at("PUT", id, "send/m.room.message/no"), obj{"body": "x"})
		h.bob.refused(403, "M_USER_SUSPENDED", at("PUT", id, "state/m.room.member/"+esc(h.bob.id)), obj{"membership": "join", "displayname": "x"})
		h.bob.refused(403, "M_USER_SUSPENDED", at("PUT", id, "redact/"+esc(others)+"/1"), obj{})
		h.bob.refused(403, "M_USER_SUSPENDED", "POST /_matrix/client/v3/createRoom", obj{})
		h.bob.refused(403, "M_USER_SUSPENDED", at("POST", id, "invite"), obj{"user_id": h.carol.id})
		h.bob.Want(200, at("PUT", id, "redact/"+esc(own)+"/1"), obj{})
		if got := fmt.Sprint(h.bob.bodies(id)); got != "[hers]" {
			t.Fatal(got)
		}
		h.bob.leave(id)
		h.bob.refused(403, "M_USER_SUSPENDED", at("POST", id, "join"), obj{})
		set(false)
		h.bob.join(id)
	})
}

func TestTokensOfSync(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		h.alice.say(id, "before")
		positions := h.Stream().Positions()
		h.alice.say(id, "after")
		token := h.layout.Encode(h.Process.LogEpoch(), positions, "")
		back := h.alice.Want(200, at("GET", id, "messages?dir=b&limit=1&from="+token), nil)
		on := h.alice.Want(200, at("GET", id, "messages?dir=f&limit=1&from="+token), nil)
		if back.Get("chunk.0.content.body").String() != "before" || on.Get("chunk.0.content.body").String() != "after" {
			t.Fatalf("%s %s", back.Body, on.Body)
		}
		to := h.alice.Want(200, at("GET", id, "messages?dir=b&limit=50&to="+token), nil)
		if len(to.Get("chunk").Array()) != 1 || to.Get("chunk.0.content.body").String() != "after" || to.Get("end").Exists() {
			t.Fatalf("%s", to.Body)
		}
		// Where a token does not say the place, by its history or its number of shards, reading begins at an end.
		for _, odd := range []string{
			h.layout.Encode(h.Process.LogEpoch()+1, positions, ""),
			stream.NewLayout(stream.Part{Number: h.Stream().Number(), Generation: 1, N: 2 * Shards}).Encode(h.Process.LogEpoch(), make([]int64,
				2*Shards), ""),
			stream.NewLayout(stream.Part{Number: 2, N: 8}).Encode(h.Process.LogEpoch(), make([]int64, 8), ""),
		} {
			for _, c := range []struct{ ask, path, want string }{
				{"messages?dir=b&limit=2&from=", "chunk.#.content.body", `["after","before"]`},
				{"messages?dir=f&limit=1&from=", "chunk.#.type", `["m.room.create"]`},
				{"messages?dir=b&limit=50&to=", "chunk.@reverse.0.type", `"m.room.create"`},
				{"members?at=", "chunk.#.state_key", `["` + h.alice.id + `"]`},
			} {
				if a := h.alice.Want(200, at("GET", id, c.ask+odd), nil); a.Get(c.path).Raw != c.want {
					t.Errorf("%s of %s: expected %s, found %s", c.ask, odd, c.want, a.Body)
				}
			}
		}
		h.alice.refused(400, "M_INVALID_PARAM", at("GET", id, "messages?dir=b&from="+token[:len(token)-1]), nil)
		h.alice.refused(400, "M_INVALID_PARAM", at("GET", id, "messages?dir=b&from=x"+token[1:]), nil)
	})
}

func FuzzParseFilter(f *testing.F) {
	f.Add(`{"types":["m.*"],"limit":3,"contains_url":true}`, "m.room.message")
	f.Add(`{"not_types":["*"],"senders":[]}`, "")
	f.Add(`{"types":["a*b*c"]}`, "abc")
	f.Fuzz(func(t *testing.T, text, typ string) {
		filter, err := event.ParseFilter(text)
		if err != nil {
			return
		}
		e := &Event{Event: &event.Event{Type: typ, Sender: "@a:b", Content: json.RawMessage(`{}`)}}
		filter.Match(e.Event)
		if where, args := filterCondition(filter, nil, knownRelations{visible: visibleRanges{all: true}}); strings.Count(where, "$") < len(args) {
			t.Fatal(where, args)
		}
	})
}

func FuzzCreateBody(f *testing.F) {
	f.Add([]byte(`{"preset":"public_chat","initial_state":[{"type":"m.room.x","content":{}}],"power_level_content_override":{"users":{}}}`))
	f.Add([]byte(`{"creation_content":{"additional_creators":["@a:b"]},"room_version":"12"}`))
	key, err := matrix.GenerateSigningKey("test", rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, raw []byte) {
		var b Create
		if json.Unmarshal(raw, &b) != nil {
			return
		}
		r := &Rooms{config: Config{DefaultVersion: "12", MaxCreateUsers: 10}, Deps: Deps{ServerName: server, Key: key}}
		v, p, err := r.checkCreate("@a:b", &b)
		if err != nil {
			return
		}
		create, err := r.buildCreate(v, "@a:b", "!x:b", p, &b)
		if err != nil {
			return
		}
		_, _ = r.powerLevels(create, "@a:b", p, &b)
	})
}
