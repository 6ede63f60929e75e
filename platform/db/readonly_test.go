package db_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
)

// A server that became a standby refuses to write over the connections that it has. They are let go, so that those made after
// find the one that took over.
func TestReadOnlyConnectionsAreLetGo(t *testing.T) {
	ctx, url := t.Context(), enginestest.TestPostgres(t)
	before := dbtest.Open(t, url, kinds)
	alter := func(what string) {
		t.Helper()
		if _, err := before.Exec(ctx, "ALTER DATABASE "+names(t, before, "SELECT current_database()")+" "+what); err != nil {
			t.Fatal(err)
		}
	}
	alter("SET default_transaction_read_only = on")
	d, err := db.Open(ctx, url, db.Options{Readers: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	fill := func() { // the pool with connections
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() { names(t, d, "SELECT pg_sleep(0.1)") })
		}
		all.Wait()
	}
	fill()
	writes := map[string]func(ctx context.Context) error{
		"Exec": func(ctx context.Context) error {
			_, err := d.Exec(ctx, "INSERT INTO fences (name, epoch, pos) VALUES ('x', 1, 1)")
			return err
		},
		"Write": func(ctx context.Context) error {
			return d.Write(ctx, func(w *db.Batch) error { w.Do("INSERT INTO fences (name, epoch, pos) VALUES ('y', 1, 1)"); return nil })
		},
		"Tx": func(ctx context.Context) error {
			return d.Tx(ctx, func(tx *db.Tx) error {
				_, err := tx.Exec(ctx, "INSERT INTO fences (name, epoch, pos) VALUES ('z', 1, 1)")
				return err
			})
		},
	}
	for name, write := range writes {
		if err := write(ctx); !db.IsUnavailable(err) || unknown(err) {
			t.Errorf("%s while the database is read-only: %v", name, err)
		}
		fill()
	}
	alter("RESET default_transaction_read_only")
	for name, write := range writes {
		start := time.Now()
		for err := write(ctx); err != nil; err = write(ctx) {
			if time.Since(start) > 5*time.Second {
				t.Fatalf("%s after the database can be written again: %v", name, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}
