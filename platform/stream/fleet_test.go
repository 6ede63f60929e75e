package stream_test

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lyceum/platform/bus"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
	"lyceum/platform/stream"
)

// fleetOf is some nodes, each with its own connections to one PostgreSQL and one Redis.
func fleetOf(t *testing.T, n int, pgURL, redisURL string) []*node {
	t.Helper()
	dbtest.Open(t, pgURL, lease.Migrations(), tables)
	prefix := enginestest.Unique()
	var nodes []*node
	for range n {
		d := dbtest.Open(t, pgURL)
		b, err := bus.NewRedis(t.Context(), bus.Config{Addresses: []string{redisURL}, Prefix: prefix, Timeout: conf.Duration(time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		nodes = append(nodes, start(t, d, b, lease.Options{Machine: -1}))
	}
	until(t, "the shards are shared", func() bool {
		owned := 0
		for _, node := range nodes {
			mine := 0
			for i := range 8 {
				if node.notes.Owns(i) {
					mine++
				}
			}
			if mine == 0 {
				return false
			}
			owned += mine
		}
		return owned == 8
	})
	return nodes
}

func ownPostgres(t *testing.T) *engines.Postgres {
	t.Helper()
	pg, err := engines.StartPostgres(t.Context(), enginestest.Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Stop() })
	return pg
}

func ownRedis(t *testing.T, settings ...string) *engines.Redis {
	t.Helper()
	redis, err := engines.StartRedis(t.Context(), t.TempDir(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = redis.Stop() })
	return redis
}

func (n *node) has(body string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[body]
}

// stored checks that the rows are there once and without a gap, and returns their texts.
func stored(t *testing.T, d *db.DB) map[string]bool {
	t.Helper()
	rows, err := d.Query(context.Background(), "SELECT shard, pos, body FROM notes ORDER BY shard, pos")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	last, out := map[int]int64{}, map[string]bool{}
	for rows.Next() {
		var shard int
		var pos int64
		var body string
		if err := rows.Scan(&shard, &pos, &body); err != nil {
			t.Fatal(err)
		}
		if pos != last[shard]+1 || out[body] {
			t.Fatalf("shard %d: position %d (%s) follows %d", shard, pos, body, last[shard])
		}
		last[shard], out[body] = pos, true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// rounds appends at a random owner and demands that after a Barrier every node has the row.
func rounds(t *testing.T, nodes []*node, name string, again func(i int) bool) {
	t.Helper()
	for i := 0; again(i); i++ {
		body := fmt.Sprint(name, i)
		write(t, nodes, fmt.Sprint("room", rand.IntN(50)), body)
		for k, n := range nodes {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			err := n.streams.Barrier(ctx)
			cancel()
			if err != nil {
				t.Fatalf("%s: barrier at node %d: %v", body, k, err)
			}
			if !n.has(body) {
				t.Fatalf("%s: acknowledged, but node %d does not have it after a barrier", body, k)
			}
		}
	}
}

func TestBarrierOverProcesses(t *testing.T) {
	redis := ownRedis(t)
	nodes := fleetOf(t, 3, enginestest.TestPostgres(t), redis.URL())
	rounds(t, nodes, "steady", func(i int) bool { return i < 1000 })
	if err := redis.Stop(); err != nil {
		t.Fatal(err)
	}
	rounds(t, nodes, "down", func(i int) bool { return i < 100 })
	for k := range 3 { // the nodes find the bus again at different times
		if err := redis.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		rounds(t, nodes, fmt.Sprint("back", k, "-"), func(int) bool { return time.Since(began) < 4*time.Second })
		if err := redis.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	rounds(t, nodes, "dead", func(i int) bool { return i < 20 })
}

// cuttableBus is the bus of a process that can be cut off from the others' bus alone.
type cuttableBus struct {
	bus.Bus
	off atomic.Bool
}

func (c *cuttableBus) Publish(ctx context.Context, msgs ...bus.Message) error {
	if c.off.Load() {
		return bus.ErrUnavailable
	}
	return c.Bus.Publish(ctx, msgs...)
}

func (c *cuttableBus) Barrier(ctx context.Context) error {
	if c.off.Load() {
		return bus.ErrUnavailable
	}
	return c.Bus.Barrier(ctx)
}

func (c *cuttableBus) Connected() bool { return !c.off.Load() && c.Bus.Connected() }

func TestBarrierWhileOneProcessIsCutOffFromTheBus(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		lone := &cuttableBus{Bus: b}
		nodes := []*node{start(t, d, lone, lease.Options{Machine: -1}), start(t, d, b, lease.Options{Machine: -1})}
		until(t, "both have shards", func() bool { return ownedBy(nodes[0]) == 4 && ownedBy(nodes[1]) == 4 })
		rounds(t, nodes, "before", func(i int) bool { return i < 20 })
		lone.off.Store(true)
		rounds(t, nodes, "cut", func(i int) bool { return i < 60 })
		lone.off.Store(false)
		rounds(t, nodes, "back", func(i int) bool { return i < 60 })
		until(t, "the bus is trusted again", func() bool {
			return nodes[0].leases.NoneDegraded() && nodes[1].leases.NoneDegraded() && !nodes[0].leases.Self().Degraded
		})
		rounds(t, nodes, "after", func(i int) bool { return i < 20 })
	}, lease.Migrations(), tables)
}

// silentBus is the bus of a process that dies before it publishes.
type silentBus struct{ bus.Bus }

func (silentBus) Publish(context.Context, ...bus.Message) error { return nil }

// What an owner stored and did not publish is behind a Barrier everywhere as soon as the next owner takes entries: that
// one may find it stored and acknowledge it.
func TestRowsOfADeadOwnerAreKnownBeforeTheNextOneWrites(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		dead := start(t, d, silentBus{b}, lease.Options{Machine: -1})
		nodes := []*node{start(t, d, b, lease.Options{Machine: -1}), start(t, d, b, lease.Options{Machine: -1})}
		until(t, "the shards are shared", func() bool { return ownedBy(dead) >= 2 && ownedBy(nodes[0]) >= 2 && ownedBy(nodes[1]) >= 2 })
		var shards []int
		for i := range 40 {
			key := fmt.Sprint("room", i)
			if shard := dead.notes.Shard(key); dead.notes.Owns(shard) {
				write(t, []*node{dead}, key, fmt.Sprint("last ", shard, " ", key))
				shards = append(shards, shard)
			}
		}
		want := dead.notes.Positions()
		go dead.stop()
		for _, shard := range shards {
			reader := nodes[0]
			until(t, "the shard has another owner", func() bool {
				if nodes[0].notes.Owns(shard) {
					reader = nodes[1]
				}
				return nodes[0].notes.Owns(shard) || nodes[1].notes.Owns(shard)
			})
			if err := reader.streams.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := reader.notes.Position(shard); got < want[shard] {
				t.Errorf("shard %d: after a barrier a reader is at %d, the new owner took it at %d", shard, got, want[shard])
			}
		}
	}, lease.Migrations(), tables)
}

func ownedBy(n *node) (count int) {
	for i := range n.notes.Shards() {
		if n.notes.Owns(i) {
			count++
		}
	}
	return count
}

// load writes at all nodes until stop and returns the texts that were acknowledged.
func load(t *testing.T, nodes []*node) (stop func() map[string]bool) {
	var mu sync.Mutex
	acked := map[string]bool{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				n := nodes[rand.IntN(len(nodes))]
				body := fmt.Sprint("w", w, "-", i)
				e := &stream.Entry{Stream: n.notes, Row: stream.Row{Key: fmt.Sprint("room", rand.IntN(40)), Data: []byte(body)}}
				step, done := context.WithTimeout(context.Background(), 30*time.Second)
				err := n.streams.Append(step, e)
				done()
				switch {
				case err == nil:
					mu.Lock()
					acked[body] = true
					mu.Unlock()
				case errors.Is(err, stream.ErrNotOwner), errors.Is(err, stream.ErrAborted):
					time.Sleep(time.Millisecond)
				default:
					t.Errorf("%s: %v", body, err)
				}
			}
		})
	}
	return func() map[string]bool {
		cancel()
		wg.Wait()
		return acked
	}
}

