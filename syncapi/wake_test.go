package syncapi

import (
	"testing"

	"lyceum/platform/role/roletest"
)

// The rooms of a user are read again when they could not be read while other users waited for the user's news.
func TestNewsOfOthersWaitUntilTheirRoomsAreRead(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		bob.do(alice.create(obj{"preset": "public_chat"}), "join", nil)
		move := func(from, to string) {
			t.Helper()
			if _, err := h.Process.DB.Exec(t.Context(), "ALTER TABLE "+from+" RENAME TO "+to); err != nil {
				t.Fatal(err)
			}
		}
		known := func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			u := h.users[id("bob")]
			return u != nil && u.loaded
		}
		move("memberships", "away")
		h.mu.Lock()
		if u := h.users[id("bob")]; u != nil {
			h.removeUser(u)
		}
		h.unknownUsers[id("bob")] = struct{}{}
		h.mu.Unlock()
		if err := h.wakeDelayed(t.Context()); err == nil || known() {
			t.Errorf("found %v, known: %v", err, known())
		}
		move("away", "memberships")
		roletest.Until(t, "his rooms are read", known)
	})
}
