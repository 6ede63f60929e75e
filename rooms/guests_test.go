package rooms

import "testing"

// TestGuestsLeaveARoomThatClosesItself: those who are no guests stay, and guests do not come back.
func TestGuestsLeaveARoomThatClosesItself(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		if _, err := h.Process.DB.Exec(t.Context(), "INSERT INTO users (user_id, kind, created_ms) VALUES "+
			"('@guest:example.org', 'guest', 1)"); err != nil {
			t.Fatal(err)
		}
		guest := &person{h.nobody.As("guest"), t, "@guest:example.org"}
		id := h.alice.create(
			obj{"preset": "private_chat", "initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "public"}}}},
		)
		guest.join(id)
		guest.say(id, "hello")
		h.bob.join(id)
		h.alice.state(id, "m.room.guest_access", "", obj{"guest_access": "forbidden"})
		members := h.alice.Want(200, at("GET", id, "members?membership=join"), nil)
		if n := len(members.Get("chunk").Array()); n != 2 {
			t.Errorf("%s", members.Body)
		}
		for _, path := range []string{at("POST", id, "join"), "POST /_matrix/client/v3/join/" + esc(id)} {
			guest.refused(403, "M_GUEST_ACCESS_FORBIDDEN", path, obj{})
		}
		guest.refused(403, "M_GUEST_ACCESS_FORBIDDEN", at("PUT", id, "state/m.room.member/"+esc(guest.id)), obj{"membership": "join"})
		guest.refused(403, "M_FORBIDDEN", at("PUT", id, "send/m.room.message/1"), obj{"body": "b"})
		h.bob.refused(403, "M_FORBIDDEN", at("PUT", id, "state/m.room.guest_access/"), obj{"guest_access": "can_join"})
	})
}

// TestAGuestDoesNothingToOthers, also not where state is set: the guest here has all the power of the room.
func TestAGuestDoesNothingToOthers(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		guest := &person{h.nobody.As("guest"), t, "@guest:example.org"}
		id := h.alice.create(obj{
			"preset": "public_chat", "power_level_content_override": obj{"users": obj{guest.id: 100}},
			"initial_state": []obj{{"type": "m.room.guest_access", "content": obj{"guest_access": "can_join"}}},
		})
		guest.join(id)
		h.bob.join(id)
		for _, membership := range []string{"invite", "ban", "leave", "knock"} {
			guest.refused(403, "M_GUEST_ACCESS_FORBIDDEN", at("PUT", id, "state/m.room.member/"+esc(h.bob.id)), obj{"membership": membership})
		}
		guest.refused(403, "M_GUEST_ACCESS_FORBIDDEN", at("PUT", id, "state/m.room.third_party_invite/token"), obj{"display_name": "b"})
		guest.refused(403, "M_GUEST_ACCESS_FORBIDDEN", at("PUT", id, "state/m.room.member/"+esc(guest.id)), obj{"membership": "ban"})
		h.alice.Want(200, at("GET", id, "state/m.room.member/"+esc(h.bob.id)), nil)
		guest.Want(200, at("PUT", id, "state/m.room.member/"+esc(guest.id)), obj{"membership": "leave"})
	})
}
