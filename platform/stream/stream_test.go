package stream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/stream"
)

var tables = db.Migrations{Domain: "test", Files: fstest.MapFS{"migrations/0001_notes.sql": {Data: []byte(`
CREATE TABLE notes (shard BIGINT NOT NULL, pos BIGINT NOT NULL, room TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (shard, pos));
CREATE UNIQUE INDEX notes_body ON notes (room, body);
CREATE TABLE results (at BIGINT NOT NULL, room TEXT NOT NULL, body TEXT NOT NULL UNIQUE);
`)}}}

type notes struct{}

var noteRows = &db.Table{Name: "notes", Columns: db.Columns("shard integer, pos integer, room text, body text")}

func (notes) Insert(_ context.Context, w *db.Batch, batch []*stream.Entry) error {
	rows := make([][]any, len(batch))
	for i, e := range batch {
		rows[i] = []any{e.Shard, e.Pos, e.Key, string(e.Data)}
	}
	w.Rows(noteRows, rows)
	return nil
}

func (notes) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	rows, err := q.Query(ctx, "SELECT pos, room, body FROM notes WHERE shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4",
		r.Shard, r.After, r.Upto, r.Limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []stream.Row
	for rows.Next() {
		row := stream.Row{Shard: r.Shard}
		var body string
		if err := rows.Scan(&row.Pos, &row.Key, &body); err != nil {
			return nil, err
		}
		row.Data = []byte(body)
		out = append(out, row)
	}
	return out, rows.Err()
}

// node is one process of a test fleet.
type node struct {
	t       *testing.T
	leases  *lease.Leases
	streams *stream.Streams
	notes   *stream.Stream
	bus     bus.Bus
	stop    func()

	mu    sync.Mutex
	seen  map[string]bool
	last  map[int]int64
	first map[int]int64
	began []int64
}

// lossy drops a third of the messages.
type lossy struct{ bus.Bus }

func (l lossy) Publish(ctx context.Context, msgs ...bus.Message) error {
	if rand.IntN(3) == 0 {
		return nil
	}
	return l.Bus.Publish(ctx, msgs...)
}

func start(t *testing.T, d *db.DB, b bus.Bus, o lease.Options, wire ...func(n *node)) *node {
	t.Helper()
	n := &node{t: t, seen: map[string]bool{}, last: map[int]int64{}, first: map[int]int64{}, bus: b}
	log := slog.New(slog.DiscardHandler)
	o.Roles = []string{"all"}
	if o.TTL == 0 {
		o.TTL = 600 * time.Millisecond
	}
	if o.Announce == nil {
		o.Announce = func() { _ = b.Publish(context.Background(), bus.Message{Topic: "leases"}) }
	}
	var err error
	if n.leases, err = lease.Open(context.Background(), d, o); err != nil {
		t.Fatal(err)
	}
	n.streams = stream.New(stream.Options{DB: d, Bus: b, Leases: n.leases, Log: log})
	n.notes = n.streams.Open(stream.Spec{Name: "notes", Role: "notes", Shards: 8, Store: notes{}})
	n.notes.Subscribe(func(rows []stream.Row) {
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, r := range rows {
			if prev, ok := n.last[r.Shard]; ok && r.Pos != prev+1 {
				t.Errorf("shard %d: position %d follows %d", r.Shard, r.Pos, prev)
			}
			if n.last[r.Shard] = r.Pos; n.first[r.Shard] == 0 {
				n.first[r.Shard] = r.Pos
			}
			if n.seen[string(r.Data)] {
				t.Errorf("row %s came twice", r.Data)
			}
			n.seen[string(r.Data)] = true
		}
	}).OnStart(func(began []int64) { n.began = began })
	for _, add := range wire {
		add(n)
	}
	if err := n.streams.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = n.leases.Run(ctx) })
	sctx, scancel := context.WithCancel(context.Background())
	var swg sync.WaitGroup
	swg.Go(func() { _ = n.streams.Run(sctx) })
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			scancel()
			swg.Wait()
			_ = n.leases.Leave(context.Background())
			cancel()
			wg.Wait()
		})
	}
	t.Cleanup(n.stop)
	return n
}

func (n *node) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.seen)
}

// write appends through whichever of the nodes owns the shard.
func write(t *testing.T, nodes []*node, room, body string) {
	t.Helper()
	writeToAny(t, func() []*node { return nodes }, room, body)
}

