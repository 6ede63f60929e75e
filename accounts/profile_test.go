package accounts

import (
	"errors"
	"testing"

	"lyceum/platform/db"
)

// A write may require the version of a profile, or no more than an active user.
func TestAWriteRequiresProfiles(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		versions := map[string]int64{}
		for _, name := range []string{"active", "gone"} {
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
		const active, gone = "@active:here.test", "@gone:here.test"
		if err := n.Deactivate(t.Context(), gone, false); err != nil {
			t.Fatal(err)
		}
		refusal := errors.New("refused")
		for _, c := range []struct {
			versions map[string]int64
			want     error
		}{
			{map[string]int64{active: 0}, nil},
			{map[string]int64{active: versions[active]}, nil},
			{map[string]int64{active: versions[active] + 1}, refusal},
			{map[string]int64{gone: 0}, refusal},
			{map[string]int64{gone: versions[gone]}, refusal},
			{map[string]int64{active: versions[active], gone: 0}, refusal},
		} {
			err := n.db.Write(t.Context(), func(w *db.Batch) error {
				RequireProfiles(w, refusal, c.versions)
				return nil
			})
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Error(c.versions, err)
			}
		}
	})
}
