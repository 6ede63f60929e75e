package role_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"lyceum/platform/bus"
	"lyceum/platform/caller"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
	"lyceum/platform/lease/leasetest"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

var counts = db.Migrations{Domain: "test", Files: fstest.MapFS{"migrations/0001_counts.sql": {Data: []byte(
	"CREATE TABLE counts (shard BIGINT NOT NULL, pos BIGINT NOT NULL, id TEXT NOT NULL UNIQUE, machine BIGINT NOT NULL, PRIMARY KEY " +
		"(shard, pos));",
)}}}

type store struct{}

var countRows = &db.Table{Name: "counts", Columns: db.Columns("shard integer, pos integer, id text, machine integer")}

func (store) Insert(_ context.Context, w *db.Batch, batch []*stream.Entry) error {
	var rows [][]any
	for _, e := range batch {
		rows = append(rows, []any{e.Shard, e.Pos, string(e.Data), e.Value})
	}
	w.Rows(countRows, rows)
	return nil
}

func (store) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	rows, err := q.Query(ctx, "SELECT pos, id FROM counts WHERE shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4",
		r.Shard, r.After, r.Upto, r.Limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []stream.Row
	for rows.Next() {
		row := stream.Row{Shard: r.Shard}
		if err := rows.Scan(&row.Pos, &row.Data); err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

// testProcess is one process of a test fleet that can stop or die.
type testProcess struct {
	*role.Process
	st    *stream.Stream
	count func(ctx context.Context, key, id string) (int, error)
	stop  func()
	hang  atomic.Pointer[chan struct{}] // calls wait until it is closed
	hung  atomic.Int64
}

var errRefused = errors.New("refused")

func begin(t *testing.T, d *db.DB, b bus.Bus, machine int, wireUp func(p *role.Process)) *testProcess {
	t.Helper()
	p := &testProcess{}
	_, p.stop = roletest.Join(t, d, b, machine, func(joined *role.Process) *testProcess {
		p.Process = joined
		p.st = p.Streams.Open(stream.Spec{Name: "counts", Role: "counts", Shards: 8, Store: store{}})
		p.count = role.Owned(p.Process, p.st, "counts.add", func(ctx context.Context, key, id string) (int, error) {
			if id == "refused" {
				return 0, errRefused
			}
			if hang := p.hang.Load(); hang != nil {
				p.hung.Add(1)
				<-*hang // whatever becomes of ctx, as in a process that is stopped
			}
			err := p.Streams.Append(ctx, &stream.Entry{Stream: p.st, Row: stream.Row{Key: key, Data: []byte(id), Value: p.Machine()}})
			if db.IsUnique(err) {
				err = nil // this id was counted before
			}
			return p.Machine(), err
		})
		if wireUp != nil {
			wireUp(p.Process)
		}
		return p
	})
	return p
}

func TestOwnedReachesTheOwnerWhileShardsMove(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		fleet := []*testProcess{begin(t, d, b, 0, nil), begin(t, d, b, 1, nil)}
		if _, err := fleet[0].count(t.Context(), "k", "refused"); err == nil {
			t.Error("an error of the method got lost")
		}
		var wg sync.WaitGroup
		var calls atomic.Int64
		ran := sync.Map{}
		end := make(chan struct{})
		for w := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-end:
						return
					default:
					}
					where, err := fleet[w%2].count(context.Background(), fmt.Sprint("key", i%30), fmt.Sprint(w, "-", i))
					if err != nil {
						t.Errorf("call %d of %d: %v", i, w, err)
						return
					}
					ran.Store(where, true)
					calls.Add(1)
				}
			})
		}
		step := func(what string) {
			from := calls.Load()
			leasetest.Until(t, what, 30*time.Second, func() bool { return calls.Load() > from+100 })
		}
		step("calls")
		third := begin(t, d, b, 2, nil)
		leasetest.Until(t, "the third owns shards", 10*time.Second, func() bool {
			for i := range 8 {
				if third.st.Owns(i) {
					return true
				}
			}
			return false
		})
		step("calls with a third process")
		third.stop()
		step("calls after its end")
		close(end)
		wg.Wait()
		for machine := range 3 {
			if _, ok := ran.Load(machine); !ok {
				t.Errorf("machine %d took no call", machine)
			}
		}
		var stored int64
		if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM counts").Scan(&stored); err != nil || stored != calls.Load() {
			t.Errorf("%d rows after %d calls, %v", stored, calls.Load(), err)
		}
	}, lease.Migrations(), counts)
}

