package accounts

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"lyceum/platform/caller"
	"lyceum/platform/stream"
)

// TestSessionsAreKeptBesideChangesOfOthers: what is read while other users log in is remembered, else all would be read again and
// again where many do.
func TestSessionsAreKeptBesideChangesOfOthers(t *testing.T) {
	s := newSessions(10)
	changed := func(user string) { s.onRows([]stream.Row{{Key: user}}) }
	kept := func(meanwhile func()) bool {
		hash := tokenHash{1}
		s.tokens.delete(hash)
		_, changes := s.get(hash)
		meanwhile()
		found := &session{}
		found.identity.UserID = "@alice:here.test"
		s.put(hash, found, changes)
		again, _ := s.get(hash)
		return again != nil
	}
	changed("@alice:here.test")
	for name, c := range map[string]struct {
		meanwhile func()
		want      bool
	}{
		"nothing changes": {func() {}, true},
		"another changes": {func() { changed("@bob:here.test") }, true},
		"she changes":     {func() { changed("@alice:here.test"); changed("@bob:here.test") }, false},
		"too many change": {func() {
			changed("@alice:here.test")
			for i := range maxLastChanges {
				changed(fmt.Sprint(i))
			}
		}, false},
	} {
		if got := kept(c.meanwhile); got != c.want {
			t.Errorf("%s: kept is %v", name, got)
		}
	}
	if len(s.lastChange) > maxLastChanges {
		t.Errorf("%d users are remembered", len(s.lastChange))
	}
}

// TestASessionIsReadDespiteManyUnauthenticatedRequests from the same address, of which nobody is known yet.
func TestASessionIsReadDespiteManyUnauthenticatedRequests(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		if n.db.Postgres() { // it has many connections, and the same gate before them
			return
		}
		userID, err := n.CreateUser(t.Context(), NewUser{Name: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := n.IssueToken(t.Context(), userID, "tool")
		if err != nil {
			t.Fatal(err)
		}
		address, cancel := context.WithTimeout(
			caller.NewWork(t.Context(), caller.ID{Network: netip.MustParsePrefix("192.0.2.1/32")}),
			time.Minute,
		)
		defer cancel()
		for range 3 { // as many as one may have
			rows, err := n.db.Query(address, "SELECT 1 UNION ALL SELECT 2")
			if err != nil {
				t.Fatal(err)
			}
			defer rows.Close()
		}
		n.sessions.onRows([]stream.Row{{Key: "@alice:here.test"}}) // it is to be read again
		ctx, end := context.WithTimeout(caller.NewWork(t.Context(), caller.ID{Network: netip.MustParsePrefix("192.0.2.1/32")}), 10*time.Second)
		defer end()
		if _, err := n.Authenticate(ctx, token); err != nil {
			t.Error(err)
		}
	})
}