func TestRestartsUnderLoadLoseNothing(t *testing.T) {
	pg, redis := ownPostgres(t), ownRedis(t)
	nodes := fleetOf(t, 3, pg.URL(), redis.URL())
	stop := load(t, nodes)
	progress := func(what string) {
		from := nodes[0].count()
		until(t, what, func() bool { return nodes[0].count() > from+50 })
	}
	progress("work")
	steps := []struct {
		name string
		do   func() error
	}{
		{"redis restarts", func() error { return redis.Restart(t.Context()) }},
		{"postgres restarts", func() error { return pg.Restart(t.Context()) }},
		{"redis crashes", func() error { return errors.Join(redis.Kill(), redis.Restart(t.Context())) }},
		{"postgres crashes", func() error { return errors.Join(pg.Kill(), pg.Restart(t.Context())) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		progress("work after " + step.name)
	}
	acked := stop()
	d := dbtest.Open(t, pg.URL())
	rows := stored(t, d)
	for body := range acked {
		if !rows[body] {
			t.Errorf("%s was acknowledged and is not stored", body)
		}
	}
	for k, n := range nodes { // the subscriptions check order and doubles themselves
		until(t, fmt.Sprintf("node %d has all %d rows, it has %d", k, len(rows), n.count()), func() bool { return n.count() == len(rows) })
	}
	t.Logf("%d rows stored, %d acknowledged", len(rows), len(acked))
}

// A process that joins under load must not hand out rows from before its start, nor miss one after it.
func TestJoiningUnderLoad(t *testing.T) {
	url, redis := enginestest.TestPostgres(t), enginestest.TestRedis(t)
	nodes := fleetOf(t, 1, url, redis)
	stop := load(t, nodes)
	defer stop()
	until(t, "there is a past", func() bool { return nodes[0].count() > 1000 })
	for range 5 {
		late := start(t, dbtest.Open(t, url), nodes[0].bus, lease.Options{Machine: -1})
		began := late.began
		until(t, "the late one sees rows", func() bool { return late.count() > 50 })
		late.mu.Lock()
		for shard, first := range late.first {
			if first != began[shard]+1 {
				t.Errorf("shard %d: the first row has position %d, expected %d", shard, first, began[shard]+1)
			}
		}
		late.mu.Unlock()
		late.stop()
	}
}

// A request may come to a process that is being started: it is served when the process knows what was written before.
func TestABarrierWaitsForTheStart(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		first := start(t, d, b, lease.Options{Machine: -1})
		var early error
		asked := false
		late := start(t, d, b, lease.Options{Machine: -1}, func(n *node) {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			early, asked = n.streams.Barrier(ctx), true
		})
		if !asked || !errors.Is(early, context.DeadlineExceeded) {
			t.Errorf("a barrier before the start gives %v", early)
		}
		rounds(t, []*node{first, late}, "begun", func(i int) bool { return i < 5 })
	}, lease.Migrations(), tables)
}

