package stream_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/lease/leasetest"
	"lyceum/platform/stream"
)

var resultRows = &db.Table{Name: "results", Columns: db.Columns("at integer, room text, body text")}

// done is what the consumers of a test have done, by room.
type done struct {
	mu    sync.Mutex
	fail  map[string]bool // texts that are not taken
	calls int
}

func (d *done) consumer(st *stream.Stream) stream.Consumer {
	return stream.Consumer{Name: "done", Role: "notes", Stream: st, Batch: 7, Work: d.work}
}

func (d *done) work(_ context.Context, _ int, rows []stream.Row) (func(w *db.Batch), error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls++
	for _, r := range rows {
		if d.fail[string(r.Data)] {
			return nil, errors.New("not now")
		}
	}
	return func(w *db.Batch) {
		var values [][]any
		for _, r := range rows {
			values = append(values, []any{time.Now().UnixNano(), r.Key, string(r.Data)})
		}
		w.Rows(resultRows, values) // refused when one comes twice
	}, nil
}

func (d *done) allow(body string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.fail, body)
}

func results(t *testing.T, d *db.DB) map[string]bool {
	t.Helper()
	list, err := db.Texts(d.Query(t.Context(), "SELECT body FROM results"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, body := range list {
		out[body] = true
	}
	return out
}

func TestConsumersWorkOffEveryRowOnce(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := lossy{bus.NewLocal()}
		work := &done{}
		consume := func(n *node) { n.streams.Consume(work.consumer(n.notes)) }
		nodes := []*node{start(t, d, b, lease.Options{Machine: -1}, consume), start(t, d, b, lease.Options{Machine: -1}, consume)}
		for i := range 100 {
			write(t, nodes, fmt.Sprint("room", i%9), fmt.Sprint("a", i))
		}
		nodes[0].stop() // its shards are worked off by the other one
		for i := range 100 {
			write(t, nodes[1:], fmt.Sprint("room", i%9), fmt.Sprint("b", i))
		}
		until(t, "all rows are worked off", func() bool { return len(results(t, d)) == 200 })
		until(t, "the cursors are stored", func() bool {
			upto, err := nodes[1].notes.Consumed(t.Context())
			return err == nil && slices.Equal(upto, nodes[1].notes.Positions())
		})
	}, lease.Migrations(), tables)
}

// A shard whose lease could not be given back is not kept, with nobody who works on it, for as long as the process lives.
func TestConsumersGoOnWhenALeaseWasNotGivenBack(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := lossy{bus.NewLocal()}
		work := &done{}
		consume := func(n *node) { n.streams.Consume(work.consumer(n.notes)) }
		nodes := []*node{start(t, d, b, lease.Options{Machine: -1}, consume)}
		for i := range 50 { // in all shards
			write(t, nodes, fmt.Sprint("room", i), fmt.Sprint("a", i))
		}
		until(t, "all rows are worked off", func() bool { return len(results(t, d)) == 50 })
		end := leasetest.RefuseRelease(t, d, "consumer/")
		nodes = append(nodes, start(t, d, b, lease.Options{Machine: -1}, consume))
		until(t, "the first knows of the second", func() bool {
			return slices.ContainsFunc(nodes[0].leases.Machines(), func(m lease.Machine) bool {
				return m.ID == nodes[1].leases.Self().ID && m.Takes("notes")
			})
		})
		time.Sleep(100 * time.Millisecond) // it tries to give its shards back
		end()
		for i := range 50 {
			write(t, nodes, fmt.Sprint("room", i), fmt.Sprint("b", i))
		}
		until(t, "all rows are worked off", func() bool { return len(results(t, d)) == 100 })
	}, lease.Migrations(), tables)
}

// What others took and gave back while a process stood still is taken again, also when there is nothing to do.
func TestConsumersTakeAgainWhatWentWhileTheyStoodStill(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1}, func(n *node) { n.streams.Consume((&done{}).consumer(n.notes)) })
		held := func() (mine int) {
			leases, err := n.leases.Read(t.Context(), "consumer/")
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range leases {
				if h.Machine == n.leases.Self().ID {
					mine++
				}
			}
			return mine
		}
		until(t, "it has all shards", func() bool { return held() == n.notes.Shards() })
		if _, err := d.Exec(t.Context(), "UPDATE leases SET machine = -1, epoch = epoch + 1 WHERE name LIKE 'consumer/%'"); err != nil {
			t.Fatal(err)
		}
		until(t, "it has them again", func() bool { return held() == n.notes.Shards() })
	}, lease.Migrations(), tables)
}

