package fleet

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
)

// TestProcessesAgreeOnTheName: of processes that start at once over a new database one gives the name; the others take
// it, or end when they were given another.
func TestProcessesAgreeOnTheName(t *testing.T) {
	for _, url := range []string{"sqlite:" + filepath.Join(t.TempDir(), "lyceum.db"), enginestest.TestPostgres(t)} {
		d := dbtest.Open(t, url, Migrations()...)
		given := []string{"a.test", "b.test", "c.test", "a.test", "", ""}
		configs, errs := make([]Config, len(given)), make([]error, len(given))
		var wg sync.WaitGroup
		for i, name := range given {
			configs[i].Server.Name = name
			wg.Go(func() { errs[i] = configs[i].storeName(t.Context(), d) })
		}
		wg.Wait()
		name, err := StoredName(t.Context(), d, d, "")
		if err != nil || name == "" {
			t.Fatalf("stored %q, %v", name, err)
		}
		for i := range given {
			switch {
			case given[i] == "" || given[i] == name:
				if errs[i] != nil || configs[i].Server.Name != name {
					t.Errorf("%q: %q, %v, expected %s", given[i], configs[i].Server.Name, errs[i], name)
				}
			case errs[i] == nil || !strings.Contains(errs[i].Error(), "server.name"):
				t.Errorf("%q: %v, expected that it is refused beside %s", given[i], errs[i], name)
			}
		}
	}
}

// TestNameOfAnOlderDatabase is that of its users.
func TestNameOfAnOlderDatabase(t *testing.T) {
	for _, url := range []string{"sqlite:" + filepath.Join(t.TempDir(), "lyceum.db"), enginestest.TestPostgres(t)} {
		d := dbtest.Open(t, url, Migrations()...)
		for given, want := range map[string]string{"": "", "new.test": "new.test"} { // no users
			if got, err := nameIn(t, d, given); got != want || err != nil {
				t.Errorf("%q, %v, expected %q", got, err, want)
			}
		}
		// The oldest user, made by a command without a name.
		if err := d.Bulk(t.Context(), "INSERT INTO users (user_id, created_ms) VALUES ?",
			[][]any{{"@admin:localhost", 1}, {"@bob:old.test", 2}}); err != nil {
			t.Fatal(err)
		}
		for given, want := range map[string]string{"": "localhost", "localhost": "localhost", "old.test": "old.test", "new.test": "refused"} {
			got, err := nameIn(t, d, given)
			if err != nil {
				got = "refused"
			}
			if got != want {
				t.Errorf("configured %q: %q, %v, expected %q", given, got, err, want)
			}
		}
	}
}

func nameIn(t *testing.T, d *db.DB, given string) (string, error) {
	t.Helper()
	c := &Config{}
	c.Server.Name = given
	err := c.AdoptStoredName(t.Context(), d)
	return c.Server.Name, err
}
