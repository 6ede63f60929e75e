package stream

import (
	"context"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
)

// What may break its connection is written alone, so that the workers of other shards do not end with it.
func TestWhatMayBreakItsConnectionIsWrittenAlone(t *testing.T) {
	d := dbtest.Open(t, enginestest.TestPostgres(t), lease.Migrations(), lines)
	l, err := lease.Open(context.Background(), d, lease.Options{Machine: -1, Roles: []string{"all"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Acquire(t.Context(), "a", "b", "c")
	if err != nil || len(got) != 3 {
		t.Fatalf("found %v, %v", got, err)
	}
	c := &consumer{streams: New(Options{DB: d, Leases: l, Log: quiet})}
	var steps []*cursorUpdate
	for i, held := range got {
		s := &cursorUpdate{lease: held, done: make(chan error, 1)}
		if s.lease.Pos++; i == 1 {
			s.ownTransaction, s.extra = true, func(b *db.Batch) { b.Do("SELECT pg_terminate_backend(pg_backend_pid())") }
		}
		steps = append(steps, s)
	}
	c.commitUpdates(steps)
	for i, s := range steps {
		if err := <-s.done; (err == nil) == s.ownTransaction {
			t.Errorf("step %d: %v", i, err)
		}
	}
}
