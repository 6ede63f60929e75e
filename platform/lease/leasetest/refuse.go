package leasetest

import (
	"testing"

	"lyceum/platform/db"
)

// RefuseRelease makes the database refuse the release of leases whose names begin with prefix, until end is called.
func RefuseRelease(t *testing.T, d *db.DB, prefix string) (end func()) {
	t.Helper()
	refuse, allow := "CREATE TRIGGER kept BEFORE UPDATE ON leases WHEN NEW.machine = -1 AND NEW.name LIKE '"+prefix+"%' BEGIN SELECT "+
		"RAISE(FAIL, 'not now'); END", "DROP TRIGGER kept"
	if d.Postgres() {
		refuse, allow = "ALTER TABLE leases ADD CONSTRAINT kept CHECK (machine <> -1 OR name NOT LIKE '"+prefix+"%') NOT VALID",
			"ALTER TABLE leases DROP CONSTRAINT kept"
	}
	do := func(statement string) {
		if _, err := d.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	do(refuse)
	return func() { do(allow) }
}
