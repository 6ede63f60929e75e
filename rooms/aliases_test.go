package rooms

import (
	"testing"

	"lyceum/matrix"
)

const hereAlias = "#here:" + server

func (h *house) remover(who string) remover {
	return remover{h.people[who].UserID, h.people[who].Admin}
}

func (h *house) theAlias(t *testing.T) alias {
	t.Helper()
	a, found, err := h.findAlias(t.Context(), hereAlias)
	if err != nil || !found {
		t.Fatalf("expected the alias, found %v, %v", found, err)
	}
	return a
}

// TestALateRemovalTakesNoAliasOfOthers: a request stands still behind its look at the alias, which is removed meanwhile and given
// to another room.
func TestALateRemovalTakesNoAliasOfOthers(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		const path = "/_matrix/client/v3/directory/room/%23here:" + server
		id, his := h.alice.create(obj{"preset": "public_chat"}), h.bob.create(obj{"preset": "public_chat"})
		for _, who := range []string{"alice", "admin"} {
			h.alice.Want(200, "PUT "+path, obj{"room_id": id})
			h.alice.state(id, "m.room.canonical_alias", "", obj{"alias": hereAlias})
			seen := h.theAlias(t)
			h.alice.Want(200, "DELETE "+path, nil)
			h.bob.Want(200, "PUT "+path, obj{"room_id": his})
			if err := h.removeAlias(t.Context(), h.remover(who), seen); !matrix.HasCode(err, matrix.CodeNotFound) {
				t.Errorf("%s: expected M_NOT_FOUND, found %v", who, err)
			}
			if got := h.nobody.Call("GET "+path, nil); got.Get("room_id").String() != his {
				t.Errorf("%s: expected the alias of bob's room, found %s", who, got.Body)
			}
			h.bob.Want(200, "DELETE "+path, nil)
		}
	})
}

// TestARemovalFollowsAnUpgrade: the alias is the same when the room is another.
func TestARemovalFollowsAnUpgrade(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"room_version": "11", "room_alias_name": "here"})
		seen := h.theAlias(t)
		next := h.alice.Want(200, at("POST", id, "upgrade"), obj{"new_version": "12"}).Get("replacement_room").String()
		if err := h.removeAlias(t.Context(), h.remover("alice"), seen); err != nil {
			t.Fatal(err)
		}
		if got, _, err := h.Resolve(t.Context(), hereAlias); got != "" || err != nil {
			t.Errorf("the alias is of %s, %v", got, err)
		}
		if h.alice.Want(200, at("GET", next, "state/m.room.canonical_alias"), nil).Get("alias").Exists() {
			t.Error("the alias is gone and still canonical")
		}
	})
}

// moderated is a room of alice with an alias, and bob's right to remove it.
func (h *house) moderated(t *testing.T) (id string, seen alias, right removalRight) {
	t.Helper()
	id = h.alice.create(obj{
		"room_version": "11", "preset": "public_chat", "room_alias_name": "here",
		"power_level_content_override": obj{"users": obj{h.alice.id: 100, h.bob.id: 50}},
	})
	h.bob.Want(200, "POST /_matrix/client/v3/join/"+esc(id), nil)
	seen = h.theAlias(t)
	right, err := h.mayRemove(t.Context(), h.remover("bob"), seen)
	if err != nil {
		t.Fatal(err)
	}
	return id, seen, right
}

// TestWhoLostTheRightRemovesNoAlias: bob is demoted, or removed, behind the look at what he may.
func TestWhoLostTheRightRemovesNoAlias(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for name, lose := range map[string]func(id string){
			"demoted": func(id string) { h.alice.state(id, "m.room.power_levels", "", obj{"users": obj{h.alice.id: 100}}) },
			"removed": func(id string) { h.alice.Want(200, at("POST", id, "kick"), obj{"user_id": h.bob.id}) },
		} {
			id, seen, right := h.moderated(t)
			lose(id)
			if done, err := h.deleteAlias(t.Context(), seen, right); done || err != nil {
				t.Errorf("%s: found %v, %v", name, done, err)
			}
			if err := h.removeAlias(t.Context(), h.remover("bob"), seen); !matrix.HasCode(err, matrix.CodeForbidden) {
				t.Errorf("%s: expected M_FORBIDDEN, found %v", name, err)
			}
			if got := h.theAlias(t); got != seen {
				t.Errorf("%s: %+v became %+v", name, seen, got)
			}
			if err := h.removeAlias(t.Context(), h.remover("alice"), seen); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestAModeratorRemovesAnAlias: what others say and who comes meanwhile is no hindrance.
func TestAModeratorRemovesAnAlias(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id, seen, right := h.moderated(t)
		h.alice.say(id, "meanwhile")
		h.carol.Want(200, "POST /_matrix/client/v3/join/"+esc(id), nil)
		if done, err := h.deleteAlias(t.Context(), seen, right); !done || err != nil {
			t.Errorf("found %v, %v", done, err)
		}
	})
}

// TestWhoWasRemovedNamesNoRoom: a request stands still behind its look at the membership.
func TestWhoWasRemovedNamesNoRoom(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		h.bob.Want(200, "POST /_matrix/client/v3/join/"+esc(id), nil)
		h.alice.Want(200, at("POST", id, "kick"), obj{"user_id": h.bob.id})
		if err := h.putAlias(t.Context(), alias{name: hereAlias, roomID: id, creator: h.bob.id}, "once"); !matrix.HasCode(
			err,
			matrix.CodeForbidden,
		) {
			t.Errorf("expected M_FORBIDDEN, found %v", err)
		}
		if got, _, err := h.Resolve(t.Context(), hereAlias); got != "" || err != nil {
			t.Errorf("the alias is of %s, %v", got, err)
		}
	})
}
