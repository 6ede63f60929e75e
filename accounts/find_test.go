package accounts

import (
	"slices"
	"testing"

	"lyceum/platform/role/roletest"
)

// TestNamesSetByEarlierVersionsAreFound: such a version sets the field of the profile and knows no index of names.
func TestNamesSetByEarlierVersionsAreFound(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		const alice = "@alice:here.test"
		n.register("alice").want(200)
		set := func(value string) {
			t.Helper()
			_, err := n.db.Exec(t.Context(), `INSERT INTO profile_fields (user_id, name, value) VALUES ($1, 'displayname', $2)
				ON CONFLICT (user_id, name) DO UPDATE SET value = excluded.value`, alice, value)
			if err != nil {
				t.Fatal(err)
			}
		}
		find := func(word string, want bool) {
			t.Helper()
			got, err := n.Find(t.Context(), []string{word}, "", 10)
			if err != nil || slices.Contains(got, alice) != want {
				t.Errorf("%s: %v %v", word, got, err)
			}
		}
		for _, name := range []string{"Ölga", "Émile"} {
			set(`"` + name + `"`)
			if name != "Ölga" {
				find("ölga", false) // what was indexed before counts no more
			}
			job, _ := roletest.Job(t, n.p)
			if err := n.indexNames(t.Context(), job); err != nil {
				t.Fatal(err)
			}
			find(map[string]string{"Ölga": "ölga", "Émile": "émile"}[name], true)
			find("alice", true)
		}
		find("ölga", false)
		find("_", false)
		if err := n.Deactivate(t.Context(), alice, false); err != nil {
			t.Fatal(err)
		}
		find("alice", false)
		var left int
		if err := n.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM profile_names`).Scan(&left); err != nil || left != 0 {
			t.Errorf("%d names are left: %v", left, err)
		}
	})
}
