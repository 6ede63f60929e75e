package stream_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/conf"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
)

// road leads to one of several servers, as a name or a Sentinel does.
type road struct {
	l net.Listener

	mu    sync.Mutex
	to    string
	conns map[net.Conn]bool
}

func newRoad(t *testing.T, to string) *road {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &road{l: l, to: to, conns: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { r.carry(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.lead("")
		wg.Wait()
	})
	return r
}

func (r *road) carry(c net.Conn) {
	defer c.Close()
	r.mu.Lock()
	to := r.to
	r.conns[c] = true
	r.mu.Unlock()
	d, err := net.Dial("tcp", to)
	if err == nil {
		r.mu.Lock()
		if r.to != to { // moved meanwhile
			d.Close()
		}
		r.conns[d] = true
		r.mu.Unlock()
		var wg sync.WaitGroup
		for _, way := range [][2]net.Conn{{c, d}, {d, c}} {
			wg.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				way[0].Close()
				way[1].Close()
			})
		}
		wg.Wait()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
	delete(r.conns, d)
}

// lead leads to another server and ends the connections to the one before.
func (r *road) lead(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
	for c := range r.conns {
		c.Close()
	}
}

// After a fail-over of Redis some processes may be at the new server while others are still at the old one, which takes
// messages as before: what they write is behind a Barrier everywhere all the same.
func TestBarrierWhileProcessesAreAtDifferentServers(t *testing.T) {
	pg := enginestest.TestPostgres(t)
	servers := []string{}
	for range 2 {
		servers = append(servers, ownRedis(t, "requirepass same").Addr())
	}
	dbtest.Open(t, pg, lease.Migrations(), tables)
	prefix := enginestest.Unique()
	var nodes []*node
	var roads []*road
	for range 3 {
		r := newRoad(t, servers[0])
		b, err := bus.NewRedis(t.Context(), bus.Config{Addresses: []string{r.l.Addr().String()}, Password: "same", Prefix: prefix, Timeout: conf.Duration(time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		nodes, roads = append(nodes, start(t, dbtest.Open(t, pg), b, lease.Options{Machine: -1})), append(roads, r)
	}
	until(t, "each has shards", func() bool {
		return ownedBy(nodes[0]) > 0 && ownedBy(nodes[1]) > 0 && ownedBy(nodes[2]) > 0 && ownedBy(nodes[0])+ownedBy(nodes[1])+ownedBy(nodes[2]) == 8
	})
	rounds(t, nodes, "before", func(i int) bool { return i < 50 })
	at := 0
	for round := range 2 {
		at = 1 - at
		for k, r := range roads { // one after the other
			r.lead(servers[at])
			began := time.Now()
			rounds(t, nodes, fmt.Sprint("moved", round, k, "-"), func(i int) bool { return i < 50 || time.Since(began) < 4*time.Second })
		}
	}
	until(t, "the bus is trusted again", func() bool {
		for _, n := range nodes {
			if !n.leases.Fresh() || n.leases.Self().Mute {
				return false
			}
		}
		return true
	})
	rounds(t, nodes, "after", func(i int) bool { return i < 50 })
}
