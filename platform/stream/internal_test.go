package stream

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
)

func machineIDs(t *rapid.T) []int {
	ids := rapid.SliceOfNDistinct(rapid.IntRange(0, lease.MaxMachine), 1, 24, rapid.ID).Draw(t, "machines")
	slices.Sort(ids)
	return ids
}

func TestAssignIsEvenStableAndTheSameEverywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z_]{1,12}`).Draw(t, "stream")
		shards := rapid.IntRange(1, 64).Draw(t, "shards")
		ids := machineIDs(t)
		owners := assignShards(name, shards, ids)
		load := map[int]int{}
		for _, id := range owners {
			load[id]++
		}
		least, most := math.MaxInt, 0
		for _, id := range ids {
			least, most = min(least, load[id]), max(most, load[id])
		}
		if most-least > 1 || len(load) > len(ids) {
			t.Fatalf("shards per machine: %v", load)
		}
		other := rapid.Permutation(ids).Draw(t, "order")
		if again := assignShards(name, shards, other); !slices.Equal(owners, again) {
			t.Fatalf("the order of machines matters: %v, %v", owners, again)
		}
		added := rapid.IntRange(0, lease.MaxMachine).Filter(func(id int) bool { return !slices.Contains(ids, id) }).Draw(t, "added")
		moved := 0
		for i, id := range assignShards(name, shards, append(slices.Clone(ids), added)) {
			if id != owners[i] {
				moved++
			}
		}
		share := (shards + len(ids)) / (len(ids) + 1)
		if moved > share+shards/3+3 {
			t.Fatalf("one machine more moved %d of %d shards, its share is %d", moved, shards, share)
		}
	})
}

func TestAssignMovesLittleOnAverage(t *testing.T) {
	moved, ideal := 0, 0
	for try := range 200 {
		n := 2 + try%8
		var ids []int
		for i := range n {
			ids = append(ids, i)
		}
		before, after := assignShards(fmt.Sprint("s", try), 16, ids), assignShards(fmt.Sprint("s", try), 16, append(ids, n))
		for i := range before {
			if before[i] != after[i] {
				moved++
			}
		}
		ideal += (16 + n) / (n + 1)
	}
	t.Logf("moved %d, at least %d must", moved, ideal)
	if moved > 2*ideal {
		t.Errorf("%d shards moved, expected at most twice %d", moved, ideal)
	}
	if owners := assignShards("s", 3, nil); !slices.Equal(owners, []int{-1, -1, -1}) {
		t.Errorf("without machines: %v", owners)
	}
}

func FuzzDecodeRows(f *testing.F) {
	f.Add(encodeRows(-5, 1700000000000, []Row{
		{Shard: 3, Pos: 7, Key: "!room", Data: []byte("{}")},
		{Shard: 0, Pos: 1},
		{Shard: 1, Pos: 2, Data: []byte{}},
	}))
	f.Add(encodeRows(math.MaxInt64, 0, nil))
	f.Add([]byte{0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 1, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		from, at, rows, err := decodeRows(data, 16)
		if err != nil {
			return
		}
		for _, r := range rows {
			if r.Shard < 0 || r.Shard >= 16 || r.Pos < 0 {
				t.Fatalf("row %+v", r)
			}
		}
		again, then, same, err := decodeRows(encodeRows(from, at, rows), 16)
		if err != nil || again != from || then != at || len(same) != len(rows) {
			t.Fatalf("%d rows from %d became %d rows from %d, %v", len(rows), from, len(same), again, err)
		}
	})
}

var lines = db.Migrations{Domain: "test", Files: fstest.MapFS{"migrations/0001_lines.sql": {Data: []byte(
	"CREATE TABLE lines (stream TEXT NOT NULL, shard BIGINT NOT NULL, pos BIGINT NOT NULL, body BYTEA NOT NULL, " +
		"PRIMARY KEY (stream, shard, pos));",
)}}}

// lineStore refuses what is in refuse.
type lineStore struct {
	name string

	mu      sync.Mutex
	refuse  map[string]bool
	refusal error                   // of those
	breaks  func(w *db.Batch) error // what those do in the place of a refusal, unless nil
	fail    func() error            // runs in the middle of a commit
}

var lineRows = &db.Table{Name: "lines", Columns: db.Columns("stream text, shard integer, pos integer, body bytes")}

func (l *lineStore) Insert(_ context.Context, w *db.Batch, batch []*Entry) error {
	var rows [][]any
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range batch {
		if l.refuse[string(e.Data)] {
			if l.breaks != nil {
				return l.breaks(w)
			}
			return l.refusal
		}
		rows = append(rows, []any{l.name, e.Shard, e.Pos, e.Data})
	}
	if l.fail == nil {
		w.Rows(lineRows, rows)
		return nil
	}
	if _, err := w.Tx(); err != nil {
		return err
	}
	w.Rows(lineRows, rows)
	return l.fail()
}

func (l *lineStore) Read(ctx context.Context, q db.Querier, r Range) ([]Row, error) {
	rows, err := q.Query(ctx, "SELECT pos, body FROM lines WHERE stream = $1 AND shard = $2 AND pos > $3 AND pos <= $4 "+
		"ORDER BY pos LIMIT $5", l.name, r.Shard, r.After, r.Upto, r.Limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Row
	for rows.Next() {
		row := Row{Shard: r.Shard}
		if err := rows.Scan(&row.Pos, &row.Data); err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

var quiet = slog.New(slog.DiscardHandler)

type testStreams struct {
	*Streams
	d     *db.DB
	st    *Stream
	other *Stream
	store *lineStore
	lost  map[string]int
}

// newTestStreams has its shards but no writer: what is queued waits for go.
func newTestStreams(t testing.TB, d *db.DB) *testStreams {
	l, err := lease.Open(context.Background(), d, lease.Options{Embedded: true, Roles: []string{"all"}})
	if err != nil {
		t.Fatal(err)
	}
	r := &testStreams{Streams: New(Options{DB: d, Bus: bus.NewLocal(), Leases: l, Log: quiet}), d: d, lost: map[string]int{}}
	r.store = &lineStore{name: "a", refuse: map[string]bool{}, refusal: errors.New("refused")}
	r.st = r.Open(Spec{
		Name: "a", Shards: 4, Role: "x", Store: r.store, PositionKey: "lines_pkey",
		OnLost: func(i int) { r.lost[fmt.Sprint("a", i)]++ },
	})
	r.other = r.Open(Spec{Name: "b", Shards: 4, Role: "x", Store: &lineStore{name: "b"}, OnLost: func(i int) { r.lost[fmt.Sprint("b", i)]++ }})
	if err := r.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

func (r *testStreams) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.runWriter(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

func (r *testStreams) entry(st *Stream, shard int, body string) *Entry {
	for i := 0; ; i++ {
		if key := fmt.Sprint("k", i); st.Shard(key) == shard {
			return &Entry{Stream: st, Row: Row{Key: key, Data: []byte(body)}}
		}
	}
}

// queue puts entries in the queue that are built upon nothing.
func (r *testStreams) queue(t testing.TB, entries ...*Entry) *Ticket {
	t.Helper()
	ticket, err := r.Enqueue(nil, entries...)
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func result(t testing.TB, ticket *Ticket) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := ticket.Wait(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("an entry is never decided")
	}
	return err
}

func steal(t testing.TB, d *db.DB, name string, pos int64) {
	if _, err := d.Exec(context.Background(), "UPDATE leases SET epoch = epoch + 1, machine = 900, pos = pos + $2 WHERE name = $1", name,
		pos); err != nil {
		t.Fatal(err)
	}
}

// A database that went back to before a lease was taken, as when a standby takes over that did not have it all, has an older epoch.
func TestALeaseOfAnOlderEpochIsLost(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		r.run(t)
		if _, err := d.Exec(t.Context(), "UPDATE leases SET epoch = epoch - 1, machine = 900 WHERE name = $1", r.st.Lease(1)); err != nil {
			t.Fatal(err)
		}
		lost, other := r.queue(t, r.entry(r.st, 1, "x")), r.queue(t, r.entry(r.st, 2, "y"))
		if err := result(t, lost); !errors.Is(err, ErrNotOwner) {
			t.Errorf("the entry whose lease is another process's: %v", err)
		}
		if err := result(t, other); err != nil {
			t.Errorf("another one: %v", err)
		}
	}, lease.Migrations(), lines)
}

func TestALeaseLostWhileHandedOver(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		ticket, kept := r.queue(t, r.entry(r.st, 1, "x")), r.queue(t, r.entry(r.st, 2, "y"))
		steal(t, d, r.st.Lease(1), 0)
		handed := make(chan error, 1)
		go func() {
			handed <- r.releaseShards(t.Context(), func(st *Stream, i int) bool { return st == r.st && i == 1 })
		}()
		for r.st.Owns(1) {
			time.Sleep(time.Millisecond)
		}
		r.run(t)
		if err := result(t, ticket); !errors.Is(err, ErrNotOwner) {
			t.Errorf("the entry of a lost shard: %v", err)
		}
		if err := result(t, kept); err != nil {
			t.Errorf("the entry of another shard: %v", err)
		}
		if err := <-handed; err != nil {
			t.Error(err)
		}
	}, lease.Migrations(), lines)
}

// What is queued under one ownership must not be written under the next.
func TestEntriesOfAnOldOwnershipAreNotWritten(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		ticket := r.queue(t, r.entry(r.st, 1, "old"))
		steal(t, d, r.st.Lease(1), 3)
		r.giveUp(r.st, 1)
		if err := r.rebalance(t.Context()); err == nil && !r.st.Owns(1) {
			_ = r.opts.Leases.Refresh(t.Context())
			if err := r.rebalance(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		fresh := r.queue(t, r.entry(r.st, 1, "new"))
		r.run(t)
		if err := result(t, ticket); !errors.Is(err, ErrNotOwner) {
			t.Errorf("the old entry: %v", err)
		}
		if err := result(t, fresh); err != nil && !errors.Is(err, ErrAborted) {
			t.Errorf("the new entry: %v", err)
		}
		again := r.entry(r.st, 1, "again")
		if err := result(t, r.queue(t, again)); err != nil || again.Pos < 4 {
			t.Errorf("position %d, %v", again.Pos, err)
		}
	}, lease.Migrations(), lines)
}

func (r *testStreams) basis(t testing.TB, st *Stream, shard int) *Basis {
	t.Helper()
	b, err := st.Basis(r.entry(st, shard, "").Key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAFailureTakesAllThatIsBuiltUponItAlong(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		r.store.refuse["bad"] = true
		one, two := r.basis(t, r.st, 1), r.basis(t, r.st, 1)
		put := func(b *Basis, body string) *Ticket {
			t.Helper()
			ticket, err := b.Enqueue(r.entry(r.st, 1, body))
			if err != nil {
				t.Fatal(err)
			}
			return ticket
		}
		first := put(one, "before")
		bad := put(one, "bad")
		behind, behindOther := put(one, "behind"), put(two, "behind it for the same shard")
		r.run(t)
		for ticket, want := range map[*Ticket]error{first: nil, behind: ErrAborted, behindOther: nil} {
			if err := result(t, ticket); !errors.Is(err, want) {
				t.Errorf("%s: %v, expected %v", ticket.entries[0].Data, err, want)
			}
		}
		if err := result(t, bad); err == nil || errors.Is(err, ErrAborted) {
			t.Errorf("the bad entry: %v", err)
		}
		if _, err := one.Enqueue(r.entry(r.st, 1, "later")); !errors.Is(err, ErrAborted) || one.Alive() {
			t.Errorf("an entry was built upon one that failed: %v", err)
		}
		if err := result(t, put(r.basis(t, r.st, 1), "anew")); err != nil {
			t.Error(err)
		}
		if err := r.Append(t.Context()); err != nil {
			t.Errorf("no entries: %v", err)
		}
	}, lease.Migrations(), lines)
}

// statusError is an error that is an answer to a client.
type statusError int

func (e statusError) Error() string   { return fmt.Sprint("answer ", int(e)) }
func (e statusError) HTTPStatus() int { return int(e) }

// What a store refuses on purpose is no warning, however often it does.
func TestARefusalIsNoWarning(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		for refusal, warns := range map[error]bool{statusError(401): false, statusError(503): true, errors.New("broken"): true} {
			t.Run(refusal.Error(), func(t *testing.T) {
				r := newTestStreams(t, d)
				log := &bytes.Buffer{}
				r.opts.Log = slog.New(slog.NewTextHandler(log, nil))
				r.store.refuse["bad"], r.store.refusal = true, fmt.Errorf("row 2: %w", refusal)
				good, bad := r.queue(t, r.entry(r.st, 1, "good")), r.queue(t, r.entry(r.st, 2, "bad"))
				r.run(t)
				if err := result(t, good); err != nil {
					t.Error(err)
				}
				if err := result(t, bad); !errors.Is(err, refusal) {
					t.Error(err)
				}
				if strings.Contains(log.String(), "level=WARN") != warns {
					t.Errorf("the log has %q", log)
				}
			})
		}
	}, lease.Migrations(), lines)
}

// What breaks its connection each time, while the database answers all else, is given up: all streams wait behind it.
func TestWhatBreaksItsConnectionEachTimeIsRefused(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		r.store.refuse["breaking"] = true
		r.store.breaks = func(w *db.Batch) error {
			if !d.Postgres() {
				return driver.ErrBadConn
			}
			w.Do("SELECT pg_terminate_backend(pg_backend_pid())")
			return nil
		}
		before, bad, behind := r.queue(t, r.entry(r.st, 1, "before")), r.queue(t, r.entry(r.st, 1, "breaking")),
			r.queue(t, r.entry(r.st, 1, "behind"))
		other := r.queue(t, r.entry(r.other, 2, "of another stream"))
		r.run(t)
		if err := result(t, bad); !db.IsUnavailable(err) {
			t.Errorf("the entry that breaks the connection: %v", err)
		}
		for what, ticket := range map[string]*Ticket{
			"before it": before, "behind it": behind, "of another stream": other,
			"after it": r.queue(t, r.entry(r.st, 1, "after")),
		} {
			if err := result(t, ticket); err != nil {
				t.Errorf("the entry %s: %v", what, err)
			}
		}
	}, lease.Migrations(), lines)
}

func TestAFullQueueChangesNothing(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		r.opts.Queue = 3
		b := r.basis(t, r.st, 1)
		var taken []*Ticket
		for i := range 5 {
			ticket, err := b.Enqueue(r.entry(r.st, 1, fmt.Sprint(i)))
			if i < 3 && err != nil || i >= 3 && !errors.Is(err, ErrBusy) {
				t.Fatalf("entry %d: %v", i, err)
			}
			if err == nil {
				taken = append(taken, ticket)
			}
		}
		if large := r.entry(r.st, 2, "x"); true {
			large.Bytes = maxTicketBytes
			if _, err := r.Enqueue(nil, large); !errors.Is(err, ErrTooLarge) {
				t.Errorf("a ticket of %d bytes: %v", large.Bytes, err)
			}
		}
		r.run(t)
		for _, ticket := range taken {
			if err := result(t, ticket); err != nil {
				t.Error(err)
			}
		}
		if !b.Alive() || !b.Idle() || r.queued != 0 || r.queuedBytes != 0 {
			t.Errorf("alive %v, idle %v, queued %d of %d bytes", b.Alive(), b.Idle(), r.queued, r.queuedBytes)
		}
		if ticket, err := b.Enqueue(r.entry(r.st, 1, "more")); err != nil || result(t, ticket) != nil {
			t.Errorf("after it: %v", err)
		}
	}, lease.Migrations(), lines)
}

// Whoever sees a position taken already does not know its shard: it is taken anew, and nothing is stored.
func TestAPositionThatIsTakenGivesTheShardUp(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		r.run(t)
		if err := r.Append(t.Context(), r.entry(r.st, 1, "one")); err != nil {
			t.Fatal(err)
		}
		r.mu.Lock()
		r.st.shards[1].next = 1
		r.mu.Unlock()
		if err := r.Append(t.Context(), r.entry(r.st, 1, "two")); !errors.Is(err, ErrNotOwner) || r.st.Owns(1) {
			t.Fatalf("expected the shard to be given up, found %v", err)
		}
		if err := r.rebalance(t.Context()); err != nil {
			t.Fatal(err)
		}
		again := r.entry(r.st, 1, "two")
		if err := r.Append(t.Context(), again); err != nil || again.Pos != 2 {
			t.Errorf("position %d, %v", again.Pos, err)
		}
	}, lease.Migrations(), lines)
}

func TestWhatIsNotSealedWaits(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		r.run(t)
		sealed := make(chan bool, 1)
		e := r.entry(r.st, 1, "not yet")
		e.Seal = func() {
			e.Data = []byte("sealed")
			sealed <- true
		}
		ticket, behind := r.queue(t, e), r.queue(t, r.entry(r.st, 1, "behind"))
		if err := result(t, r.queue(t, r.entry(r.st, 2, "other shard"))); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ticket.done:
			t.Fatal("written before it was sealed")
		case <-behind.done:
			t.Fatal("written before what it is behind of")
		default:
		}
		ticket.Seal()
		if <-sealed; result(t, ticket) != nil || result(t, behind) != nil {
			t.Fatalf("%v, %v", ticket.err, behind.err)
		}
		rows, err := r.st.Read(t.Context(), Range{Shard: 1, Upto: 9, Limit: 9})
		if err != nil || len(rows) != 2 || string(rows[0].Data) != "sealed" {
			t.Errorf("%v, %v", rows, err)
		}
	}, lease.Migrations(), lines)
}

// A commit whose answer was lost is told by the leases that did not move, though the first one did. It can not arrive
// later: its epochs are gone.
func TestResolveLooksAtAllLeases(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		r.queue(t, r.entry(r.st, 0, "x"), r.entry(r.st, 1, "y"))
		batch := r.takeBatch(r.st.lane)
		marks, err := r.write(batch)
		if err != nil || len(marks) != 2 {
			t.Fatalf("%v, %v", marks, err)
		}
		steal(t, d, marks[0].Name, 1)
		if stored, decided := r.resolve(t.Context(), marks); !stored || !decided {
			t.Error("a durable commit was taken for a lost one")
		}
		if r.st.Owns(0) || !r.st.Owns(1) {
			t.Error("the shard that another process has is kept, or the other one is not")
		}
		if _, err := r.write(batch); !errors.Is(err, lease.ErrLost) {
			t.Errorf("the same transaction, arriving later: %v", err)
		}
		r.committed(batch)
		r.endCommit(r.st.lane, batch, time.Millisecond)
		next := r.queue(t, r.entry(r.st, 1, "z"))
		r.run(t)
		if err := result(t, next); err != nil {
			t.Errorf("the entry after it: %v", err)
		}
		marks[0].Pos++
		if stored, _ := r.resolve(t.Context(), marks[:1]); stored {
			t.Error("a lease that moved on proves nothing")
		}
	}, lease.Migrations(), lines)
}

func TestAHandingOverThatFailedIsTriedAgain(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		ticket := r.queue(t, r.entry(r.st, 1, "x"))
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := r.releaseShards(short, func(st *Stream, i int) bool { return st == r.st && i == 1 }); err == nil {
			t.Fatal("handed over with an entry that waits")
		}
		if r.st.Owns(1) {
			t.Error("a shard on its way takes entries")
		}
		if err := r.rebalance(t.Context()); err != nil { // it belongs here after all
			t.Fatal(err)
		}
		if !r.st.Owns(1) {
			t.Error("the shard stays closed")
		}
		r.run(t)
		if err := result(t, ticket); err != nil {
			t.Error(err)
		}
		if err := r.Append(t.Context(), r.entry(r.st, 1, "y")); err != nil {
			t.Error(err)
		}
	}, lease.Migrations(), lines)
}

func TestRowsFromBeforeTheStartAreNotHandedOver(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		r := newTestStreams(t, d)
		r.run(t)
		for i := range 20 {
			if err := r.Append(t.Context(), r.entry(r.st, 1, fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		s := New(Options{DB: d, Bus: bus.NewLocal(), Leases: r.opts.Leases, Log: quiet})
		t.Cleanup(s.close)
		var mu sync.Mutex
		var seen []int64
		st := s.Open(Spec{Name: "a", Shards: 4, Store: r.store})
		st.Subscribe(func(rows []Row) {
			mu.Lock()
			defer mu.Unlock()
			for _, row := range rows {
				seen = append(seen, row.Pos)
			}
		})
		st.deliver([]Row{{Shard: 1, Pos: 22}}) // comes before the positions were read
		st.deliver([]Row{{Shard: 1, Pos: 1, Data: []byte("0")}})
		held, err := r.opts.Leases.Read(t.Context(), "stream/")
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range []string{"21", "22"} {
			if err := r.Append(t.Context(), r.entry(r.st, 1, body)); err != nil {
				t.Fatal(err)
			}
		}
		st.startAt(held)
		if err := st.WaitFor(t.Context(), 1, 22); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(seen, []int64{21, 22}) {
			t.Errorf("handed over: %v", seen)
		}
	}, lease.Migrations(), lines)
}

func BenchmarkAppend(b *testing.B) {
	open := map[string]func() *db.DB{
		"sqlite": func() *db.DB {
			return dbtest.Open(b, "sqlite:"+filepath.Join(b.TempDir(), "bench.db"), lease.Migrations(), lines)
		},
		"postgres": func() *db.DB {
			return dbtest.Open(b, enginestest.TestPostgres(b), lease.Migrations(), lines)
		},
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		for _, parallel := range []int{1, 16, 256} {
			b.Run(fmt.Sprintf("%s/%d", engine, parallel), func(b *testing.B) {
				r := newTestStreams(b, open[engine]())
				r.run(b)
				body := make([]byte, 400)
				work := make(chan struct{}, b.N)
				for range b.N {
					work <- struct{}{}
				}
				close(work)
				b.ResetTimer()
				var wg sync.WaitGroup
				for range parallel {
					wg.Go(func() {
						for range work {
							e := &Entry{Stream: r.st, Row: Row{Key: fmt.Sprint(rand.IntN(1000)), Data: body}}
							if err := r.Append(context.Background(), e); err != nil {
								b.Error(err)
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

func blankRows(n int) []Row {
	rows := make([]Row, n)
	for i := range rows {
		rows[i] = Row{Shard: i % 16, Pos: int64(1 + i/16), Key: "!abcdefghijklmnopqr:example.org", Data: make([]byte, 400)}
	}
	return rows
}

// BenchmarkReceive is what a row costs that comes over the bus in messages of some length: to a process that has the rows
// already, and to one with subscriptions that look at the first byte of each.
func BenchmarkReceive(b *testing.B) {
	d := dbtest.Open(b, "sqlite:"+filepath.Join(b.TempDir(), "bench.db"), lease.Migrations(), lines)
	for _, length := range []int{1, 16} {
		for _, tails := range []int{0, 4} {
			b.Run(fmt.Sprintf("rows=%d/tails=%d", length, tails), func(b *testing.B) {
				l, err := lease.Open(b.Context(), d, lease.Options{Embedded: true, Roles: []string{"all"}})
				if err != nil {
					b.Fatal(err)
				}
				s := New(Options{DB: d, Bus: bus.NewLocal(), Leases: l, Log: quiet})
				b.Cleanup(s.close)
				st := s.Open(Spec{Name: "a", Shards: 16, Role: "x", Store: &lineStore{name: "a"}})
				var looked int
				for range tails {
					st.Subscribe(func(rows []Row) {
						for _, row := range rows {
							looked += int(row.Data[0])
						}
					})
				}
				st.startAt(nil)
				rows := blankRows(length)
				m := bus.Message{Data: encodeRows(1, 1, rows)}
				b.ReportAllocs()
				for i := 0; i < b.N; i += length {
					if tails > 0 {
						st.mu.Lock()
						for _, sh := range st.shards {
							sh.delivered = 0
						}
						st.mu.Unlock()
					} else if i == 0 {
						for _, sh := range st.shards {
							sh.delivered = 1
						}
					}
					st.receive(m)
				}
			})
		}
	}
}