// counting counts what a process sends to a bus.
type counting struct {
	bus.Bus
	n atomic.Int64
}

func (c *counting) Publish(ctx context.Context, msgs ...bus.Message) error {
	c.n.Add(1)
	return c.Bus.Publish(ctx, msgs...)
}

func (c *counting) Barrier(ctx context.Context) error {
	c.n.Add(1)
	return c.Bus.Barrier(ctx)
}

// A process that is the only one sends nothing to the bus; whoever joins misses nothing all the same, although nobody
// tells the first one of it.
func TestTheOnlyProcessNeedsNoBus(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		shared := bus.NewLocal()
		b := &counting{Bus: shared}
		first := start(t, d, b, lease.Options{Machine: -1})
		alone := func() bool {
			before := b.n.Load()
			write(t, []*node{first}, "room", fmt.Sprint("alone", crand.Text()))
			if err := first.streams.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			return b.n.Load() == before
		}
		for round := range 4 {
			until(t, "the process knows that it is the only one", alone)
			var mu sync.Mutex
			acked := map[int]int64{}
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						e := &stream.Entry{Stream: first.notes, Row: stream.Row{Key: fmt.Sprint("room", i), Data: fmt.Appendf(nil, "%d %d %d", round, w, i)}}
						if first.streams.Append(context.Background(), e) == nil {
							mu.Lock()
							acked[e.Shard] = max(acked[e.Shard], e.Pos)
							mu.Unlock()
						}
					}
				})
			}
			late := start(t, d, shared, lease.Options{Machine: -1, Announce: func() {}})
			for range 300 {
				mu.Lock()
				known := maps.Clone(acked)
				mu.Unlock()
				if err := late.streams.Barrier(t.Context()); err != nil {
					t.Fatal(err)
				}
				for shard, pos := range known {
					if got := late.notes.Position(shard); got < pos {
						t.Fatalf("shard %d: position %d was acknowledged, and the process that joined is at %d after a barrier", shard, pos, got)
					}
				}
			}
			stop()
			wg.Wait()
			until(t, "the shards are shared", func() bool { return ownedBy(late) == 4 })
			rounds(t, []*node{first, late}, fmt.Sprint("both", round, "-"), func(i int) bool { return i < 50 })
			late.stop()
		}
	}, lease.Migrations(), tables)
}

