package roletest

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"lyceum/fleet/rpcerror"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/rpc"
	"lyceum/platform/stream"
)

// Join starts a process that has all roles and shares a database and a bus with others. machine is its number, -1 for
// the first free one. wire opens the streams and adds the parts of the domain under test; the process runs when wire
// returns, until stop or the end of the test.
func Join[T any](t testing.TB, d *db.DB, b bus.Bus, machine int, wire func(p *role.Process) T) (domain T, stop func()) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	r, err := rpc.New(rpc.Options{Secret: bytes.Repeat([]byte("k"), 32), Errors: rpcerror.Codec{}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	leases, err := lease.Open(context.Background(), d, lease.Options{
		Machine: machine, Address: l.Addr().String(), Roles: []string{"all"}, Log: log,
		Announce: func() { _ = b.Publish(context.Background(), bus.Message{Topic: "leases"}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &role.Process{DB: d, Bus: b, Leases: leases, RPC: r, Log: log}
	p.Streams = stream.New(stream.Options{DB: d, Bus: b, Leases: leases, Log: log})
	domain = wire(p)
	running, cancel := context.WithCancel(context.Background())
	serving, stopServing := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.Serve(serving, l) })
	wg.Go(func() {
		defer stopServing() // others may ask for a shard until it is handed over
		if err := p.Run(running); err != nil {
			t.Errorf("the process of machine %d ended with %v", p.Machine(), err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return domain, stop
}

// Two starts two processes on one database and waits until each owns half of the shards of every stream.
func Two[T any](t testing.TB, d *db.DB, wire func(p *role.Process) T) (one, two T, stopTwo func()) {
	t.Helper()
	b := bus.NewLocal()
	var ps []*role.Process
	member := func(p *role.Process) T {
		ps = append(ps, p)
		return wire(p)
	}
	one, _ = Join(t, d, b, -1, member)
	two, stopTwo = Join(t, d, b, -1, member)
	Until(t, "the processes own the same number of shards", func() bool { return even(ps) })
	return one, two, stopTwo
}

// even tells whether processes own the same number of shards of every stream.
func even(ps []*role.Process) bool {
	for _, p := range ps {
		for _, st := range p.Streams.All() {
			owned := 0
			for i := range st.Shards() {
				if st.Owns(i) {
					owned++
				}
			}
			if owned != st.Shards()/len(ps) {
				return false
			}
		}
	}
	return true
}

// Until waits for a condition, and fails the test when it does not come within 20 s.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
