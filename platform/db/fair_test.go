package db_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/caller"
	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
)

const (
	crowd      = 6 // callers that read as much as they may
	ofEach     = 8 // requests of each at once
	victimAsks = 10
)

// fairReaders is a database with four connections that read.
func fairReaders(t testing.TB, engine string) *db.DB {
	t.Helper()
	url := "sqlite:" + filepath.Join(t.TempDir(), "fair.db")
	if engine == "postgres" {
		url = enginestest.TestPostgres(t)
	}
	d, err := db.Open(t.Context(), url, db.Options{Readers: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func as(ctx context.Context, user string) context.Context {
	return caller.NewWork(ctx, caller.ID{User: user})
}

// hold reads a row and keeps the connection for so long.
func hold(ctx context.Context, d *db.DB, long time.Duration) error {
	rows, err := d.Query(ctx, "SELECT 1 UNION ALL SELECT 2")
	if err != nil {
		return err
	}
	defer rows.Close()
	rows.Next()
	time.Sleep(long)
	return rows.Err()
}

// readMuch lets callers read until the test has done, and counts the reads that ended.
func readMuch(t *testing.T, d *db.DB, name string, callers int, long time.Duration) (ended *atomic.Int64, stop func()) {
	return doMuch(t, callers, func(ctx context.Context, i int) error { return hold(as(ctx, fmt.Sprint(name, i)), d, long) })
}

// doMuch lets callers do something until the test has done, and counts how often that ended.
func doMuch(t *testing.T, callers int, do func(ctx context.Context, caller int) error) (ended *atomic.Int64, stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	ended = &atomic.Int64{}
	for i := range callers * ofEach {
		all.Go(func() {
			for ctx.Err() == nil {
				if err := do(ctx, i%callers); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				ended.Add(1)
			}
		})
	}
	for ended.Load() < int64(callers*ofEach) {
		time.Sleep(time.Millisecond)
	}
	return ended, func() { cancel(); all.Wait() }
}

// Whoever reads little, and what nobody's request is, does not wait for all that others have asked for.
func TestConnectionsAreGivenOutByCaller(t *testing.T) {
	ways := map[string]func(ctx context.Context, d *db.DB) error{
		"Query":    func(ctx context.Context, d *db.DB) error { _, err := db.Texts(d.Query(ctx, "SELECT 'x'")); return err },
		"QueryRow": func(ctx context.Context, d *db.DB) error { var n int; return d.QueryRow(ctx, "SELECT 1").Scan(&n) },
		"Snapshot": func(ctx context.Context, d *db.DB) error {
			return d.Snapshot(ctx, func(q db.Querier) error { _, err := db.Texts(q.Query(ctx, "SELECT 'x'")); return err })
		},
		"Exec": func(ctx context.Context, d *db.DB) error {
			_, err := d.Exec(ctx, "DELETE FROM things WHERE name = 'x'")
			return err
		},
		"Tx": func(ctx context.Context, d *db.DB) error {
			return d.Tx(ctx, func(tx *db.Tx) error { return nil })
		},
		"Write": func(ctx context.Context, d *db.DB) error {
			return d.Write(ctx, func(w *db.Batch) error { w.Do("DELETE FROM things WHERE name = 'x'"); return nil })
		},
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			d := fairReaders(t, engine)
			if _, err := d.Exec(t.Context(), "CREATE TABLE things (name TEXT NOT NULL)"); err != nil {
				t.Fatal(err)
			}
			ended, stop := readMuch(t, d, "crowd", crowd, 5*time.Millisecond)
			defer stop()
			for who, ctx := range map[string]context.Context{"a caller": as(t.Context(), "victim"), "nobody": t.Context()} {
				for name, way := range ways {
					before, began := ended.Load(), time.Now()
					for range victimAsks {
						if err := way(ctx, d); err != nil {
							t.Fatal(err)
						}
					}
					n := ended.Load() - before
					t.Logf("%s for %s: %d reads of others, %s", name, who, n, time.Since(began))
					if n > 6*victimAsks {
						t.Errorf("%s for %s: %d reads of others ended while it waited, expected at most %d", name, who, n, 6*victimAsks)
					}
				}
			}
		})
	}
}

// Who reads for long gets no more than others: each has the same part of the time.
func TestConnectionsAreSharedByTime(t *testing.T) {
	d := fairReaders(t, "sqlite")
	long, stopLong := readMuch(t, d, "long", 4, 20*time.Millisecond)
	defer stopLong()
	short, stopShort := readMuch(t, d, "short", 1, 2*time.Millisecond)
	defer stopShort()
	l, s := long.Load(), short.Load()
	time.Sleep(time.Second)
	l, s = long.Load()-l, short.Load()-s
	t.Logf("%d long reads, %d short ones", l, s)
	if s < l { // by turns it would be a quarter
		t.Errorf("%d short reads ended beside %d of four callers that take ten times as long, expected more than those", s, l)
	}
}

// What is done for nobody waits for the next connection only, also when it takes long.
func TestWhatIsDoneForNobodyGoesFirst(t *testing.T) {
	d := fairReaders(t, "sqlite")
	ended, stop := readMuch(t, d, "crowd", crowd, 2*time.Millisecond)
	defer stop()
	var waited int64
	for range victimAsks {
		before := ended.Load()
		rows, err := d.Query(t.Context(), "SELECT 1 UNION ALL SELECT 2")
		if err != nil {
			t.Fatal(err)
		}
		waited += ended.Load() - before
		time.Sleep(20 * time.Millisecond)
		_ = rows.Close() // it was read as far as it is needed
	}
	t.Logf("%d reads of others", waited)
	if waited > 6*victimAsks {
		t.Errorf("%d reads of others ended while it waited, expected at most %d", waited, 6*victimAsks)
	}
}

// What is done for nobody, however much that is, takes turns with those who wait for the last connection.
func TestWhatIsDoneForNobodyTakesTurns(t *testing.T) {
	d := fairReaders(t, "sqlite")
	for i := range 3 {
		rows, err := d.Query(as(t.Context(), fmt.Sprint("other", i)), "SELECT 1 UNION ALL SELECT 2")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
	}
	ended, stop := doMuch(t, 2, func(ctx context.Context, _ int) error { return hold(ctx, d, time.Millisecond) })
	defer stop()
	ctx, cancel := context.WithTimeout(as(t.Context(), "victim"), 30*time.Second)
	defer cancel()
	before := ended.Load()
	for range victimAsks {
		if err := hold(ctx, d, 0); err != nil {
			t.Fatalf("after %d other reads: %v", ended.Load()-before, err)
		}
	}
	if n := ended.Load() - before; n > 6*victimAsks {
		t.Errorf("%d reads for nobody ended while it waited, expected at most %d", n, 6*victimAsks)
	}
}

// SQLite has one connection that writes.
func TestWritesAreSharedByCaller(t *testing.T) {
	d := fairReaders(t, "sqlite")
	if _, err := d.Exec(t.Context(), "CREATE TABLE things (name TEXT NOT NULL)"); err != nil {
		t.Fatal(err)
	}
	ended, stop := doMuch(t, crowd, func(ctx context.Context, i int) error {
		return d.Tx(as(ctx, fmt.Sprint("crowd", i)), func(*db.Tx) error { time.Sleep(2 * time.Millisecond); return nil })
	})
	defer stop()
	for who, ctx := range map[string]context.Context{"a caller": as(t.Context(), "victim"), "nobody": t.Context()} {
		before := ended.Load()
		for range victimAsks {
			if _, err := d.Exec(ctx, "DELETE FROM things WHERE name = 'x'"); err != nil {
				t.Fatal(err)
			}
		}
		if n := ended.Load() - before; n > 6*victimAsks {
			t.Errorf("%s: %d writes of others ended while it waited, expected at most %d", who, n, 6*victimAsks)
		}
	}
}

// One caller alone does not take all there is.
func TestOneCallerLeavesAConnection(t *testing.T) {
	d := fairReaders(t, "sqlite")
	_, stop := readMuch(t, d, "one", 1, time.Second)
	defer stop()
	ctx, cancel := context.WithTimeout(as(t.Context(), "other"), 1500*time.Millisecond)
	defer cancel()
	for range victimAsks {
		if err := hold(ctx, d, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// A request that holds a connection and asks for another waits for none of those that wait: they may wait for what it holds.
func TestWhoHoldsAConnectionGoesFirst(t *testing.T) {
	d := fairReaders(t, "sqlite")
	_, stop := readMuch(t, d, "crowd", crowd, 100*time.Millisecond)
	defer stop()
	ctx := as(t.Context(), "crowd0")
	for name, outer := range map[string]func(inner func(db.Row) error) error{
		"rows": func(inner func(db.Row) error) error { return db.Each(inner)(d.Query(ctx, "SELECT 1")) },
		"a transaction": func(inner func(db.Row) error) error {
			return d.Tx(ctx, func(*db.Tx) error { return inner(nil) })
		},
		"a moment of the database": func(inner func(db.Row) error) error {
			return d.Snapshot(ctx, func(db.Querier) error { return inner(nil) })
		},
	} {
		err := outer(func(db.Row) error {
			began := time.Now()
			err := hold(ctx, d, 0)
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s: waited %s", name, took)
			}
			return err
		})
		if err != nil {
			t.Error(name, err)
		}
	}
	if n := caller.Of(ctx).HeldResources.Load(); n != 0 {
		t.Errorf("it still holds %d connections", n)
	}
}

// A wait ends with its request, and however a read ends its connection is given back.
func TestConnectionsAreGivenBack(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			d := fairReaders(t, engine)
			var all sync.WaitGroup
			for i := range 24 {
				all.Go(func() {
					for j := range 50 {
						ctx, cancel := context.WithTimeout(as(t.Context(), fmt.Sprint(i%3)), time.Duration(j%7)*time.Millisecond)
						var n int
						var err error
						switch j % 5 {
						case 0:
							err = hold(ctx, d, time.Millisecond)
						case 1:
							err = d.QueryRow(ctx, "SELECT 1").Scan(&n)
						case 2:
							err = d.Snapshot(ctx, func(db.Querier) error { time.Sleep(time.Millisecond); return nil })
						case 3:
							err = d.QueryRow(ctx, "SELECT wrong").Scan(&n)
						case 4:
							err = d.Tx(ctx, func(*db.Tx) error { return errors.New("undone") })
						}
						_ = err // most of them fail
						cancel()
					}
				})
			}
			all.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if free, lines := d.Gate(); free != 4 || lines != 0 {
				t.Errorf("%d connections are free of 4, %d callers wait", free, lines)
			}
			if err := hold(ctx, d, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// BenchmarkRead is a small read where connections are free.
func BenchmarkRead(b *testing.B) {
	for _, engine := range []string{"sqlite", "postgres"} {
		d := fairReaders(b, engine)
		ctx := as(b.Context(), "@alice:example.org")
		b.Run(engine+"/query", func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				if _, err := db.Texts(d.Query(ctx, "SELECT 'x'")); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(engine+"/row", func(b *testing.B) {
			b.ReportAllocs()
			var n int
			for range b.N {
				if err := d.QueryRow(ctx, "SELECT 1").Scan(&n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
