package stream_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
)

// forwarder leads to one of several servers, as a name or a Sentinel does.
type forwarder struct {
	l net.Listener

	mu    sync.Mutex
	to    string
	conns map[net.Conn]bool
}

func newForwarder(t *testing.T, to string) *forwarder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &forwarder{l: l, to: to, conns: map[net.Conn]bool{}}
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
		r.forwardTo("")
		wg.Wait()
	})
	return r
}

func (r *forwarder) carry(c net.Conn) {
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

// forwardTo leads to another server and ends the connections to the one before.
func (r *forwarder) forwardTo(to string) {
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
	var roads []*forwarder
	for range 3 {
		r := newForwarder(t, servers[0])
		b, err := bus.NewRedis(t.Context(), bus.Config{
			Addresses: []string{r.l.Addr().String()}, Password: "same", Prefix: prefix,
			Timeout: conf.Duration(time.Second),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		nodes, roads = append(nodes, start(t, dbtest.Open(t, pg), b, lease.Options{Machine: -1})), append(roads, r)
	}
	until(t, "each has shards", func() bool {
		return ownedBy(nodes[0]) > 0 && ownedBy(nodes[1]) > 0 && ownedBy(nodes[2]) > 0 &&
			ownedBy(nodes[0])+ownedBy(nodes[1])+ownedBy(nodes[2]) == 8
	})
	rounds(t, nodes, "before", func(i int) bool { return i < 50 })
	at := 0
	for round := range 2 {
		at = 1 - at
		for k, r := range roads { // one after the other
			r.forwardTo(servers[at])
			began := time.Now()
			rounds(t, nodes, fmt.Sprint("moved", round, k, "-"), func(i int) bool { return i < 50 || time.Since(began) < 4*time.Second })
		}
	}
	until(t, "the bus is trusted again", func() bool {
		for _, n := range nodes {
			if !n.leases.NoneDegraded() || n.leases.Self().Degraded {
				return false
			}
		}
		return true
	})
	rounds(t, nodes, "after", func(i int) bool { return i < 50 })
}

// switchingBus is the bus of a process that is at one of two servers, between which no message goes.
type switchingBus struct {
	*bus.Local // the one where it begins
	servers    [2]*bus.Local
	at         atomic.Int32
	moved      []func()
}

func (m *switchingBus) Publish(ctx context.Context, msgs ...bus.Message) error {
	return m.servers[m.at.Load()].Publish(ctx, msgs...)
}

func (m *switchingBus) Subscribe(topic string, fn func(bus.Message)) (cancel func()) {
	var cancels [2]func()
	for i, server := range m.servers {
		cancels[i] = server.Subscribe(topic, func(msg bus.Message) {
			if m.at.Load() == int32(i) {
				fn(msg)
			}
		})
	}
	return func() {
		for _, cancel := range cancels {
			cancel()
		}
	}
}

func (m *switchingBus) Barrier(ctx context.Context) error { return m.servers[m.at.Load()].Barrier(ctx) }

func (m *switchingBus) Server() string { return fmt.Sprint("server ", m.at.Load()) }

func (m *switchingBus) OnReconnect(fn func()) (cancel func()) {
	m.moved = append(m.moved, fn)
	return func() {}
}

func (m *switchingBus) move(to int32) {
	m.at.Store(to)
	for _, fn := range m.moved {
		fn()
	}
}

// Who came to another server, which takes what it writes, acknowledges no row before those who believe it to be at theirs
// can not trust that any more.
func TestARowOfWhoCameToAnotherServerIsBehindABarrier(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		servers := [2]*bus.Local{bus.NewLocal(), bus.NewLocal()}
		var buses [2]*switchingBus
		var nodes []*node
		for i := range buses {
			buses[i] = &switchingBus{Local: servers[0], servers: servers}
			nodes = append(nodes, start(t, d, buses[i], lease.Options{Machine: -1, TTL: 4 * time.Second})) // a view is trusted for half of it
		}
		until(t, "the shards are shared and the bus is trusted", func() bool {
			return ownedBy(nodes[0]) == 4 && ownedBy(nodes[1]) == 4 && nodes[0].leases.NoneDegraded() && nodes[1].leases.NoneDegraded()
		})
		rounds(t, nodes, "before", func(i int) bool { return i < 10 })
		room := ""
		for i := 0; room == ""; i++ {
			if key := fmt.Sprint("room", i); nodes[0].notes.Owns(nodes[0].notes.Shard(key)) {
				room = key
			}
		}
		buses[0].move(1)
		write(t, nodes[:1], room, "written at the other server")
		if err := nodes[1].streams.Barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !nodes[1].has("written at the other server") {
			t.Error("a row was acknowledged, but is not behind a barrier of a process that is still at the server before")
		}
	}, lease.Migrations(), tables)
}
