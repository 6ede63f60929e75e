package db_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines"
	"lyceum/platform/engines/enginestest"
)

// Who has a time to the database keeps to it, also while a server is paused and all connections are taken.
func TestAPausedDatabaseHoldsNobodyBeyondTheContext(t *testing.T) {
	server, err := engines.StartPostgres(t.Context(), enginestest.Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Kill() })
	dbtest.Open(t, server.URL(), kinds)
	d, err := db.Open(t.Context(), server.URL(), db.Options{Readers: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	names(t, d, "SELECT name FROM fences")
	const insert = "INSERT INTO fences (name, epoch, pos) VALUES ('x', 1, 1) ON CONFLICT DO NOTHING"
	begun, paused, inside := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // a transaction that is under way
		inside <- d.Tx(ctx, func(tx *db.Tx) error {
			if _, err := tx.Exec(ctx, insert); err != nil {
				return err
			}
			close(begun)
			<-paused
			_, err := tx.Exec(ctx, insert)
			return err
		})
	}()
	<-begun
	resumed := make(chan error, 1)
	go func() { resumed <- server.Pause(context.Background(), 12*time.Second) }()
	time.Sleep(300 * time.Millisecond)
	close(paused)
	calls := map[string]func(ctx context.Context) error{
		"Query": func(ctx context.Context) error {
			_, err := db.Texts(d.Query(ctx, "SELECT name FROM fences"))
			return err
		},
		"QueryRow": func(ctx context.Context) error { var n int; return d.QueryRow(ctx, "SELECT 1").Scan(&n) },
		"Exec":     func(ctx context.Context) error { _, err := d.Exec(ctx, insert); return err },
		"Write": func(ctx context.Context) error {
			return d.Write(ctx, func(w *db.Batch) error { w.Do(insert); return nil })
		},
		"Tx": func(ctx context.Context) error {
			return d.Tx(ctx, func(tx *db.Tx) error { _, err := tx.Exec(ctx, insert); return err })
		},
		"Snapshot": func(ctx context.Context) error {
			return d.Snapshot(ctx, func(q db.Querier) error { _, err := db.Texts(q.Query(ctx, "SELECT name FROM fences")); return err })
		},
	}
	type result struct {
		name string
		err  error
		took time.Duration
	}
	results := make(chan result)
	const each = 3 // more than there are connections
	for name, call := range calls {
		for range each {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				began := time.Now()
				err := call(ctx)
				results <- result{name, err, time.Since(began)}
			}()
		}
	}
	for range each * len(calls) {
		if r := <-results; r.err == nil || r.took > 4*time.Second {
			t.Errorf("%s: %v after %s", r.name, r.err, r.took)
		}
	}
	cancel()
	select {
	case err := <-inside:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a transaction under way: %v", err)
		}
	case <-time.After(2 * time.Second):
		t.Error("a transaction under way goes on")
		<-inside
	}
	if err := <-resumed; err != nil {
		t.Fatal(err)
	}
	if _, err := d.Exec(t.Context(), insert); err != nil {
		t.Errorf("after the pause: %v", err)
	}
}
