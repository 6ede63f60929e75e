package rooms

import (
	"slices"
	"testing"
)

// TestManyMovesAreAnsweredFromMemberships: when the events since the token are too many to be read, nobody is left out.
func TestManyMovesAreAnsweredFromMemberships(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		token := func() (string, []int64) {
			if err := h.Process.Streams.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			v := h.Stream().Positions()
			return h.layout.Encode(h.Process.LogEpoch(), v, ""), v
		}
		bob, carol := h.bob, h.carol
		here, gone := h.alice.create(obj{"preset": "public_chat"}), h.alice.create(obj{"preset": "public_chat"})
		bob.join(here)
		carol.join(gone)
		from, after := token()
		h.alice.Want(200, at("POST", gone, "leave"), obj{})
		h.person(h.nobody, "admin").join(gone) // shared no room with alice
		carol.Want(200, at("POST", gone, "leave"), obj{})
		bob.Want(200, at("POST", here, "leave"), obj{})
		bob.join(here)
		to, _ := token()
		joined, left, err := h.SharedRoomChanges(t.Context(), h.alice.id, from, to, nil)
		if err != nil || !slices.Equal(joined, []string{bob.id}) || !slices.Equal(left, []string{carol.id}) {
			t.Fatalf("by the events: %v, %v, %v", joined, left, err)
		}
		list, err := h.Memberships(t.Context(), h.alice.id)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok, err := h.membershipChanges(t.Context(), list, tokenRange{after, after, 2}); ok || err != nil {
			t.Fatalf("3 events are read, where 2 are the most: %v", err)
		}
		joined, left, err = h.currentSharingChanges(t.Context(), h.alice.id, list, after)
		if err != nil || !slices.Equal(joined, []string{h.alice.id, bob.id}) || !slices.Equal(left, []string{carol.id}) {
			t.Fatalf("by the memberships: %v, %v, %v", joined, left, err)
		}
	})
}