func TestNothingRunsAfterTheEnd(t *testing.T) {
	d := dbtest.Open(t, enginestest.TestPostgres(t), lease.Migrations(), tables)
	b := bus.NewLocal()
	before := goleak.IgnoreCurrent()
	a, c := start(t, d, b, lease.Options{Machine: -1}), start(t, d, b, lease.Options{Machine: -1})
	for i := range 50 {
		write(t, []*node{a, c}, fmt.Sprint("room", i), fmt.Sprint(i))
	}
	if err := a.streams.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.stop()
	c.stop()
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("database/sql.(*DB).connectionOpener"))
}

// An idle process costs the database its heartbeat and nothing else.
func TestIdleCosts(t *testing.T) {
	url := enginestest.TestPostgres(t)
	dbtest.Open(t, url, lease.Migrations(), tables)
	var statements atomic.Int64
	d, err := db.Open(t.Context(), url, db.Options{Observe: func(n int) { statements.Add(int64(n)) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1})
	until(t, "the shards are owned", func() bool { return ownedBy(n) == 8 })
	ticks := 0
	until(t, "an idle time without a statement but the heartbeat's", func() bool {
		// A heartbeat and the view cost five statements each quarter of the TTL of 600 ms.
		from := statements.Load()
		<-time.After(1500 * time.Millisecond)
		ticks++
		return statements.Load()-from <= 5*11
	})
	if ticks > 3 {
		t.Errorf("%d tries", ticks)
	}
}

// Shards that were taken over and given back while this process slept are taken anew, without a write.
func TestShardsThatWentAndCameBackAreTakenAnew(t *testing.T) {
	url := enginestest.TestPostgres(t)
	n := fleetOf(t, 1, url, enginestest.TestRedis(t))[0]
	before := map[int]int64{}
	for i := range n.notes.Shards() {
		epoch, ok := n.notes.Ownership(i)
		if !ok {
			t.Fatalf("shard %d is not owned", i)
		}
		before[i] = epoch
	}
	if _, err := dbtest.Open(t, url).Exec(t.Context(),
		"UPDATE leases SET machine = -1, epoch = epoch + 1 WHERE name LIKE 'stream/notes/%'"); err != nil {
		t.Fatal(err)
	}
	until(t, "all shards are owned under newer epochs", func() bool {
		for i, epoch := range before {
			if now, ok := n.notes.Ownership(i); !ok || now < epoch+2 {
				return false
			}
		}
		return true
	})
}

// A giving back that arrives late leaves a shard that this process has taken again without an owner: it is taken anew.
func TestAShardThatALateGivingBackFreedIsTakenAnew(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1})
		shard := n.notes.Shard("!a")
		if _, err := d.Exec(t.Context(), "UPDATE leases SET machine = -1 WHERE name = $1 AND machine = $2", n.notes.Lease(shard),
			n.leases.Self().ID); err != nil {
			t.Fatal(err)
		}
		until(t, "the shard has an owner in the database", func() bool {
			held, err := n.leases.Read(t.Context(), n.notes.Lease(shard))
			return err == nil && held[n.notes.Lease(shard)].Machine == n.leases.Self().ID
		})
		write(t, []*node{n}, "!a", "written")
	}, lease.Migrations(), tables)
}

