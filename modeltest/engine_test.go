package modeltest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/accounts"
	"lyceum/devices"
	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/engines"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
	"lyceum/presence"
	"lyceum/push"
	"lyceum/receipts"
	"lyceum/rooms"
	"lyceum/typing"
)

func migrations() []db.Migrations {
	return []db.Migrations{
		lease.Migrations(), accounts.Migrations(), rooms.Migrations(), devices.Migrations(), receipts.Migrations(),
		typing.Migrations(), presence.Migrations(), push.Migrations(),
	}
}

// users of every history. Each has one device, named as the user.
var users = []string{"alice", "bob", "carol", "dave"}

const serverName = "here.test"

func userID(name string) string   { return "@" + name + ":" + serverName }
func deviceID(name string) string { return "D-" + name }

// people writes the users into an empty database.
func people(ctx context.Context, d *db.DB) error {
	for _, name := range users {
		if _, err := d.Exec(ctx, "INSERT INTO users (user_id, created_ms) VALUES ($1, 1)", userID(name)); err != nil {
			return err
		}
		if _, err := d.Exec(ctx, "INSERT INTO user_devices (user_id, device_id, created_ms) "+
			"VALUES ($1, $2, 1)", userID(name), deviceID(name)); err != nil {
			return err
		}
	}
	return nil
}

// store is where the histories of one worker take place, one after the other.
type store interface {
	// fresh empties it and returns a connection that nothing breaks.
	fresh(ctx context.Context) (*db.DB, error)
	// open is the database as a process sees it, behind a gate of its own.
	open(ctx context.Context) (*way, error)
	postgres() bool
}

// way is what stands between a process and its database.
type way struct {
	*dbfault.Gate
	db    *db.DB
	proxy *dbfault.Proxy // nil on SQLite
	close func()
}

// serverDir has the files of server.
var serverDir string

// server is the PostgreSQL of this test binary. What histories look for does not depend on the disk.
var server = sync.OnceValues(func() (*engines.Postgres, error) {
	dir, err := os.MkdirTemp("", "lyceum-model-*")
	if err != nil {
		return nil, err
	}
	serverDir = dir
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	return engines.StartPostgres(
		context.Background(), filepath.Join(dir, "postgres"), "fsync=off", "max_connections=600", "log_min_messages=panic",
	)
})

var used atomic.Bool

// schema is a PostgreSQL schema of a worker.
type schema struct{ url, name string }

var quiet = slog.New(slog.DiscardHandler)

func newSchema(t *testing.T) *schema {
	t.Helper()
	used.Store(true)
	pg, err := server()
	if err != nil {
		t.Fatal(err)
	}
	s := &schema{pg.URL(), enginestest.Unique()}
	plain, err := db.Open(t.Context(), s.url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := plain.Exec(t.Context(), "CREATE SCHEMA "+s.name); err != nil {
		t.Fatal(err)
	}
	d, err := db.Open(t.Context(), s.url, db.Options{Schema: s.name})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := db.Migrate(t.Context(), d, quiet, migrations()...); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *schema) postgres() bool { return true }

// fresh ends the sessions that a history may have left, so that nothing of it arrives late in the next one. The one row of
// pusher_changes is made by a migration.
func (s *schema) fresh(ctx context.Context) (*db.DB, error) {
	d, err := db.Open(ctx, s.url, db.Options{Schema: s.name, Readers: 2, Params: map[string]string{"application_name": "control"}})
	if err != nil {
		return nil, err
	}
	for n := 1; n > 0; {
		if err := d.QueryRow(ctx, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE "+
			"application_name = $1", s.name).Scan(&n); err != nil {
			return nil, err
		}
		if n > 0 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	tables, err := db.Texts(
		d.Query(
			ctx,
			"SELECT relname FROM pg_stat_user_tables WHERE schemaname = $1 AND relname NOT IN ('migrations', 'migration_needs', 'pusher_changes')",
			s.name,
		),
	)
	if err != nil {
		return nil, err
	}
	err = d.Tx(ctx, func(tx *db.Tx) error {
		for _, table := range tables {
			if _, err := tx.Exec(ctx, "DELETE FROM "+table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return d, people(ctx, d)
}

func (s *schema) open(ctx context.Context) (*way, error) {
	p, err := dbfault.NewProxy(s.url)
	if err != nil {
		return nil, err
	}
	d, err := db.Open(ctx, p.URL(), db.Options{Schema: s.name, Readers: 12, Params: map[string]string{"application_name": s.name}})
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return &way{&p.Gate, d, p, func() {
		_ = p.Close()
		_ = d.Close()
	}}, nil
}

// file is a directory with one SQLite file for each history, copied from the first.
type file struct {
	dir      string
	n        int
	path     string
	template []byte
}

func newFile(t *testing.T) *file {
	t.Helper()
	f := &file{dir: t.TempDir()}
	path := filepath.Join(f.dir, "template.db")
	d, err := db.Open(t.Context(), "sqlite:"+path, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Migrate(t.Context(), d, quiet, migrations()...); err != nil {
		t.Fatal(err)
	}
	if err := people(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if f.template, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *file) postgres() bool { return false }

func (f *file) fresh(ctx context.Context) (*db.DB, error) {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		_ = os.Remove(f.path + suffix)
	}
	f.n++
	f.path = filepath.Join(f.dir, fmt.Sprint(f.n, ".db"))
	if err := os.WriteFile(f.path, f.template, 0o600); err != nil {
		return nil, err
	}
	return db.Open(ctx, "sqlite:"+f.path, db.Options{})
}

func (f *file) open(ctx context.Context) (*way, error) {
	s := dbfault.NewSQLite()
	d, err := db.Open(ctx, "sqlite:"+f.path, db.Options{Driver: s.Driver()})
	if err != nil {
		s.Close()
		return nil, err
	}
	return &way{&s.Gate, d, nil, func() {
		s.End()
		_ = d.Close()
		s.Close()
	}}, nil
}

// named is a store by the name of its engine.
func named(t *testing.T, engine string) store {
	if strings.HasPrefix(engine, "postgres") {
		return newSchema(t)
	}
	return newFile(t)
}