func TestOwnedLeavesAnOwnerThatHangsWhenItsShardMoves(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		caller, hanging := begin(t, d, b, 0, nil), begin(t, d, b, 1, nil)
		leasetest.Until(t, "both own half of the shards", 10*time.Second, func() bool {
			n := 0
			for i := range 8 {
				if hanging.st.Owns(i) && !caller.st.Owns(i) {
					n++
				}
			}
			return n == 4
		})
		release := make(chan struct{})
		hanging.hang.Store(&release)
		type result struct {
			shard, machine int
			err            error
		}
		answers := make(chan result, 8)
		asked := 0
		for i, seen := 0, map[int]bool{}; len(seen) < 8; i++ {
			key := fmt.Sprint("key", i)
			shard := caller.st.Shard(key)
			if seen[shard] {
				continue
			}
			seen[shard] = true
			if hanging.st.Owns(shard) {
				asked++
				go func() {
					machine, err := caller.count(context.Background(), key, "once-"+key)
					answers <- result{shard, machine, err}
				}()
			}
		}
		leasetest.Until(t, "all calls hang", 10*time.Second, func() bool { return hanging.hung.Load() == int64(asked) })
		third := begin(t, d, b, 2, nil)
		leasetest.Until(t, "the third owns shards", 10*time.Second, func() bool {
			owned := 0
			for i := range 8 {
				if third.st.Owns(i) {
					owned++
				}
			}
			return owned >= 2
		})
		select {
		case r := <-answers:
			if r.err != nil || r.machine == 1 {
				t.Errorf("shard %d answered from machine %d, %v", r.shard, r.machine, r.err)
			}
		case <-time.After(5 * time.Second):
			t.Error("the calls wait for an owner that has the shard no more")
		}
		asked--
		close(release)
		for range asked {
			if r := <-answers; r.err != nil {
				t.Errorf("shard %d: %v", r.shard, r.err)
			}
		}
		var stored, ids int
		if err := d.QueryRow(t.Context(), "SELECT COUNT(*), COUNT(DISTINCT id) FROM counts").Scan(&stored, &ids); err != nil || stored != 4 ||
			ids != 4 {
			t.Errorf("%d rows of %d calls, %v", stored, ids, err)
		}
	}, lease.Migrations(), counts)
}

func TestOwnedGivesUpWithItsContext(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		p := begin(t, d, bus.NewLocal(), 0, nil)
		p.stop()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := p.count(ctx, "k", "x"); !errors.Is(err, stream.ErrNotOwner) {
			t.Errorf("nobody owns the shard: %v", err)
		}
	}, lease.Migrations(), counts)
}

// A call for a client that left is not made when the owner is found at last: what the client has done since would be undone. Work that is
// done whether its caller stays or not goes on.
func TestOwnedEndsForWhoIsGone(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		p := begin(t, d, bus.NewLocal(), 0, nil)
		p.stop()
		w := caller.NewWork(t.Context(), caller.ID{User: "@alice:here.test"})
		w.Left = func() bool { return true }
		if _, err := p.count(w, "k", "x"); !errors.Is(err, context.Canceled) {
			t.Errorf("expected that it ends, found %v", err)
		}
		stays, end := context.WithTimeout(caller.Stays(w), 50*time.Millisecond)
		defer end()
		if _, err := p.count(stays, "k", "x"); errors.Is(err, context.Canceled) || !errors.Is(err, stream.ErrNotOwner) {
			t.Errorf("expected that it waits for an owner, found %v", err)
		}
	}, lease.Migrations(), counts)
}

