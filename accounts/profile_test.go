package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

// TestUsersAreLockedInOneOrder: a group of changes holds no user while it waits for one whose id comes before.
func TestUsersAreLockedInOneOrder(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		if !n.db.Postgres() { // SQLite has no rows to lock
			return
		}
		var batch []*stream.Entry
		for i, name := range []string{"b", "a"} {
			id, err := n.CreateUser(t.Context(), NewUser{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			batch = append(batch, &stream.Entry{Row: stream.Row{Key: id, Pos: int64(1000 + i), Value: &pendingChange{
				sessionChange: sessionChange{Kind: changeProfile, Field: fieldName, Value: json.RawMessage(`"x"`), At: 1},
			}}})
		}
		done := make(chan error, 1)
		err := n.db.Tx(t.Context(), func(tx *db.Tx) error {
			lock := func(id, how string) error {
				var one int
				return tx.QueryRow(t.Context(), "SELECT 1 FROM users WHERE user_id = $1 FOR SHARE "+how, id).Scan(&one)
			}
			if err := lock("@a:here.test", ""); err != nil {
				return err
			}
			go func() {
				done <- n.db.Write(context.Background(), func(w *db.Batch) error { return sessionStore{}.Insert(context.Background(), w, batch) })
			}()
			roletest.Until(t, "it waits", func() bool {
				var waits bool
				err := n.db.QueryRow(t.Context(), "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)").Scan(&waits)
				return err == nil && waits
			})
			return lock("@b:here.test", "NOWAIT")
		})
		if err != nil {
			t.Errorf("the second user is locked by one who waits for the first: %v", err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A write may require active users, and notes of which profiles it was made that are not those of now.
func TestAWriteRecordsOldProfiles(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		versions := map[string]int64{}
		for _, name := range []string{"active", "other", "gone"} {
			id, err := n.CreateUser(t.Context(), NewUser{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			profiles, err := n.Profiles(t.Context(), []string{id})
			if err != nil {
				t.Fatal(err)
			}
			versions[id] = profiles[id].Version
		}
		const active, other, gone = "@active:here.test", "@other:here.test", "@gone:here.test"
		if err := n.Deactivate(t.Context(), gone, false); err != nil {
			t.Fatal(err)
		}
		refusal := errors.New("refused")
		for _, c := range []struct {
			users []string
			made  []ProfileCopy
			want  error
			noted []string
		}{
			{[]string{active}, nil, nil, nil},
			{[]string{gone}, nil, refusal, nil},
			{[]string{active, gone}, []ProfileCopy{{active, "1", "a", 0}}, refusal, nil},
			{[]string{active}, []ProfileCopy{{active, "1", "b", versions[active]}}, nil, nil},
			{[]string{active}, []ProfileCopy{{active, "1", "c", versions[active] + 1}, {active, "2", "c", versions[active]}}, nil, []string{"c"}},
			{
				[]string{active, other},
				[]ProfileCopy{{active, "1", "d", versions[active] - 1}, {other, "1", "e", versions[other] - 1}},
				nil,
				[]string{"d", "e"},
			},
		} {
			err := n.db.Write(t.Context(), func(w *db.Batch) error {
				RequireActive(w, refusal, c.users)
				if c.made != nil {
					RecordOldProfiles(w, c.made)
				}
				return nil
			})
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Error(c.users, err)
			}
			noted, err := db.Texts(n.db.Query(t.Context(), "SELECT id FROM old_profiles ORDER BY id"))
			if err != nil || !slices.Equal(noted, c.noted) {
				t.Errorf("%v: noted are %q, expected %q: %v", c.made, noted, c.noted, err)
			}
		}
	})
}
