package db_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
)

// TestForeignDatabaseIsLeftAlone: neither an opening nor a migration changes the database of another program.
func TestForeignDatabaseIsLeftAlone(t *testing.T) {
	for name, table := range map[string]string{
		"a homeserver":       "CREATE TABLE users (name TEXT)",
		"its own migrations": "CREATE TABLE migrations (id BIGINT, batch BIGINT)",
	} {
		for _, engine := range []string{"sqlite", "postgres"} {
			t.Run(engine+" "+name, func(t *testing.T) {
				url, file := "", filepath.Join(t.TempDir(), "other.db")
				if engine == "postgres" {
					url = enginestest.TestPostgres(t)
					other, err := db.Open(t.Context(), url, db.Options{})
					if err != nil {
						t.Fatal(err)
					}
					defer other.Close()
					if _, err := other.Exec(t.Context(), table); err != nil {
						t.Fatal(err)
					}
				} else {
					url = "sqlite:" + file
					other, err := sql.Open("sqlite", "file:"+file) // its journal is not a WAL
					if err != nil {
						t.Fatal(err)
					}
					if _, err := other.Exec(table); err != nil {
						t.Fatal(err)
					}
					if err := other.Close(); err != nil {
						t.Fatal(err)
					}
				}
				before, _ := os.ReadFile(file) // none with PostgreSQL
				if _, err := db.Open(t.Context(), url, db.Options{Own: true}); !errors.Is(err, db.ErrForeign) {
					t.Errorf("opened as ours: %v", err)
				}
				if after, _ := os.ReadFile(file); !bytes.Equal(before, after) {
					t.Error("the file changed")
				}
				d, err := db.Open(t.Context(), url, db.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				if err := db.Migrate(t.Context(), d, slog.New(slog.DiscardHandler), items); !errors.Is(err, db.ErrForeign) {
					t.Errorf("migrated: %v", err)
				}
				if tables, err := d.Tables(t.Context(), d); err != nil || len(tables) != 1 {
					t.Errorf("tables %v, %v, expected only the other program's", tables, err)
				}
			})
		}
	}
}

// TestOwnDatabaseIsOpened also beside tables that somebody added, and while it is in use.
func TestOwnDatabaseIsOpened(t *testing.T) {
	for _, url := range []string{"sqlite:" + filepath.Join(t.TempDir(), "own.db"), enginestest.TestPostgres(t)} {
		open := func() *db.DB {
			d, err := db.Open(t.Context(), url, db.Options{Own: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = d.Close() })
			return d
		}
		d := open()
		if ours, err := d.Ours(t.Context()); ours || err != nil {
			t.Errorf("an empty database: %v, %v", ours, err)
		}
		if err := db.Migrate(t.Context(), d, slog.New(slog.DiscardHandler), items); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Exec(t.Context(), "CREATE TABLE notes_of_an_operator (n BIGINT)"); err != nil {
			t.Fatal(err)
		}
		if ours, err := open().Ours(t.Context()); !ours || err != nil {
			t.Errorf("a database of ours: %v, %v", ours, err)
		}
	}
}

// TestFilesArePrivate whatever the umask, and also those of before.
func TestFilesArePrivate(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	file := filepath.Join(t.TempDir(), "lyceum.db")
	check := func(when string) {
		t.Helper()
		d, err := db.Open(t.Context(), "sqlite:"+file, db.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := db.Migrate(context.Background(), d, slog.New(slog.DiscardHandler), items); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Exec(t.Context(), "DELETE FROM items"); err != nil {
			t.Fatal(err)
		}
		for _, end := range []string{"", "-wal", "-shm"} {
			if info, err := os.Stat(file + end); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %s%s: %v, %v, expected that only its owner can read it", when, file, end, info, err)
			}
		}
	}
	check("new")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"-wal", "-shm"} { // as a process that was killed leaves them
		if err := os.WriteFile(file+end, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	check("of before")
}