// A call that waited for its owner, or whose process stood still, is asked again whether it is let in before it is made.
func TestOwnedAsksAgainBehindAWait(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		shared := bus.NewLocal()
		other, p := begin(t, d, shared, 0, nil), begin(t, d, shared, 1, nil) // which joins it
		leasetest.Until(t, "no shard moves any more", 10*time.Second, func() bool {
			n := 0
			for i := range 8 {
				if other.st.Owns(i) != p.st.Owns(i) && p.st.Owns(i) {
					n++
				}
			}
			return n == 4
		})
		if _, err := p.count(t.Context(), "k", "x"); err != nil {
			t.Fatal(err)
		}
		w := caller.NewWork(t.Context(), caller.ID{User: "@alice:here.test"})
		w.Began, w.StillAllowed = time.Now(), func() error { return errRefused }
		if _, err := p.count(w, "k", "x"); err != nil {
			t.Errorf("it did not wait: %v", err)
		}
		w.Began = time.Now().Add(-time.Hour) // the process has been counted among the living for less
		if _, err := p.count(w, "k", "y"); !errors.Is(err, errRefused) {
			t.Errorf("expected that it is refused, found %v", err)
		}
		w.Began = time.Now()
		p.stop()
		other.stop()
		if _, err := p.count(w, "k", "z"); !errors.Is(err, errRefused) {
			t.Errorf("expected that it is refused, found %v", err)
		}
	}, lease.Migrations(), counts)
}

// jobs notes where a singleton runs.
type jobs struct {
	mu      sync.Mutex
	running []int
}

func (j *jobs) job(p *role.Process) {
	p.Singleton("job", func(ctx context.Context, _ *role.Job) error {
		j.mu.Lock()
		j.running = append(j.running, p.Machine())
		j.mu.Unlock()
		<-ctx.Done()
		j.mu.Lock()
		j.running = slices.DeleteFunc(j.running, func(id int) bool { return id == p.Machine() })
		j.mu.Unlock()
		return ctx.Err()
	})
}

func (j *jobs) at() []int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.running)
}

// Processes that stop together keep owners among them to the end of the last one, so requests under way are done.
func TestOwnedWhileAllProcessesStop(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		fleet := []*testProcess{begin(t, d, b, 0, nil), begin(t, d, b, 1, nil)}
		count := func(when string, of []*testProcess) {
			t.Helper()
			for i := range 16 {
				for _, p := range of {
					began := time.Now()
					id := fmt.Sprint(when, i, p.Machine())
					if _, err := p.count(t.Context(), id, id); err != nil || time.Since(began) > 2*time.Second {
						t.Errorf("%s: %v after %s", when, err, time.Since(began))
					}
				}
			}
		}
		count("before", fleet)
		for _, p := range fleet {
			if err := p.Leases.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		leasetest.Until(t, "both know that both stop", 5*time.Second, func() bool {
			for _, p := range fleet {
				for _, m := range p.Leases.Machines() {
					if !m.Draining {
						return false
					}
				}
			}
			return true
		})
		time.Sleep(time.Second) // they look at their shares
		count("while both stop", fleet)
		fleet[0].stop()
		count("while the last one stops", fleet[1:])
	}, lease.Migrations(), counts)
}

// A process that stops does not wait long for an owner where nobody is left who could be one.
func TestOwnedWaitsShortlyAtTheEnd(t *testing.T) {
	d := dbtest.Open(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"), lease.Migrations(), counts)
	p := roletest.New(t, d, "others")
	st := p.Streams.Open(stream.Spec{Name: "counts", Role: "counts", Shards: 8, Store: store{}})
	count := role.Owned(p, st, "counts.add", func(context.Context, string, string) (int, error) { return 0, nil })
	if err := p.Leases.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := count(t.Context(), "k", "1"); !errors.Is(err, stream.ErrNotOwner) || time.Since(began) > 5*time.Second {
		t.Errorf("found %v after %s", err, time.Since(began))
	}
}

func TestSingletonMovesToTheLowestMachine(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		var j jobs
		begin(t, d, b, 7, j.job)
		leasetest.Until(t, "it runs", 5*time.Second, func() bool { return slices.Equal(j.at(), []int{7}) })
		low := begin(t, d, b, 3, j.job)
		leasetest.Until(t, "it moved to the lower id", 5*time.Second, func() bool { return slices.Equal(j.at(), []int{3}) })
		low.stop()
		leasetest.Until(t, "it moved back", 5*time.Second, func() bool { return slices.Equal(j.at(), []int{7}) })
	}, lease.Migrations(), counts)
}

