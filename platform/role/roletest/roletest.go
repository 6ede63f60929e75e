package roletest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

// Run runs body with a Process that is alone, on SQLite and on PostgreSQL. wire opens the streams and
// adds the parts of the domain under test; the process runs when wire returns.
func Run[T any](t *testing.T, sets []db.Migrations, wire func(p *role.Process) T, body func(t *testing.T, p *role.Process, domain T)) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		p := New(t, d)
		domain := wire(p)
		Start(t, p)
		body(t, p, domain)
	}, append([]db.Migrations{lease.Migrations()}, sets...)...)
}

// New makes a Process that is alone and has some roles, or all when none are given. Start needs those that own the
// streams.
func New(t testing.TB, d *db.DB, roles ...string) *role.Process {
	t.Helper()
	if len(roles) == 0 {
		roles = []string{"all"}
	}
	log := slog.New(slog.DiscardHandler)
	l, err := lease.Open(context.Background(), d, lease.Options{Embedded: true, Roles: roles, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	b := bus.NewLocal()
	p := &role.Process{DB: d, Bus: b, Leases: l, Log: log}
	p.Streams = stream.New(stream.Options{DB: d, Bus: b, Leases: l, Log: log})
	return p
}

// Start runs the process until the end of the test.
func Start(t testing.TB, p *role.Process) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("the process ended with %v", err)
		}
	})
	deadline := time.Now().Add(10 * time.Second)
	for _, st := range p.Streams.All() {
		for !st.Owns(st.Shards() - 1) {
			if time.Now().After(deadline) {
				t.Fatal("the process did not get its shards")
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// Job gives a Job of a process, and a function after which another process does its work.
func Job(t testing.TB, p *role.Process) (j *role.Job, lose func()) {
	t.Helper()
	name := "job/test"
	acquire := func() lease.Lease {
		got, err := p.Leases.Acquire(context.Background(), name)
		if err != nil || len(got) != 1 {
			t.Fatalf("expected the lease %s, found %v, %v", name, got, err)
		}
		return got[0]
	}
	return p.Job(acquire()), func() { acquire() }
}
