package role_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

// processAmong is a process in a fleet of n that all play "r".
func processAmong(t testing.TB, d *db.DB, n int) *role.Process {
	t.Helper()
	var last *lease.Leases
	for i := range n {
		l, err := lease.Open(t.Context(), d, lease.Options{Machine: i, Address: fmt.Sprintf("10.0.0.%d:8009", i), Roles: []string{"client", "r"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		last = l
	}
	b := bus.NewLocal()
	if err := last.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &role.Process{
		DB: d, Bus: b, Leases: last, Roles: []role.Role{{Name: "r", Key: "user"}, {Name: "q", Pool: "r"}},
		Streams: stream.New(stream.Options{DB: d, Bus: b, Leases: last}),
	}
}

func TestRouteSpreadsKeysAndKeepsThem(t *testing.T) {
	d := dbtest.Open(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"), lease.Migrations())
	p := processAmong(t, d, 10)
	counts, places := map[string]int{}, map[string]string{}
	for i := range 5000 {
		key := fmt.Sprint("user", i)
		addr, local, ok := p.Route("r", key)
		if !ok || local != (addr == p.Leases.Self().Address) {
			t.Fatalf("%q: %s %v %v", key, addr, local, ok)
		}
		if pooled, _, _ := p.Route("q", key); pooled != addr {
			t.Fatalf("the pool serves %q at %s instead of %s", key, pooled, addr)
		}
		counts[addr]++
		places[key] = addr
	}
	if len(counts) != 10 {
		t.Errorf("expected 10 places, found %v", counts)
	}
	for addr, n := range counts {
		if n < 400 || n > 600 {
			t.Errorf("%s has %d of 5000 keys", addr, n)
		}
	}
	l, err := lease.Open(t.Context(), d, lease.Options{Machine: 10, Address: "new:1", Roles: []string{"r"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Leases.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for key, before := range places {
		if addr, _, _ := p.Route("r", key); addr != before && addr != "new:1" {
			t.Errorf("%q moved from %s to %s as another process came", key, before, addr)
		}
	}
	if err := l.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Leases.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for key, before := range places {
		if addr, _, _ := p.Route("r", key); addr != before {
			t.Errorf("%q is at %s after the process left, before at %s", key, addr, before)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{20, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := processAmong(b, dbtest.Open(b, "sqlite:"+filepath.Join(b.TempDir(), "test.db"), lease.Migrations()), n)
			b.ReportAllocs()
			for b.Loop() {
				p.Route("r", "1z141z3k2kd9q")
			}
		})
	}
}