// TestWhatIsDoneWhenAConsumerStopsIsNotDoneAgain by the one that goes on: its lease is given back when the work is stored.
func TestWhatIsDoneWhenAConsumerStopsIsNotDoneAgain(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := lossy{bus.NewLocal()}
		work, begun, again, taken := &done{}, make(chan struct{}), make(chan string, 100), make(chan int, 100)
		first := func(n *node) {
			c := work.consumer(n.notes)
			c.Work = func(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
				close(begun) // once: there is one room
				<-ctx.Done()
				return work.work(ctx, shard, rows)
			}
			n.streams.Consume(c)
		}
		second := func(n *node) {
			c := work.consumer(n.notes)
			c.OnAssigned = func(shard int) { taken <- shard }
			c.Work = func(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
				for _, r := range rows {
					again <- string(r.Data)
				}
				return work.work(ctx, shard, rows)
			}
			n.streams.Consume(c)
		}
		one := start(t, d, b, lease.Options{Machine: -1}, first)
		write(t, []*node{one}, "room", "first")
		<-begun
		one.stop()
		two := start(t, d, b, lease.Options{Machine: -1}, second)
		write(t, []*node{two}, "room", "second")
		if got := <-again; got != "second" || !results(t, d)["first"] {
			t.Errorf("expected that the first row is done, found that %q is done again", got)
		}
		if len(taken) == 0 {
			t.Error("nobody was told that the shard was taken")
		}
	}, lease.Migrations(), tables)
}

// briefNotes keeps less of a row than was written.
type briefNotes struct{ notes }

// Read is part of stream.Store.
func (b briefNotes) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	rows, err := b.notes.Read(ctx, q, r)
	for i := range rows {
		rows[i].Data, rows[i].Value = []byte("{}"), nil
	}
	return rows, err
}

// TestConsumersGetWhatTheirReadGives, also of rows that the bus did not bring.
func TestConsumersGetWhatTheirReadGives(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := lossy{bus.NewLocal()}
		work := &done{}
		consume := func(n *node) {
			n.notes = n.streams.Open(stream.Spec{Name: "briefs", Role: "notes", Shards: 8, Store: briefNotes{}})
			c := work.consumer(n.notes)
			c.Read = notes{}.Read
			n.streams.Consume(c)
		}
		nodes := []*node{start(t, d, b, lease.Options{Machine: -1}, consume), start(t, d, b, lease.Options{Machine: -1}, consume)}
		for i := range 200 {
			write(t, nodes, fmt.Sprint("room", i%9), fmt.Sprint("a", i))
		}
		until(t, "all rows are worked off", func() bool { return len(results(t, d)) == 200 })
		if results(t, d)["{}"] {
			t.Error("a consumer got a row of the store")
		}
	}, lease.Migrations(), tables)
}

func TestARowThatFailsDoesNotHoldUpOthers(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		work := &done{fail: map[string]bool{"bad": true}}
		if _, err := d.Exec(t.Context(), "INSERT INTO results (at, room, body) VALUES (0, 'x', 'refused')"); err != nil {
			t.Fatal(err)
		}
		n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1}, func(n *node) { n.streams.Consume(work.consumer(n.notes)) })
		all := []*node{n}
		for i := range 20 {
			write(t, all, "ill", fmt.Sprint("before", i))
			write(t, all, "well", fmt.Sprint("well", i))
		}
		write(t, all, "ill", "bad")
		write(t, all, "sick", "refused") // by the database
		for i := range 20 {
			write(t, all, "ill", fmt.Sprint("behind", i))
			write(t, all, "well", fmt.Sprint("more", i))
		}
		until(t, "the other keys", func() bool { return len(results(t, d)) == 61 })
		upto, err := n.notes.Consumed(t.Context())
		if shard := n.notes.Shard("ill"); err != nil || upto[shard] >= n.notes.Position(shard) {
			t.Errorf("a parked row counts as done: %v, %v", upto, err)
		}
		if _, err := d.Exec(t.Context(), "DELETE FROM results WHERE room = 'x'"); err != nil {
			t.Fatal(err)
		}
		work.allow("bad")
		until(t, "what was parked", func() bool { return len(results(t, d)) == 82 })
		var last string
		if err := d.QueryRow(t.Context(), "SELECT body FROM results WHERE room = 'ill' ORDER BY at DESC LIMIT 1").Scan(&last); err != nil ||
			!strings.HasPrefix(last, "behind") {
			t.Errorf("the last row of the key is %q, %v", last, err)
		}
		until(t, "nothing is parked", func() bool {
			var parked int
			return d.QueryRow(t.Context(), "SELECT COUNT(*) FROM parked_rows").Scan(&parked) == nil && parked == 0
		})
		time.Sleep(10 * time.Millisecond)
		write(t, all, "ill", "again")
		until(t, "the key goes on", func() bool { return results(t, d)["again"] })
	}, lease.Migrations(), tables)
}