// writeToAny is write to nodes that may become more.
func writeToAny(t *testing.T, nodes func() []*node, room, body string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		for _, n := range nodes() {
			e := &stream.Entry{Stream: n.notes, Row: stream.Row{Key: room, Data: []byte(body)}}
			err := n.streams.Append(context.Background(), e)
			if err == nil {
				return
			}
			if !errors.Is(err, stream.ErrNotOwner) && !errors.Is(err, stream.ErrAborted) {
				t.Errorf("append: %v", err)
				return
			}
		}
		if time.Now().After(deadline) {
			t.Errorf("nobody took %s", body)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestWritersShareShardsAndReadersMissNothing(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := lossy{bus.NewLocal()}
		var mu sync.Mutex
		nodes := []*node{start(t, d, b, lease.Options{Machine: -1}), start(t, d, b, lease.Options{Machine: -1})}
		all := func() []*node {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(nodes)
		}
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range 50 {
					writeToAny(t, all, fmt.Sprintf("room%d", i%20), fmt.Sprintf("%d-%d", w, i))
				}
			})
			if w == 4 {
				third := start(t, d, b, lease.Options{Machine: -1})
				mu.Lock()
				nodes = append(nodes, third)
				mu.Unlock()
			}
		}
		wg.Wait()
		for i, n := range nodes[:2] {
			until(t, fmt.Sprintf("all rows at node %d", i), func() bool { return n.count() == 400 })
		}
		owners := map[int]int{}
		for _, n := range nodes {
			for i := range 8 {
				if n.notes.Owns(i) {
					owners[n.leases.Self().ID]++
				}
			}
		}
		if len(owners) != 3 {
			t.Errorf("expected shards with 3 owners, found %v", owners)
		}
		nodes[0].stop()
		write(t, nodes[1:], "room1", "after")
		for i := range 20 {
			write(t, nodes[1:], fmt.Sprintf("room%d", i), fmt.Sprint("end", i))
		}
	}, lease.Migrations(), tables)
}

func TestPausedOwnerCanNotWrite(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		a := start(t, d, b, lease.Options{Machine: -1})
		write(t, []*node{a}, "r", "first")
		epoch, _ := a.notes.Ownership(a.notes.Shard("r"))
		// Another process takes the lease, as it would after a's heartbeat stopped.
		if _, err := d.Exec(context.Background(), "UPDATE leases SET epoch = epoch + 1, machine = 900 WHERE name = $1",
			a.notes.Lease(a.notes.Shard("r"))); err != nil {
			t.Fatal(err)
		}
		err := a.streams.Append(context.Background(), &stream.Entry{Stream: a.notes, Row: stream.Row{Key: "r", Data: []byte("late")}})
		if now, ok := a.notes.Ownership(a.notes.Shard("r")); err == nil && now == epoch {
			t.Fatalf("an owner without its lease wrote under epoch %d (owned %v)", epoch, ok)
		}
		if err == nil {
			t.Fatal("expected the write to be refused")
		}
		var n int
		if err := d.QueryRow(context.Background(), "SELECT COUNT(*) FROM notes WHERE body = 'late'").Scan(&n); err != nil || n != 0 {
			t.Fatalf("found %d rows of the late write, %v", n, err)
		}
	}, lease.Migrations(), tables)
}

func TestOneBadEntryFailsAlone(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		a := start(t, d, bus.NewLocal(), lease.Options{Machine: -1, TTL: time.Minute}) // it keeps its shards, however slow the machine is
		write(t, []*node{a}, "room", "same")
		var tickets []*stream.Ticket
		for i := range 30 {
			body := fmt.Sprint(i)
			if i == 7 {
				body = "same" // refused by the unique index
			}
			ticket, err := a.streams.Enqueue(nil, &stream.Entry{Stream: a.notes, Row: stream.Row{Key: "room", Data: []byte(body)}},
				&stream.Entry{Stream: a.notes, Row: stream.Row{Key: "other", Data: []byte("other" + body)}})
			if err != nil {
				t.Fatal(err)
			}
			tickets = append(tickets, ticket)
		}
		good := 0
		for i, ticket := range tickets {
			err := ticket.Wait(context.Background())
			if i == 7 && (err == nil || !db.IsUnique(err)) {
				t.Errorf("expected the bad entry to be refused, found %v", err)
			}
			if err == nil {
				good++
			}
		}
		if good != 29 {
			t.Errorf("%d of 30 entries were written, expected all but one", good)
		}
		until(t, "the tails", func() bool { return a.count() == 2*good+1 })
	}, lease.Migrations(), tables)
}

func TestDuplicateMachineIsRefused(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		start(t, d, bus.NewLocal(), lease.Options{Machine: 5, Host: "first"})
		_, err := lease.Open(context.Background(), d, lease.Options{Machine: 5, Host: "second"})
		if err == nil {
			t.Fatal("two processes have machine id 5")
		}
	}, lease.Migrations(), tables)
}
