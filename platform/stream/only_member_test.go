package stream_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
)

// throughProxy is a process that reaches the database through a proxy.
func throughProxy(t *testing.T, url string, b bus.Bus) (*node, *dbfault.Proxy) {
	t.Helper()
	p, err := dbfault.NewProxy(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return start(t, dbtest.Open(t, p.URL()), b, lease.Options{Machine: -1}), p
}

// One is cut off from the database and not from the bus, and the other one, which is the only one by now, publishes nothing.
func TestAProcessWithoutTheDatabaseServesNothing(t *testing.T) {
	url := enginestest.TestPostgres(t)
	d := dbtest.Open(t, url, lease.Migrations(), tables)
	local := bus.NewLocal()
	a := start(t, d, local, lease.Options{Machine: -1})
	b, proxy := throughProxy(t, url, local)
	until(t, "both have shards", func() bool { return ownedBy(a) == 4 && ownedBy(b) == 4 })
	write(t, []*node{a, b}, "r", "one")
	if err := b.streams.Barrier(t.Context()); err != nil || !b.has("one") {
		t.Fatal(err)
	}
	proxy.Away(true)
	defer proxy.Away(false)
	until(t, "the other one has all and is the only one", func() bool { return ownedBy(a) == 8 && a.leases.IsOnlyMember() })
	for i := range 5 {
		body := fmt.Sprint("x", i)
		write(t, []*node{a}, fmt.Sprint("room", i), body)
		ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		err := b.streams.Barrier(ctx)
		cancel()
		if err == nil && !b.has(body) {
			t.Fatalf("%s was acknowledged, the barrier lets a request pass that does not see it; the other is the only one: %v", body,
				a.leases.IsOnlyMember())
		}
	}
}

// One comes back and is the only one, while what looks after its shards waits for an answer that got lost, so that it believes
// to have those that another one had meanwhile.
func TestAProcessThatComesBackBelievesTheView(t *testing.T) {
	url := enginestest.TestPostgres(t)
	d := dbtest.Open(t, url, lease.Migrations(), tables)
	a, proxy := throughProxy(t, url, bus.NewLocal())
	until(t, "it has all and is the only one", func() bool { return ownedBy(a) == 8 && a.leases.IsOnlyMember() })
	proxy.HoldAnswers(func(r dbfault.Read) bool { // what watch asks
		return strings.Contains(r.Query, "FROM leases") && bytes.Contains(r.Values, []byte("stream/"))
	})
	proxy.Freeze()
	<-time.After(1300 * time.Millisecond)
	_, err := d.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND "+
		"database = (SELECT oid FROM pg_database WHERE datname = current_database())")
	if err != nil { // its session ends, as after a cut
		t.Fatal(err)
	}
	b, other := throughProxy(t, url, bus.NewLocal()) // it is dead soon: what it would still say is not heard
	until(t, "the other one has all and is the only one", func() bool { return ownedBy(b) == 8 && b.leases.IsOnlyMember() })
	write(t, []*node{b}, "room", "missed")
	other.Cut()
	other.Away(true)
	defer other.Away(false)
	<-time.After(1300 * time.Millisecond)
	proxy.Thaw()
	defer proxy.LetAnswers()
	for began := time.Now(); time.Since(began) < 4*time.Second; time.Sleep(time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := a.streams.Barrier(ctx)
		cancel()
		if err == nil && !a.has("missed") {
			t.Fatalf("%s after it came back its barrier lets a request pass that misses a row; it believes to have %d shards, and to be the "+
				"only one: %v", time.Since(began), ownedBy(a), a.leases.IsOnlyMember())
		}
	}
}