// sameShard gives n keys of one shard.
func sameShard(st *stream.Stream, n int) []string {
	var keys []string
	for i := 0; len(keys) < n; i++ {
		if key := fmt.Sprint("k", i); st.Shard(key) == st.Shard("k0") {
			keys = append(keys, key)
		}
	}
	return keys
}

func isParked(t *testing.T, d *db.DB, n int) bool {
	t.Helper()
	var parked int
	if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM parked_rows").Scan(&parked); err != nil {
		t.Fatal(err)
	}
	return parked == n
}

// TestParkedRowsAndPeriodicHaveTheirTurnWhileRowsCome in the same shard, so that it is never without any.
func TestParkedRowsAndPeriodicHaveTheirTurnWhileRowsCome(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		work := &done{fail: map[string]bool{"bad": true}}
		var keys []string
		var calls atomic.Int64 // of Periodic, for the shard of the keys
		n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1}, func(n *node) {
			keys = sameShard(n.notes, 2)
			c := work.consumer(n.notes)
			c.Batch, c.Linger = 100, 20*time.Millisecond
			c.Work = func(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
				time.Sleep(50 * time.Millisecond)
				return work.work(ctx, shard, rows)
			}
			c.Periodic = func(_ context.Context, shard int) (time.Duration, error) {
				if shard == n.notes.Shard("k0") {
					calls.Add(1)
				}
				return 100 * time.Millisecond, nil
			}
			n.streams.Consume(c)
		})
		write(t, []*node{n}, keys[0], "bad")
		until(t, "it is parked", func() bool { return isParked(t, d, 1) })
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
					write(t, []*node{n}, keys[1], fmt.Sprint("steady", i))
				}
			}
		})
		until(t, "rows come", func() bool { return results(t, d)["steady20"] })
		work.allow("bad")
		before := calls.Load()
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && !(results(t, d)["bad"] && calls.Load() > before+3); {
			time.Sleep(10 * time.Millisecond)
		}
		if !results(t, d)["bad"] {
			t.Error("expected that the parked row is tried again while other rows come, found that it waits")
		}
		if got := calls.Load() - before; got <= 3 {
			t.Errorf("expected that Every is called every 100 ms while rows come, found %d calls", got)
		}
		close(stop)
		wg.Wait()
	}, lease.Migrations(), tables)
}

// TestParkedRowsDoNotHoldUpNewOnes when many of them are due and all of them are worked off one after the other.
func TestParkedRowsDoNotHoldUpNewOnes(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		work := &done{}
		var keys []string
		var slow atomic.Bool
		n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1}, func(n *node) {
			keys = sameShard(n.notes, 41)
			c := work.consumer(n.notes)
			c.Work = func(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
				if slices.ContainsFunc(rows, func(r stream.Row) bool { return r.Key != keys[40] }) {
					if !slow.Load() {
						return nil, errors.New("not now")
					}
					time.Sleep(100 * time.Millisecond)
				}
				return work.work(ctx, shard, rows)
			}
			n.streams.Consume(c)
		})
		for i := range 80 { // two of each key
			write(t, []*node{n}, keys[i%40], fmt.Sprint("old", i))
		}
		until(t, "all are parked", func() bool { return isParked(t, d, 80) })
		slow.Store(true)
		until(t, "they are tried", func() bool { return len(results(t, d)) > 0 })
		for i := range 3 {
			write(t, []*node{n}, keys[40], fmt.Sprint("new", i))
			until(t, "the new row is worked off", func() bool { return results(t, d)[fmt.Sprint("new", i)] })
		}
		if isParked(t, d, 0) {
			t.Error("expected that new rows have their turn before all parked ones, found that none is left")
		}
	}, lease.Migrations(), tables)
}

