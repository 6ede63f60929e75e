package owned_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/owned"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

var tables = db.Migrations{Domain: "test", Files: fstest.MapFS{"migrations/0001_sums.sql": {Data: []byte(`
CREATE TABLE sums (key TEXT NOT NULL, sum BIGINT NOT NULL, step TEXT NOT NULL, shard BIGINT NOT NULL, pos BIGINT NOT NULL, PRIMARY
KEY (shard, pos));
CREATE UNIQUE INDEX sums_step ON sums (key, step);
`)}}}

// sums is a domain whose keys count: each row adds to the sum before it.
type sums struct {
	d      *db.DB
	stream *stream.Stream
	owned  *owned.Owned[int64]
	loads  atomic.Int64

	mu   sync.Mutex
	hold chan struct{} // commits wait for it
	bad  map[string]bool
}

type sumRow struct {
	sum  int64
	step string
}

var sumRows = &db.Table{Name: "sums", Columns: db.Columns("key text, sum integer, step text, shard integer, pos integer")}

func (s *sums) Insert(_ context.Context, w *db.Batch, batch []*stream.Entry) error {
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	var rows [][]any
	for _, e := range batch {
		r := e.Value.(sumRow)
		if s.bad[r.step] {
			return errors.New("refused")
		}
		rows = append(rows, []any{e.Key, r.sum, r.step, e.Shard, e.Pos})
	}
	w.Rows(sumRows, rows)
	return nil
}

func (s *sums) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	return db.List(func(row db.Row) (out stream.Row, err error) {
		out.Shard, out.Data = r.Shard, []byte("{}")
		return out, row.Scan(&out.Pos, &out.Key)
	})(q.Query(ctx, "SELECT pos, key FROM sums WHERE shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4",
		r.Shard, r.After, r.Upto, r.Limit))
}

func (s *sums) load(ctx context.Context, key string) (*int64, error) {
	s.loads.Add(1)
	var sum int64
	err := s.d.QueryRow(ctx, "SELECT sum FROM sums WHERE key = $1 ORDER BY pos DESC LIMIT 1", key).Scan(&sum)
	if errors.Is(err, db.ErrNoRows) {
		err = nil
	}
	return &sum, err
}

func wire(p *role.Process, change func(*owned.Spec[int64])) *sums {
	s := &sums{d: p.DB, bad: map[string]bool{}}
	s.stream = p.Streams.Open(stream.Spec{
		Name: "sums", Role: "sums", Shards: 4, Store: s, PositionKey: "sums_pkey",
		OnLost: func(i int) { s.owned.Drop(i) },
	})
	spec := owned.Spec[int64]{Stream: s.stream, Load: s.load, Bytes: func(*int64) int64 { return 100 }, Budget: 1 << 20, Strict: true}
	if change != nil {
		change(&spec)
	}
	s.owned = owned.Open(spec)
	return s
}

func run(t *testing.T, change func(*owned.Spec[int64]), body func(t *testing.T, s *sums)) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		p := roletest.New(t, d)
		s := wire(p, change)
		roletest.Start(t, p)
		body(t, s)
	}, lease.Migrations(), tables)
}

// add appends a row with one more than the sum before it; a step that is known is not added.
func (s *sums) add(ctx context.Context, key, step string) (sum int64, err error) {
	err = s.owned.Do(ctx, key, func(c *owned.Change[int64]) error {
		sum = *c.State() + 1
		c.Append(func(now *int64, _ *stream.Ticket) { *now = sum }, s.entry(key, sum, step))
		return nil
	})
	return sum, err
}

func (s *sums) entry(key string, sum int64, step string) *stream.Entry {
	return &stream.Entry{Stream: s.stream, Row: stream.Row{Key: key, Value: sumRow{sum, step}, Data: []byte("{}")}}
}

// whole checks that the rows of each key are 1, 2, 3, …
func (s *sums) whole(t *testing.T) (rows int) {
	t.Helper()
	last := map[string]int64{}
	err := db.Each(func(row db.Row) error {
		var key string
		var sum int64
		err := row.Scan(&key, &sum)
		if sum != last[key]+1 {
			t.Errorf("%s: %d follows %d", key, sum, last[key])
		}
		last[key] = sum
		rows++
		return err
	})(s.d.Query(t.Context(), "SELECT key, sum FROM sums ORDER BY shard, pos"))
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// stop makes commits wait until the function that it returns is called.
func (s *sums) stop() (goOn func()) {
	hold := make(chan struct{})
	s.mu.Lock()
	s.hold = hold
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.hold = nil
		s.mu.Unlock()
		close(hold)
	}
}

