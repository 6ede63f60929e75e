package opstest

import (
	"log/slog"
	"path/filepath"
	"testing"

	"lyceum/fleet"
	"lyceum/platform/blob"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
)

// Server is an empty server without processes, over SQLite or PostgreSQL, with the schema of all domains.
func Server(t *testing.T, engine string, sets ...db.Migrations) (*fleet.Config, *db.DB, blob.Store) {
	t.Helper()
	dir := t.TempDir()
	environ := []string{"LYCEUM_SERVER_DATA=" + dir, "LYCEUM_BLOB_DIRECTORY=" + filepath.Join(dir, "blobs")}
	if engine == "postgres" {
		environ = append(environ, "LYCEUM_DATABASE_URL="+enginestest.TestPostgres(t))
	}
	c, err := fleet.Load(conf.Sources{Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	d, err := db.Open(t.Context(), c.DatabaseURL(), db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if len(sets) > 0 {
		if err := db.Migrate(t.Context(), d, slog.New(slog.DiscardHandler), sets...); err != nil {
			t.Fatal(err)
		}
	}
	blobs, err := blob.Open(t.Context(), c.Blob)
	if err != nil {
		t.Fatal(err)
	}
	return c, d, blobs
}
