package rooms

import (
	"testing"

	"github.com/tidwall/gjson"
)

// What clients know of other servers and expect of this one.

// TestMembersAtTheBeginning: the token before the first event of a room stands for the room as it began.
func TestMembersAtTheBeginning(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		h.bob.join(id)
		a := h.alice.Want(200, at("GET", id, "members?at=t0"), nil)
		if len(a.Get("chunk").Array()) != 1 || a.Get("chunk.0.state_key").String() != h.alice.id {
			t.Errorf("%s", a.Body)
		}
		hidden := h.alice.create(
			obj{
				"preset":        "public_chat",
				"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}},
			},
		)
		h.bob.join(hidden)
		if a := h.bob.Want(200, at("GET", hidden, "members?at=t0"), nil); len(a.Get("chunk").Array()) > 1 {
			t.Errorf("%s", a.Body)
		}
	})
}

// TestContentOfAJoin: what a client adds to a join is content of the member event.
func TestContentOfAJoin(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for _, route := range []string{"join/", "rooms/"} {
			id, end := h.alice.create(obj{"preset": "public_chat"}), ""
			if route == "rooms/" {
				end = "/join"
			}
			h.bob.Want(200, "POST /_matrix/client/v3/"+route+esc(id)+end, obj{
				"foo": obj{"bar": 1}, "reason": "curious", "membership": "ban", "join_authorised_via_users_server": h.alice.id,
			})
			a := h.bob.Want(200, at("GET", id, "state/m.room.member/"+esc(h.bob.id)), nil)
			if a.Get("foo.bar").Int() != 1 || a.Get("reason").String() != "curious" || a.Get("membership").String() != "join" ||
				a.Get("join_authorised_via_users_server").Exists() {
				t.Errorf("%s: %s", route, a.Body)
			}
			h.carol.refused(400, "M_BAD_JSON", "POST /_matrix/client/v3/"+route+esc(id)+end, obj{"reason": 1})
		}
	})
}

// TestEndOfPages: a page with events has a token to go on from, but for the one with the event that made the room.
func TestEndOfPages(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		h.alice.say(id, "one")
		for query, want := range map[string]bool{
			"dir=b&limit=100": false, "dir=b&limit=1": true, `dir=b&filter={"types":["m.room.message"]}`: true,
			`dir=b&filter={"types":["m.none"]}`: false, "dir=f&limit=100": true,
		} {
			a := h.alice.Want(200, at("GET", id, "messages?"+query), nil)
			if a.Get("end").Exists() != want {
				t.Errorf("%s: %s", query, a.Body)
			}
			if want {
				next := h.alice.Want(200, at("GET", id, "messages?"+query+"&from="+a.Get("end").String()), nil)
				if next.Get("chunk.0.event_id").Exists() && next.Get("chunk.0.event_id").String() == a.Get("chunk.0.event_id").String() {
					t.Errorf("%s: %s comes again", query, a.Get("chunk.0"))
				}
			}
		}
		h.alice.leave(id)
		h.alice.Want(200, at("POST", id, "forget"), obj{})
		h.alice.refused(403, "M_FORBIDDEN", at("GET", id, "messages"), nil)
		h.bob.refused(403, "M_FORBIDDEN", at("GET", id, "messages"), nil)
	})
}

// TestContextOfAHiddenEvent: a member is told that the event is not for her, and others do not learn that there is one.
func TestContextOfAHiddenEvent(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(
			obj{
				"preset":        "public_chat",
				"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}},
			},
		)
		said := h.alice.say(id, "before")
		other := h.alice.say(h.alice.create(nil), "elsewhere")
		h.bob.join(id)
		h.bob.refused(403, "M_FORBIDDEN", at("GET", id, "context/"+esc(said)), nil)
		h.bob.refused(404, "M_NOT_FOUND", at("GET", id, "event/"+esc(said)), nil)
		h.bob.refused(404, "M_NOT_FOUND", at("GET", id, "context/"+esc(other)), nil)
		h.bob.refused(404, "M_NOT_FOUND", at("GET", id, "context/$none"), nil)
		h.carol.refused(404, "M_NOT_FOUND", at("GET", id, "context/"+esc(said)), nil)
	})
}

// TestSendWithoutTransaction: each request is another event.
func TestSendWithoutTransaction(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		first := h.alice.Want(200, at("POST", id, "send/m.room.message"), obj{"body": "b"}).Get("event_id").String()
		second := h.alice.Want(200, at("POST", id, "send/m.room.message"), obj{"body": "b"}).Get("event_id").String()
		if first == "" || first == second {
			t.Errorf("%q and %q", first, second)
		}
		if a := h.alice.Want(200, at("GET", id, "event/"+esc(first)), nil); a.Get("unsigned.transaction_id").Exists() ||
			a.Get("content.body").String() != "b" {
			t.Errorf("%s", a.Body)
		}
		h.alice.Want(200, at("POST", id, "send/m.room.redaction"), obj{"redacts": second})
		h.bob.refused(403, "M_FORBIDDEN", at("POST", id, "send/m.room.message"), obj{"body": "b"})
	})
}

// TestInvitesAreDated: the events of an invite that say who invited whom, and the one that made the room, have ids and times.
func TestInvitesAreDated(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"name": "N", "invite": []string{h.bob.id}})
		head, _, err := h.Head(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		list, err := h.StrippedState(t.Context(), head.Root, h.bob.id, h.alice.id)
		if err != nil {
			t.Fatal(err)
		}
		for _, raw := range list {
			e := gjson.ParseBytes(raw)
			dated := e.Get("type").String() == "m.room.member" || e.Get("type").String() == "m.room.create"
			if (e.Get("origin_server_ts").Int() > 1e12) != dated || (e.Get("event_id").String() != "") != dated {
				t.Errorf("%s", raw)
			}
		}
	})
}
