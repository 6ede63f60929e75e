package stream_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
	"lyceum/platform/stream"
)

// A row whose work fails with what a database that is away would say, such as that a time is over or that another process can not be
// reached, is parked like others: whether the database answers is told by it.
func TestARowWhoseWorkTimesOutDoesNotHoldUpOthers(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		work := &done{fail: map[string]bool{"parked": true}}
		var keys []string
		var never atomic.Bool
		never.Store(true)
		n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1}, func(n *node) {
			keys = sameShard(n.notes, 4)
			c := work.consumer(n.notes)
			c.Work = func(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
				for _, r := range rows {
					if string(r.Data) == "late" && never.Load() {
						return nil, fmt.Errorf("another process was asked: %w", context.DeadlineExceeded)
					}
				}
				return work.work(ctx, shard, rows)
			}
			n.streams.Consume(c)
		})
		write(t, []*node{n}, keys[0], "late")
		write(t, []*node{n}, keys[1], "parked")
		write(t, []*node{n}, keys[2], "new")
		until(t, "another key goes on", func() bool { return results(t, d)["new"] })
		until(t, "both are parked", func() bool { return isParked(t, d, 2) })
		work.allow("parked")
		until(t, "a row that is parked behind it goes on", func() bool { return results(t, d)["parked"] })
		write(t, []*node{n}, keys[3], "newer")
		until(t, "new ones go on", func() bool { return results(t, d)["newer"] })
		never.Store(false)
		until(t, "it is done", func() bool { return results(t, d)["late"] && isParked(t, d, 0) })
	}, lease.Migrations(), tables)
}

// A row whose write breaks its connection each time is parked, though nobody knows what became of the write until the next worker reads it.
func TestARowThatBreaksItsConnectionDoesNotHoldUpOthers(t *testing.T) {
	d := dbtest.Open(t, enginestest.TestPostgres(t), lease.Migrations(), tables)
	work := &done{fail: map[string]bool{"first": true}} // until all are there
	var keys []string
	var breaks atomic.Bool
	breaks.Store(true)
	n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1}, func(n *node) {
		keys = sameShard(n.notes, 8)
		c := work.consumer(n.notes)
		c.Work = func(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
			commit, err := work.work(ctx, shard, rows)
			return func(w *db.Batch) {
				for _, r := range rows {
					if string(r.Data) == "bad" && breaks.Load() {
						w.Do("SELECT pg_terminate_backend(pg_backend_pid())")
					}
				}
				commit(w)
			}, err
		}
		n.streams.Consume(c)
	})
	bodies := []string{"first", "a", "b", "bad", "c", "d", "e", "f"}
	for i, body := range bodies {
		write(t, []*node{n}, keys[i], body)
	}
	for i := range 16 { // of all shards, which commit together with it
		write(t, []*node{n}, fmt.Sprint("other", i), fmt.Sprint("other", i))
		bodies = append(bodies, fmt.Sprint("other", i))
	}
	work.allow("first")
	did := func(but string) func() bool {
		return func() bool {
			all := results(t, d)
			for _, body := range bodies {
				if body != but && !all[body] {
					return false
				}
			}
			return true
		}
	}
	until(t, "all others are done", did("bad"))
	until(t, "it is parked alone", func() bool { return isParked(t, d, 1) })
	write(t, []*node{n}, keys[3], "behind")
	write(t, []*node{n}, keys[5], "new")
	until(t, "new ones go on", func() bool { return results(t, d)["new"] })
	breaks.Store(false)
	bodies = append(bodies, "behind")
	until(t, "it is done, and what is behind it", did(""))
	until(t, "none is parked", func() bool { return isParked(t, d, 0) })
}

// A process that takes shards while neither the bus takes its rows nor the database its heartbeat comes to its end.
func TestAnEndWhileShardsAreTakenWithoutBusAndHeartbeat(t *testing.T) {
	d := dbtest.Open(t, "sqlite:"+t.TempDir()+"/test.db", lease.Migrations(), tables)
	var off atomic.Bool
	b := closable{bus.NewLocal(), &off}
	one, two := start(t, d, b, lease.Options{Machine: -1}), start(t, d, b, lease.Options{Machine: -1})
	until(t, "both have shards", func() bool { return ownedBy(one) == 4 && ownedBy(two) == 4 })
	for i := range 50 {
		write(t, []*node{one, two}, fmt.Sprint("room", i), fmt.Sprint("a", i))
	}
	off.Store(true)
	if _, err := d.Exec(t.Context(),
		"CREATE TRIGGER no_mute BEFORE UPDATE ON machines WHEN NEW.mute BEGIN SELECT RAISE(FAIL, 'away'); END"); err != nil {
		t.Fatal(err)
	}
	two.stop()
	until(t, "one has taken the shards", func() bool {
		held, err := one.leases.Read(t.Context(), "stream/")
		mine := 0
		for _, h := range held {
			if h.Machine == one.leases.Self().ID {
				mine++
			}
		}
		return err == nil && mine == 8
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		one.stop()
	}()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("it does not end")
	}
	off.Store(false)
	if _, err := d.Exec(context.Background(), "DROP TRIGGER no_mute"); err != nil {
		t.Fatal(err)
	}
	<-ended
}