// A job that another process took and gave back while this one stood still begins again, whether it writes or not.
func TestSingletonBeginsAgainWhenItsLeaseWent(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		var j jobs
		p := begin(t, d, bus.NewLocal(), 7, j.job)
		leasetest.Until(t, "it runs", 5*time.Second, func() bool { return slices.Equal(j.at(), []int{7}) })
		if _, err := d.Exec(t.Context(), "UPDATE leases SET machine = -1, epoch = epoch + 1 WHERE name LIKE 'job/%'"); err != nil {
			t.Fatal(err)
		}
		leasetest.Until(t, "its lease is held again", 5*time.Second, func() bool {
			held, err := p.Leases.Read(t.Context(), "job/")
			for _, h := range held {
				if h.Machine != 7 {
					return false
				}
			}
			return err == nil && len(held) > 0
		})
		leasetest.Until(t, "it runs again", 5*time.Second, func() bool { return slices.Equal(j.at(), []int{7}) })
	}, lease.Migrations(), counts)
}

// A job whose lease could not be given back is not kept for as long as the process lives.
func TestSingletonMovesWhenItsLeaseWasNotGivenBack(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		var j jobs
		begin(t, d, b, 7, j.job)
		leasetest.Until(t, "it runs", 5*time.Second, func() bool { return slices.Equal(j.at(), []int{7}) })
		end := leasetest.RefuseRelease(t, d, "job/")
		begin(t, d, b, 3, j.job)
		leasetest.Until(t, "the first stopped it", 5*time.Second, func() bool { return len(j.at()) == 0 })
		time.Sleep(100 * time.Millisecond) // it tries to give the lease back
		end()
		leasetest.Until(t, "it moved to the lower id", 5*time.Second, func() bool { return slices.Equal(j.at(), []int{3}) })
	}, lease.Migrations(), counts)
}