// TestAReasonMayHoldAnything that another server said: the row is parked, put off and worked off like others.
func TestAReasonMayHoldAnything(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		work := &done{}
		var well atomic.Bool
		reasons := map[string]string{
			"bad": "it said \x00\xff", "worse": strings.Repeat("x", 999) + strings.Repeat("é\x00", 1000),
			"half": strings.Repeat("é", 600)[:1001],
		}
		n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1}, func(n *node) {
			c := work.consumer(n.notes)
			c.Work = func(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
				for _, r := range rows {
					if reason := reasons[string(r.Data)]; reason != "" && !well.Load() {
						return nil, errors.New(reason)
					}
				}
				return work.work(ctx, shard, rows)
			}
			n.streams.Consume(c)
		})
		stored := func(condition string) map[string]bool {
			list, err := db.Texts(d.Query(t.Context(), "SELECT reason FROM parked_rows WHERE "+condition))
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]bool{}
			for _, reason := range list {
				out[reason] = true
			}
			return out
		}
		expected := map[string]bool{"it said \uFFFD\uFFFD": true, strings.Repeat("x", 999): true, strings.Repeat("é", 500): true}
		for i, body := range []string{"bad", "a", "worse", "b", "half", "c"} {
			write(t, []*node{n}, sameShard(n.notes, 6)[i], body)
		}
		until(t, "the others are worked off", func() bool { return len(results(t, d)) == 3 })
		until(t, "the rows are parked, with their reasons", func() bool { return maps.Equal(stored("tries = 0"), expected) })
		until(t, "they are put off, with their reasons", func() bool { return maps.Equal(stored("tries > 0"), expected) })
		well.Store(true)
		until(t, "all are worked off", func() bool { return len(results(t, d)) == 6 })
	}, lease.Migrations(), tables)
}

// TestARowThatCanNotBePutOffDoesNotHoldUpOthers that are due behind it.
func TestARowThatCanNotBePutOffDoesNotHoldUpOthers(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		if _, err := d.Exec(t.Context(), "CREATE UNIQUE INDEX one_row_is_put_off ON parked_rows (reason) WHERE tries > 0"); err != nil {
			t.Fatal(err)
		}
		work := &done{fail: map[string]bool{"bad": true, "worse": true, "late": true}}
		var taken atomic.Int64
		var slow atomic.Bool
		n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1, TTL: time.Minute}, func(n *node) {
			c := work.consumer(n.notes)
			c.OnAssigned = func(int) { taken.Add(1) }
			c.Work = func(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
				if slow.Load() { // a row is all that is tried in a turn
					time.Sleep(210 * time.Millisecond)
				}
				return work.work(ctx, shard, rows)
			}
			n.streams.Consume(c)
		})
		for i, body := range []string{"bad", "worse", "late"} {
			write(t, []*node{n}, sameShard(n.notes, 3)[i], body)
		}
		until(t, "they are parked", func() bool { return isParked(t, d, 3) })
		slow.Store(true)
		work.allow("late")
		until(t, "the last one is worked off", func() bool { return results(t, d)["late"] })
		if got := taken.Load(); got != 8 {
			t.Errorf("expected that each of the 8 shards is taken once, found %d times", got)
		}
		work.allow("worse")
		work.allow("bad")
		until(t, "all are worked off", func() bool { return len(results(t, d)) == 3 })
	}, lease.Migrations(), tables)
}

// TestAConsumerThatEndsWhileRowsComeStoresItsCursor, also that of rows without work in the database.
func TestAConsumerThatEndsWhileRowsComeStoresItsCursor(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		var upto atomic.Int64
		n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1}, func(n *node) {
			n.streams.Consume(stream.Consumer{
				Name: "done", Role: "notes", Stream: n.notes, Batch: 2,
				Work: func(ctx context.Context, _ int, rows []stream.Row) (func(w *db.Batch), error) {
					select {
					case <-ctx.Done():
						return nil, ctx.Err()
					case <-time.After(20 * time.Millisecond):
					}
					upto.Store(rows[len(rows)-1].Pos)
					return nil, nil
				},
			})
		})
		for i := range 200 {
			write(t, []*node{n}, "k0", fmt.Sprint(i))
		}
		until(t, "some rows are worked off", func() bool { return upto.Load() > 10 })
		n.stop()
		var stored int64
		if err := d.QueryRow(t.Context(), "SELECT pos FROM leases WHERE name = $1", fmt.Sprintf("consumer/done/%04d",
			n.notes.Shard("k0"))).Scan(&stored); err != nil {
			t.Fatal(err)
		}
		if stored != upto.Load() || stored >= 200 {
			t.Errorf("expected the cursor %d, before the last row, found %d", upto.Load(), stored)
		}
	}, lease.Migrations(), tables)
}