// closable is a bus that can take nothing for a while.
type closable struct {
	bus.Bus
	off *atomic.Bool
}

func (c closable) Publish(ctx context.Context, msgs ...bus.Message) error {
	if c.off.Load() {
		return errors.New("no bus")
	}
	return c.Bus.Publish(ctx, msgs...)
}

// A process that is told to end while neither the bus takes its rows nor the database its heartbeat comes to its end, and
// does not say that the rows are there for all.
func TestAnEndWithoutBusAndHeartbeat(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		var off atomic.Bool
		b := closable{bus.NewLocal(), &off}
		one, two := start(t, d, b, lease.Options{Machine: -1}), start(t, d, b, lease.Options{Machine: -1})
		until(t, "both have shards", func() bool {
			owned := map[*node]int{}
			for i := range 8 {
				for _, n := range []*node{one, two} {
					if n.notes.Owns(i) {
						owned[n]++
					}
				}
			}
			return owned[one] == 4 && owned[two] == 4
		})
		room := "!a"
		for i := 0; !one.notes.Owns(one.notes.Shard(room)); i++ {
			room = fmt.Sprint("!", i)
		}
		off.Store(true)
		if _, err := d.Exec(t.Context(), "ALTER TABLE machines RENAME TO away"); err != nil {
			t.Fatal(err)
		}
		told := make(chan error, 1)
		go func() {
			told <- one.streams.Append(context.Background(), &stream.Entry{Stream: one.notes, Row: stream.Row{Key: room, Data: []byte("x")}})
		}()
		until(t, "the row is stored", func() bool {
			var n int
			return d.QueryRow(t.Context(), "SELECT count(*) FROM notes").Scan(&n) == nil && n == 1
		})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			one.stop()
		}()
		select {
		case err := <-told:
			if err == nil {
				t.Error("the row was acknowledged")
			}
		case <-time.After(30 * time.Second):
			t.Error("it does not end")
		}
		off.Store(false)
		if _, err := d.Exec(t.Context(), "ALTER TABLE away RENAME TO machines"); err != nil {
			t.Fatal(err)
		}
		<-ended
	}, lease.Migrations(), tables)
}

// A database that refuses a statement while a process starts does not end it.
func TestAStartGoesOnWhenNoShardCanBeTaken(t *testing.T) {
	d := dbtest.Open(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"), lease.Migrations(), tables)
	refuse := func(*node) {
		for _, table := range []string{"machines", "leases"} {
			for _, what := range []string{"INSERT", "UPDATE"} {
				if _, err := d.Exec(t.Context(),
					"CREATE TRIGGER no_"+what+"_"+table+" BEFORE "+what+" ON "+table+" BEGIN SELECT RAISE(FAIL, 'not now'); END"); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	n := start(t, d, bus.NewLocal(), lease.Options{Machine: -1}, refuse)
	for _, table := range []string{"machines", "leases"} {
		for _, what := range []string{"INSERT", "UPDATE"} {
			if _, err := d.Exec(t.Context(), "DROP TRIGGER no_"+what+"_"+table); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(t, []*node{n}, "!a", "written")
	until(t, "the row is seen", func() bool { return n.count() == 1 })
}
