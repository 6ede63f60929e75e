package db_test

import (
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/engines/enginestest"
)

// gated opens a database whose commits of things a test holds. away cuts it off, where that is possible.
func gated(t *testing.T, body func(t *testing.T, d *db.DB, gate *dbfault.Gate, away func(bool))) {
	t.Helper()
	open := func(t *testing.T, url string, o db.Options, gate *dbfault.Gate, away func(bool)) {
		d, err := db.Open(t.Context(), url, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		t.Cleanup(gate.Open)
		if _, err := d.Exec(t.Context(), `CREATE TABLE things (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE)`); err != nil {
			t.Fatal(err)
		}
		gate.Also(regexp.MustCompile(`INSERT INTO things`))
		gate.Shut()
		body(t, d, gate, away)
	}
	t.Run("sqlite", func(t *testing.T) {
		driver := dbfault.NewSQLite()
		t.Cleanup(driver.Close)
		open(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"), db.Options{Driver: driver.Driver()}, &driver.Gate, func(bool) {})
	})
	t.Run("postgres", func(t *testing.T) {
		proxy, err := dbfault.NewProxy(enginestest.TestPostgres(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = proxy.Close() })
		open(t, proxy.URL(), db.Options{}, &proxy.Gate, proxy.Away)
	})
}

func nextHeld(t *testing.T, gate *dbfault.Gate) *dbfault.Held {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if held := gate.Held(); len(held) > 0 {
			return held[0]
		}
	}
	t.Fatal("no commit came")
	return nil
}

// thing is work whose caller chose the id.
type thing struct {
	id, name string
	done     int // times that it was worked on
}

func (x *thing) work(ctx context.Context) func(tx *db.Tx) error {
	return func(tx *db.Tx) error {
		x.done++
		_, err := tx.Exec(ctx, `INSERT INTO things (id, name) VALUES ($1, $2)`, x.id, x.name)
		return err
	}
}

func (x *thing) stored(ctx context.Context, q db.Querier) (there bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM things WHERE id = $1)`, x.id).Scan(&there)
	return there, err
}

func TestSettle(t *testing.T) {
	for fault, tries := range map[dbfault.Fault]int{
		dbfault.Pass: 1, dbfault.Before: 2, dbfault.After: 1, dbfault.Late: 2,
		dbfault.LateEnd: 2,
	} {
		t.Run(fault.String(), func(t *testing.T) {
			gated(t, func(t *testing.T, d *db.DB, gate *dbfault.Gate, away func(bool)) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				x := &thing{id: "1", name: "one"}
				settled := make(chan error, 1)
				go func() { settled <- d.Settle(ctx, x.work(ctx), x.stored) }()
				nextHeld(t, gate).Decide(fault)
				switch fault {
				case dbfault.Before, dbfault.After:
					// the commit, before the database goes away
					for done := fault == dbfault.Before; !done && ctx.Err() == nil; time.Sleep(time.Millisecond) {
						done, _ = x.stored(ctx, d) // again when it fails
					}
					away(true)
					time.Sleep(50 * time.Millisecond)
					away(false)
				}
				gate.Open()
				if err := <-settled; err != nil {
					t.Fatal(err)
				}
				if there, err := x.stored(ctx, d); err != nil || !there {
					t.Errorf("it is stored: %v, %v", there, err)
				}
				want := tries
				if !d.Postgres() && fault >= dbfault.Late { // there it is no other than after
					want = 1
				}
				if x.done < want || want == 1 && x.done > 1 {
					t.Errorf("the work was done %d times, expected %d", x.done, want)
				}
			})
		})
	}
}

// What others took meanwhile refuses the repetition, and nothing of it is stored.
func TestSettleTellsARefusal(t *testing.T) {
	gated(t, func(t *testing.T, d *db.DB, gate *dbfault.Gate, _ func(bool)) {
		ctx := t.Context()
		x, other := &thing{id: "1", name: "one"}, &thing{id: "2", name: "one"}
		settled := make(chan error, 1)
		go func() {
			settled <- d.Settle(ctx, x.work(ctx), func(ctx context.Context, q db.Querier) (bool, error) {
				there, err := x.stored(ctx, q)
				if err != nil {
					return false, err
				}
				taken, err := other.stored(ctx, q)
				if err == nil && !taken {
					_, err = d.Exec(ctx, `INSERT INTO things (id, name) VALUES ('2', 'one')`)
				}
				return there, err
			})
		}()
		nextHeld(t, gate).Decide(dbfault.Before)
		gate.Open()
		if err := <-settled; !db.IsUnique(err) {
			t.Errorf("expected that the name is taken, found %v", err)
		}
		if there, err := x.stored(ctx, d); err != nil || there {
			t.Errorf("it is stored: %v, %v", there, err)
		}
	})
}

// Who can not wait is told that it is not known.
func TestSettleEndsWithItsContext(t *testing.T) {
	gated(t, func(t *testing.T, d *db.DB, gate *dbfault.Gate, away func(bool)) {
		if !d.Postgres() {
			t.Skip("a file is not away")
		}
		ctx, cancel := context.WithCancel(t.Context())
		x := &thing{id: "1", name: "one"}
		settled := make(chan error, 1)
		go func() { settled <- d.Settle(ctx, x.work(ctx), x.stored) }()
		nextHeld(t, gate).Decide(dbfault.Before)
		away(true)
		time.Sleep(100 * time.Millisecond)
		select {
		case err := <-settled:
			t.Fatalf("settled while the database was away: %v", err)
		default:
		}
		cancel()
		var unknown *db.CommitError
		if err := <-settled; !errors.As(err, &unknown) {
			t.Errorf("expected that it is not known, found %v", err)
		}
		away(false)
	})
}