func TestManyChangesOfOneKeyShareCommits(t *testing.T) {
	run(t, nil, func(t *testing.T, s *sums) {
		var all sync.WaitGroup
		for w := range 20 {
			all.Go(func() {
				for i := range 20 {
					if _, err := s.add(t.Context(), "k", fmt.Sprint(w, "/", i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if n := s.whole(t); n != 400 || s.loads.Load() != 1 {
			t.Errorf("%d rows, loaded %d times", n, s.loads.Load())
		}
	})
}

func TestAFailedRowTakesAlongWhatIsBuiltUponIt(t *testing.T) {
	run(t, nil, func(t *testing.T, s *sums) {
		s.bad["bad"] = true
		goOn := s.stop()
		type result struct {
			step string
			err  error
		}
		results := make(chan result, 64)
		start := func(key, step string) {
			go func() {
				_, err := s.add(t.Context(), key, step)
				results <- result{step, err}
			}()
			time.Sleep(5 * time.Millisecond)
		}
		start("k", "first")
		for i := range 5 {
			start("k", "before"+strconv.Itoa(i))
		}
		start("k", "bad")
		for i := range 5 {
			start("k", "behind"+strconv.Itoa(i))
			start("other", "other"+strconv.Itoa(i))
		}
		goOn()
		stored := 0
		for range 17 {
			switch r := <-results; {
			case r.step == "bad" && (r.err == nil || errors.Is(r.err, stream.ErrAborted)):
				t.Errorf("the bad row: %v", r.err)
			case r.err == nil:
				stored++
			case r.step != "bad" && !errors.Is(r.err, stream.ErrAborted):
				t.Errorf("%s: %v", r.step, r.err)
			}
		}
		if n := s.whole(t); n != stored || stored < 11 {
			t.Errorf("%d rows are stored, %d were acknowledged", n, stored)
		}
		if _, err := s.add(t.Context(), "k", "after"); err != nil {
			t.Error(err)
		}
		s.whole(t)
	})
}

func TestACallThatWritesNothingWaitsForTheRowsOfItsAnswer(t *testing.T) {
	run(t, nil, func(t *testing.T, s *sums) {
		if _, err := s.add(t.Context(), "k", "zero"); err != nil {
			t.Fatal(err)
		}
		goOn := s.stop()
		go func() { _, _ = s.add(t.Context(), "k", "one") }()
		roletest.Until(t, "the row waits", func() (there bool) {
			s.owned.Peek(t.Context(), "k", func(sum *int64) { there = *sum == 2 })
			return there
		})
		answer := make(chan error, 2)
		refused := errors.New("refused by the function")
		go func() { answer <- s.owned.Do(t.Context(), "k", func(*owned.Change[int64]) error { return nil }) }()
		go func() { answer <- s.owned.Do(t.Context(), "k", func(*owned.Change[int64]) error { return refused }) }()
		select {
		case <-answer:
			t.Fatal("answered from a row that is not stored")
		case <-time.After(100 * time.Millisecond):
		}
		goOn()
		a, b := <-answer, <-answer
		if !(a == nil && b == refused || a == refused && b == nil) {
			t.Errorf("%v, %v", a, b)
		}
	})
}

func TestWhatIsMissingIsLoadedWithoutTheLock(t *testing.T) {
	run(t, nil, func(t *testing.T, s *sums) {
		loading, loaded := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		var have, calls int
		go func() {
			done <- s.owned.Do(t.Context(), "k", func(c *owned.Change[int64]) error {
				if calls++; have == 0 {
					return c.Need(func(context.Context) (func(*int64), error) {
						close(loading)
						<-loaded
						return func(*int64) { have = 7 }, nil
					})
				}
				return nil
			})
		}()
		<-loading
		if _, err := s.add(t.Context(), "k", "meanwhile"); err != nil { // the key is not locked
			t.Fatal(err)
		}
		close(loaded)
		if err := <-done; err != nil || have != 7 || calls != 2 {
			t.Errorf("%v, have %d after %d calls", err, have, calls)
		}
		broken := errors.New("broken")
		err := s.owned.Do(t.Context(), "k", func(c *owned.Change[int64]) error {
			return c.Need(func(context.Context) (func(*int64), error) { return nil, broken })
		})
		if err != broken {
			t.Errorf("expected the error of the load, found %v", err)
		}
		if _, err := s.add(t.Context(), "k", "after"); err != nil {
			t.Error(err)
		}
	})
}

func TestMemoryIsBoundedAndNothingUndecidedGoes(t *testing.T) {
	pinned := func(sum *int64) bool { return *sum >= 3 }
	small := func(spec *owned.Spec[int64]) { spec.Budget, spec.Pinned = 20_000, pinned }
	run(t, small, func(t *testing.T, s *sums) {
		for i := range 300 {
			if _, err := s.add(t.Context(), fmt.Sprint("k", i), "one"); err != nil {
				t.Fatal(err)
			}
		}
		if bytes, keys := s.owned.Bytes(); bytes > 20_000 || keys < 30 {
			t.Errorf("%d bytes in %d keys", bytes, keys)
		}
		for i := range 300 {
			if sum, err := s.add(t.Context(), fmt.Sprint("k", i), "two"); err != nil || sum != 2 {
				t.Fatalf("%d, %v", sum, err)
			}
		}
		s.whole(t)
		busy := 0
		for i := range 300 { // these stay
			_, err := s.add(t.Context(), fmt.Sprint("k", i), "three")
			if errors.Is(err, stream.ErrBusy) {
				busy++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if bytes, _ := s.owned.Bytes(); bytes > 32_000 || busy == 0 || busy > 280 {
			t.Errorf("%d bytes, refused %d keys", bytes, busy)
		}
		s.whole(t)
	})
}

// A call that failed, or whose client left, keeps its key in memory no longer than others.
func TestCallsThatFailKeepNoKeys(t *testing.T) {
	small := func(spec *owned.Spec[int64]) { spec.Budget = 20_000 }
	run(t, small, func(t *testing.T, s *sums) {
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for i := range 300 {
			if _, err := s.add(gone, fmt.Sprint("k", i), "one"); !errors.Is(err, context.Canceled) {
				t.Fatalf("a call of somebody who left: %v", err)
			}
		}
		if bytes, keys := s.owned.Bytes(); bytes != 0 || keys != 0 {
			t.Errorf("after calls that were cancelled: %d bytes in %d keys", bytes, keys)
		}
		broken := errors.New("broken")
		for i := range 300 {
			err := s.owned.Do(t.Context(), fmt.Sprint("k", i), func(c *owned.Change[int64]) error {
				return c.Need(func(context.Context) (func(*int64), error) { return nil, broken })
			})
			if err != broken {
				t.Fatalf("expected the error of the load, found %v", err)
			}
		}
		if bytes, keys := s.owned.Bytes(); bytes > 20_000 || keys < 30 {
			t.Errorf("after calls that failed: %d bytes in %d keys", bytes, keys)
		}
	})
}

func TestEachSeesWhatAFormerOwnerLeft(t *testing.T) {
	change := func(spec *owned.Spec[int64]) {
		spec.Active = func(_ context.Context, shard int) ([]string, error) {
			if shard == spec.Stream.Shard("left") {
				return []string{"left"}, nil
			}
			return nil, nil
		}
	}
	run(t, change, func(t *testing.T, s *sums) {
		seen := map[string]int{}
		each := func() {
			t.Helper()
			for i := range 4 {
				err := s.owned.Each(t.Context(), i, func(key string, c *owned.Change[int64]) error {
					seen[key]++
					sum := *c.State() + 1
					c.Append(func(now *int64, _ *stream.Ticket) { *now = sum }, s.entry(key, sum, fmt.Sprint(sum)))
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		each()
		each()
		if n := s.whole(t); n != 1 || seen["left"] != 1 {
			t.Errorf("%d rows, seen %v", n, seen)
		}
	})
}

// A call that passed the check of ownership before the shard moved away and back must not go on from what it knew then.
func TestAnEntryOfAFormerOwnershipIsNotUsed(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		one, two, stopTwo := roletest.Two(t, d, func(p *role.Process) *sums { return wire(p, nil) })
		key := ""
		for i := 0; key == ""; i++ {
			if k := fmt.Sprint("k", i); two.stream.Owns(two.stream.Shard(k)) {
				key = k
			}
		}
		// The state of the key stays at two while the shard goes to one, which writes, and comes back.
		inside, goOn := make(chan struct{}), make(chan struct{})
		done := make(chan error, 1)
		go func() {
			first := true
			done <- two.owned.Do(t.Context(), key, func(c *owned.Change[int64]) error {
				sum := *c.State() + 1
				if first {
					first = false
					close(inside)
					<-goOn
				}
				c.Append(func(now *int64, _ *stream.Ticket) { *now = sum }, two.entry(key, sum, "late"))
				return nil
			})
		}()
		<-inside
		shard := two.stream.Shard(key)
		if _, err := d.Exec(t.Context(), "UPDATE leases SET epoch = epoch + 1, machine = -1 WHERE name = $1",
			two.stream.Lease(shard)); err != nil {
			t.Fatal(err)
		}
		// Somebody else writes under the lease.
		if _, err := d.Exec(t.Context(), "INSERT INTO sums (key, sum, step, shard, pos) VALUES ($1, 1, 'other', $2, 1)", key, shard); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Exec(t.Context(), "UPDATE leases SET pos = 1 WHERE name = $1", two.stream.Lease(shard)); err != nil {
			t.Fatal(err)
		}
		roletest.Until(t, "the shard is owned again", func() bool {
			epoch, ok := two.stream.Ownership(shard)
			if other, okOther := one.stream.Ownership(shard); okOther {
				epoch, ok = other, true
			}
			return ok && epoch > 1
		})
		close(goOn)
		if err := <-done; err != nil && !errors.Is(err, stream.ErrNotOwner) {
			t.Errorf("found %v", err)
		}
		one.whole(t)
		stopTwo()
	}, lease.Migrations(), tables)
}
