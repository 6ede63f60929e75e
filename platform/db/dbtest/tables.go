package dbtest

import (
	"path/filepath"
	"testing"

	"lyceum/platform/db"
)

// Tables are the tables that migrations make in an empty database.
func Tables(t *testing.T, sets ...db.Migrations) map[string]db.Table {
	t.Helper()
	d := Open(t, "sqlite:"+filepath.Join(t.TempDir(), "schema.db"), sets...)
	list, err := d.Tables(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]db.Table{}
	for _, table := range list {
		out[table.Name] = table
	}
	delete(out, "migrations") // what package db keeps
	delete(out, "migration_needs")
	return out
}
