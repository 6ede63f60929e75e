package fleettest_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/jackc/pgx/v5"

	"lyceum/fleettest"
	"lyceum/rooms"
)

// owners gives how many shards of a stream each machine owns, of those that have a live owner.
func owners(ctx context.Context, c *fleettest.Crew, stream string) (map[int]int, error) {
	conn, err := pgx.Connect(ctx, c.Postgres.URL())
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(
		ctx,
		`SELECT l.machine, count(*) FROM leases l JOIN machines m ON m.id = l.machine AND m.incarnation = l.incarnation
		WHERE l.name LIKE 'stream/' || $1 || '/%' AND m.expires_ms > EXTRACT(EPOCH FROM clock_timestamp()) * 1000 GROUP BY l.machine`,
		stream,
	)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[int]int{}
	for rows.Next() {
		var machine, n int
		if err := rows.Scan(&machine, &n); err != nil {
			return nil, err
		}
		out[machine] = n
	}
	return out, rows.Err()
}

// awaitEven returns when a number of machines own all shards of the events, none more than one more than another.
func awaitEven(t *testing.T, c *fleettest.Crew, machines int) {
	t.Helper()
	var last map[int]int
	for began := time.Now(); time.Since(began) < 15*time.Second; time.Sleep(50 * time.Millisecond) {
		got, err := owners(t.Context(), c, "events")
		if err != nil {
			t.Fatal(err)
		}
		counts := slices.Sorted(maps.Values(got))
		sum := 0
		for _, n := range counts {
			sum += n
		}
		if sum == rooms.Shards && len(counts) == machines && counts[len(counts)-1]-counts[0] <= 1 {
			t.Logf("%d processes own %v of %d shards", machines, counts, rooms.Shards)
			return
		}
		last = got
	}
	t.Fatalf("the shards are not even over %d processes: %v", machines, last)
}

// writers send to a room of each shard without an end and keep the slowest answer of each.
type writers struct {
	mu      sync.Mutex
	slowest []time.Duration
	failed  error
}

func writeEverywhere(t *testing.T, c *fleettest.Crew) (w *writers, stop func()) {
	t.Helper()
	u := c.Register(t, "writer")
	inShard := map[int]string{}
	for n := 0; len(inShard) < rooms.Shards; n++ {
		if n > 40*rooms.Shards {
			t.Fatal("the rooms do not spread over the shards")
		}
		id := u.Room()
		inShard[int(xxhash.Sum64String(id)%rooms.Shards)] = id
	}
	w = &writers{slowest: make([]time.Duration, rooms.Shards)}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	for shard, id := range inShard {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-quit:
					return
				case <-time.After(60 * time.Millisecond):
				}
				began := time.Now()
				text := fmt.Sprintf("w%d", n)
				_, err := u.Insist("PUT", fleettest.RoomPath(id, "send", "m.room.message", text), map[string]string{"msgtype": "m.text", "body": text})
				took := time.Since(began)
				w.mu.Lock()
				w.slowest[shard] = max(w.slowest[shard], took)
				if err != nil {
					w.failed = err
				}
				w.mu.Unlock()
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { close(quit); wg.Wait() }) }
	t.Cleanup(stop)
	return w, stop
}

// during forgets the past, does something and returns the pauses of all shards, sorted.
func (w *writers) during(what func()) []time.Duration {
	w.mu.Lock()
	clear(w.slowest)
	w.mu.Unlock()
	what()
	time.Sleep(300 * time.Millisecond) // so that each writer was answered at least once after it
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(slices.Values(w.slowest))
}

// handedOver is less than the expiry of a lease: a shard that was handed over does not wait for it. How long it takes
// is measured by ops/bench/fleet.
const handedOver = 2500 * time.Millisecond

// TestShardsMoveEvenlyAndQuickly adds and removes processes that write events, while somebody writes to every shard.
func TestShardsMoveEvenlyAndQuickly(t *testing.T) {
	c := fleettest.Small(t)
	awaitEven(t, c, 2)
	w, stop := writeEverywhere(t, c)
	report := func(what string, limit time.Duration, do func()) {
		t.Helper()
		pauses := w.during(do)
		longest := pauses[len(pauses)-1]
		var moved []string
		for _, p := range pauses {
			moved = append(moved, fmt.Sprint(p.Milliseconds()))
		}
		t.Logf("%s: pause per shard in ms, each as its writer saw it: %s (median %d, longest %d)", what, strings.Join(moved, " "),
			pauses[len(pauses)/2].Milliseconds(), longest.Milliseconds())
		if longest > limit {
			t.Errorf("%s: a shard paused for %s, expected at most %s", what, longest, limit)
		}
	}
	report("nothing moves", handedOver, func() { pause(t, time.Second) })
	var third *fleettest.Member
	report("from 2 processes to 3", handedOver, func() {
		third = c.Join(t, "events", nil, "")
		awaitEven(t, c, 3)
	})
	second := c.Member(t, "events-2")
	report("from 3 processes to 2, drained", handedOver, func() {
		third.Leave(t)
		awaitEven(t, c, 2)
	})
	report("from 2 processes to 1, drained", handedOver, func() {
		second.Leave(t)
		awaitEven(t, c, 1)
	})
	report("from 1 process to 2", handedOver, func() {
		second = c.Join(t, "events", nil, "")
		awaitEven(t, c, 2)
	})
	report("kill -9 of one of 2", 5*time.Second, func() {
		if err := second.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		pause(t, 6*time.Second) // its shards move to the other one, and back to the one that started again
		awaitEven(t, c, 2)
	})
	stop()
	if w.failed != nil {
		t.Error(w.failed)
	}
}
