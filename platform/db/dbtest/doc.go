// Package dbtest runs a test body on every SQL engine.
package dbtest

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
)

// Run runs body on a fresh SQLite file and on a fresh PostgreSQL database, with the schema of sets.
func Run(t *testing.T, body func(t *testing.T, d *db.DB), sets ...db.Migrations) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { body(t, Open(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"), sets...)) })
	t.Run("postgres", func(t *testing.T) { body(t, Open(t, enginestest.TestPostgres(t), sets...)) })
}

// Open opens a database until the end of the test and migrates it.
func Open(t testing.TB, url string, sets ...db.Migrations) *db.DB {
	t.Helper()
	d, err := db.Open(context.Background(), url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := db.Migrate(context.Background(), d, slog.New(slog.DiscardHandler), sets...); err != nil {
		t.Fatal(err)
	}
	return d
}
