package stream

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
)

// listener is a process with two subscriptions of a stream that another process writes.
type listener struct {
	*Streams
	st, other *Stream
	light     *Subscription
	heavy     *Subscription

	mu    sync.Mutex
	rows  map[*Subscription][]int64
	start map[*Subscription][]int64
	next  map[*Subscription][]int64
}

func listen(t *testing.T, d *db.DB, b bus.Bus, roles ...string) *listener {
	t.Helper()
	leases, err := lease.Open(t.Context(), d, lease.Options{Machine: -1, Roles: roles, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{rows: map[*Subscription][]int64{}, start: map[*Subscription][]int64{}, next: map[*Subscription][]int64{}}
	l.Streams = New(Options{DB: d, Bus: b, Leases: leases, Log: quiet})
	l.st = l.Open(Spec{Name: "a", Role: "writer", Shards: 4, Store: &lineStore{name: "a"}})
	l.other = l.Open(Spec{Name: "b", Role: "writer", Shards: 4, Store: &lineStore{name: "b"}})
	add := func(roles ...string) (tail *Subscription) {
		tail = l.st.Subscribe(func(rows []Row) {
			l.mu.Lock()
			defer l.mu.Unlock()
			for _, row := range rows {
				l.rows[tail] = append(l.rows[tail], row.Pos)
				if l.next[tail][row.Shard]++; row.Pos != l.next[tail][row.Shard] {
					t.Errorf("shard %d: expected position %d, found %d", row.Shard, l.next[tail][row.Shard], row.Pos)
				}
			}
		}, roles...).OnStart(func(start []int64) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.start[tail], l.next[tail] = start, slices.Clone(start)
		})
		return tail
	}
	l.light, l.heavy = add("client", "writer"), add("sync")
	if err := l.Streams.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = l.Run(ctx) })
	wg.Go(func() { _ = leases.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return l
}

func (l *listener) received(tail *Subscription) []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.rows[tail])
}

// counted counts the messages of a bus by topic.
type counted struct {
	bus.Bus
	mu     sync.Mutex
	topics map[string]int
}

func (c *counted) Subscribe(topic string, fn func(bus.Message)) (cancel func()) {
	c.mu.Lock()
	c.topics[topic]++
	c.mu.Unlock()
	return c.Bus.Subscribe(topic, fn)
}

func TestProcessesReceiveWhatTheirRolesNeed(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		local := bus.NewLocal()
		open := func(roles ...string) (*listener, *counted) {
			c := &counted{Bus: local, topics: map[string]int{}}
			return listen(t, d, c, roles...), c
		}
		writer, _ := open("writer")
		client, _ := open("client")
		media, mediaBus := open("media")
		written := int64(0)
		write := func(n int) {
			t.Helper()
			for range n {
				written++
				var e *Entry
				for i := 0; e == nil || writer.st.Shard(e.Key) != 1; i++ {
					e = &Entry{Stream: writer.st, Row: Row{Key: fmt.Sprint("k", i), Data: []byte{byte(written)}}}
				}
				for deadline := time.Now().Add(10 * time.Second); ; {
					err := writer.Append(t.Context(), e)
					if err == nil {
						break
					}
					if time.Now().After(deadline) {
						t.Fatal(err)
					}
				}
			}
		}
		write(3)
		for _, l := range []*listener{writer, client, media} {
			if err := l.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := client.received(client.light); !slices.Equal(got, []int64{1, 2, 3}) || client.heavy.IsActive() {
			t.Errorf("the tail of the role got %v; the one of another role is on: %v", got, client.heavy.IsActive())
		}
		if media.st.IsReceived() || media.light.IsActive() || mediaBus.topics["rows/a"] > 0 {
			t.Error("a process receives rows that it does not need")
		}
		if client.other.IsReceived() {
			t.Error("a process receives a stream without tails")
		}

		// On demand: from then on, everything.
		if err := media.heavy.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := client.heavy.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		write(2)
		for _, l := range []*listener{client, media} {
			if err := l.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := l.received(l.heavy); !slices.Equal(got, []int64{4, 5}) || l.start[l.heavy][1] != 3 {
				t.Errorf("started tails got %v, from %v on", got, l.start[l.heavy])
			}
		}
		if media.light.IsActive() || media.st.Position(1) != 5 {
			t.Errorf("the other tail is on: %v, position %d", media.light.IsActive(), media.st.Position(1))
		}
	}, lease.Migrations(), lines)
}

// A process that does not own all shards is never the only one, though it may be the only one that is registered.
func TestAProcessWithoutAllShardsIsNotTheOnlyMember(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		l := listen(t, d, bus.NewLocal(), "client")
		for deadline := time.Now().Add(10 * time.Second); !l.opts.Leases.IsOnlyMember(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the only process does not know that it is")
			}
		}
		if l.isOnlyMember() {
			t.Error("others may come back with the shards that they had")
		}
	}, lease.Migrations(), lines)
}

// After a moment in which the database was away no request is refused for a connection that broke in it.
func TestABarrierOutlastsBrokenConnections(t *testing.T) {
	url := enginestest.TestPostgres(t)
	dbtest.Open(t, url, lease.Migrations(), lines)
	proxy, err := dbfault.NewProxy(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	l := listen(t, dbtest.Open(t, proxy.URL()), bus.NewLocal(), "client") // without all shards it is not the only one
	for range 5 {
		reads := make(chan struct{}, 1)
		proxy.HoldAnswers(func(r dbfault.Read) bool {
			is := strings.Contains(r.Query, "FROM leases") && bytes.Contains(r.Values, []byte("stream/"))
			if is {
				select {
				case reads <- struct{}{}:
				default:
				}
			}
			return is
		})
		l.lostMessages.Add(1) // it does not trust the bus
		passed := make(chan error, 1)
		go func() { passed <- l.Barrier(t.Context()) }()
		select {
		case <-reads:
		case err := <-passed:
			t.Fatalf("the positions were not read: %v", err)
		}
		proxy.Cut()
		proxy.LetAnswers()
		if err := <-passed; err != nil {
			t.Fatal(err)
		}
	}
}

// Under load, a subscription that is started gets every row behind its start, once.
func TestSubscriptionsStartUnderLoad(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		local := bus.NewLocal()
		writer := listen(t, d, local, "writer")
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_ = writer.Append(context.Background(), &Entry{Stream: writer.st, Row: Row{Key: fmt.Sprint(i), Data: []byte("x")}})
			}
		})
		for range 5 {
			l := listen(t, d, local, "media")
			began := writer.received(writer.light)
			for deadline := time.Now().Add(10 * time.Second); len(writer.received(writer.light)) < len(began)+20; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("nothing is written")
				}
			}
			var start sync.WaitGroup
			for range 4 {
				start.Go(func() {
					if err := l.heavy.Start(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			start.Wait()
			for deadline := time.Now().Add(10 * time.Second); len(l.received(l.heavy)) < 50; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the rows do not come")
				}
			}
		}
		close(stop)
		wg.Wait()
	}, lease.Migrations(), lines)
}