func TestSingletonMovesWhenItsProcessDies(t *testing.T) {
	url := enginestest.TestPostgres(t)
	d := dbtest.Open(t, url, lease.Migrations(), counts)
	var first, second jobs
	// The first process loses its database: for the others it is dead, and it must notice itself.
	lost := dbtest.Open(t, url)
	log := slog.New(slog.DiscardHandler)
	leases, err := lease.Open(t.Context(), lost, lease.Options{Machine: 0, Roles: []string{"all"}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	p := &role.Process{DB: lost, Bus: bus.NewLocal(), Leases: leases, Log: log}
	p.Streams = stream.New(stream.Options{DB: lost, Bus: p.Bus, Leases: leases, Log: log})
	first.job(p)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		<-ended
	}()
	leasetest.Until(t, "it runs", 5*time.Second, func() bool { return len(first.at()) == 1 })
	begin(t, d, bus.NewLocal(), 1, second.job)
	if err := lost.Close(); err != nil {
		t.Fatal(err)
	}
	died := time.Now()
	leasetest.Until(t, "it moved", 8*time.Second, func() bool { return len(second.at()) == 1 })
	t.Logf("it moved after %s", time.Since(died).Round(time.Millisecond))
	leasetest.Until(t, "the first stopped it", 3*time.Second, func() bool { return len(first.at()) == 0 })
}

// TestAJobThatWasTakenOverWritesNothing pauses a job between its look at the database and its write, until another process
// has its lease.
func TestAJobThatWasTakenOverWritesNothing(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		paused, wake, done := make(chan *role.Job), make(chan struct{}), make(chan struct{})
		p := begin(t, d, bus.NewLocal(), 7, func(p *role.Process) {
			var once sync.Once
			p.Singleton("job", func(ctx context.Context, j *role.Job) error {
				ran := false
				once.Do(func() {
					ran = true
					defer close(done)
					late := context.WithoutCancel(ctx) // a paused process sees its context end when it is too late
					write := func(id string) error {
						return j.Tx(late, func(tx *db.Tx) error {
							_, err := tx.Exec(late, "INSERT INTO counts (id, shard, pos, machine) VALUES ($1, 0, $2, 0)", id, len(id))
							return err
						})
					}
					if err := write("a"); err != nil {
						t.Errorf("while it holds the lease: %v", err)
					}
					paused <- j
					<-wake
					if err := write("bb"); !errors.Is(err, lease.ErrLost) {
						t.Errorf("Tx: expected ErrLost, found %v", err)
					}
					if err := j.Exec(late, "DELETE FROM counts"); !errors.Is(err, lease.ErrLost) {
						t.Errorf("Exec: expected ErrLost, found %v", err)
					}
					if err := j.Check(late); !errors.Is(err, lease.ErrLost) {
						t.Errorf("Check: expected ErrLost, found %v", err)
					}
					held := j.Lease()
					if err := d.Tx(late, func(tx *db.Tx) error { return lease.Hold(late, tx, held) }); !errors.Is(err, lease.ErrLost) {
						t.Errorf("Hold: expected ErrLost, found %v", err)
					}
				})
				if !ran {
					<-ctx.Done()
				}
				return nil
			})
		})
		j := <-paused
		held := j.Lease()
		if err := d.Tx(t.Context(), func(tx *db.Tx) error { return lease.Hold(t.Context(), tx, held) }); err != nil {
			t.Errorf("Hold while it is held: %v", err)
		}
		if _, err := p.Leases.Acquire(t.Context(), held.Name); err != nil { // gives it a new epoch, as another process would
			t.Fatal(err)
		}
		close(wake)
		<-done
		var ids string
		if err := d.QueryRow(t.Context(), "SELECT MIN(id) || '-' || MAX(id) FROM counts").Scan(&ids); err != nil || ids != "a-a" {
			t.Errorf("found the rows %s, %v", ids, err)
		}
	}, lease.Migrations(), counts)
}

func TestNewIDs(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		var all, tails sync.Map
		var wg sync.WaitGroup
		for machine := range 4 {
			l, err := lease.Open(t.Context(), d, lease.Options{Machine: machine * 341})
			if err != nil {
				t.Fatal(err)
			}
			p := &role.Process{Leases: l}
			for range 2 {
				wg.Go(func() {
					last := ""
					for range 20_000 {
						id := p.NewID()
						if len(id) != 33 || id <= last {
							t.Errorf("%q follows %q", id, last)
							return
						}
						last = id
						if _, twice := all.LoadOrStore(id, true); twice {
							t.Errorf("%q was made twice", id)
							return
						}
						if _, twice := tails.LoadOrStore(id[11:], true); twice {
							t.Errorf("the part of %q that can not be guessed was made twice", id)
							return
						}
					}
				})
			}
		}
		wg.Wait()
	}, lease.Migrations())
}

func TestAFailingPartStartsAgainAndNothingIsLeft(t *testing.T) {
	d := dbtest.Open(t, enginestest.TestPostgres(t), lease.Migrations(), counts)
	before := goleak.IgnoreCurrent()
	var starts atomic.Int64
	p := begin(t, d, bus.NewLocal(), 0, func(p *role.Process) {
		p.Go("fails", func(ctx context.Context) error {
			if starts.Add(1) < 3 {
				return errRefused
			}
			<-ctx.Done()
			return nil
		})
	})
	leasetest.Until(t, "the third start", 5*time.Second, func() bool { return starts.Load() == 3 })
	p.stop()
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("database/sql.(*DB).connectionOpener"))
	if got := p.Leases.Self(); got.ID != 0 {
		t.Error(got)
	}
	l, err := lease.Open(t.Context(), d, lease.Options{Machine: 0})
	if err != nil {
		t.Errorf("the id after the end: %v", err)
	} else if held, err := l.Read(t.Context(), "stream/"); err != nil || held[p.st.Lease(0)].Machine != -1 {
		t.Errorf("a shard was not given back: %+v, %v", held[p.st.Lease(0)], err)
	}
}
