package dbfault_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/engines/enginestest"
)

const (
	advance = "UPDATE leases SET pos = v.column2 FROM (VALUES ($1, CAST($2 AS BIGINT))) AS v WHERE leases.name = v.column1"
	schema  = "CREATE TABLE leases (name TEXT PRIMARY KEY, pos BIGINT); INSERT INTO leases VALUES ('a', 0)"
)

// what is expected of each fault.
var expected = map[dbfault.Fault]struct {
	ok, stored, late bool
	code             string
}{
	dbfault.Pass:    {ok: true, stored: true},
	dbfault.Slow:    {ok: true, stored: true},
	dbfault.Before:  {},
	dbfault.After:   {stored: true},
	dbfault.Late:    {stored: true, late: true},
	dbfault.LateEnd: {stored: true, late: true},
	dbfault.Refuse:  {code: "53100"},
	dbfault.Again:   {code: "40001"},
}

// decide waits for the commit that is held and gives it its fate.
func decide(t *testing.T, g *dbfault.Gate, f dbfault.Fault) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if held := g.Held(); len(held) > 0 {
			held[0].Decide(f)
			return
		}
		if time.Now().After(deadline) {
			t.Error("no commit is held")
			return
		}
	}
}

// form is a way to write a group commit; it may be used again after an error.
type form func(pos int64) error

// forms are those of a connection or pool to a URL.
func forms(t *testing.T, url string) map[string]form {
	ctx := context.Background()
	d, err := db.Open(ctx, url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	var c *pgx.Conn
	batch := func(around bool) form {
		return func(pos int64) (err error) {
			if c == nil || c.IsClosed() {
				if c, err = pgx.Connect(ctx, url); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close(ctx) })
			}
			b := &pgx.Batch{}
			if around {
				b.Queue("BEGIN")
			}
			b.Queue(advance, "a", pos)
			b.Queue("SELECT count(*) FROM leases WHERE pos = $1", pos)
			if around {
				b.Queue("COMMIT")
			}
			return c.SendBatch(ctx, b).Close()
		}
	}
	return map[string]form{
		"transaction": func(pos int64) error {
			return d.Write(ctx, func(w *db.Batch) error {
				tx, err := w.Tx()
				if err == nil {
					_, err = tx.Exec(ctx, advance, "a", pos)
				}
				return err
			})
		},
		"batch": batch(false), "batch with BEGIN": batch(true),
	}
}

func TestProxyGivesEachCommitItsFate(t *testing.T) {
	for _, name := range []string{"transaction", "batch", "batch with BEGIN"} {
		t.Run(name, func(t *testing.T) {
			ctx, server := t.Context(), enginestest.TestPostgres(t)
			control, err := pgx.Connect(ctx, server)
			if err != nil {
				t.Fatal(err)
			}
			defer control.Close(ctx)
			if _, err := control.Exec(ctx, schema); err != nil {
				t.Fatal(err)
			}
			p, err := dbfault.NewProxy(server)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			write := forms(t, p.URL())[name]
			stored := func() (pos int64) {
				if err := control.QueryRow(ctx, "SELECT pos FROM leases").Scan(&pos); err != nil {
					t.Fatal(err)
				}
				return pos
			}
			pos := int64(0)
			for round := range 2 { // the second with statements that are prepared
				for _, f := range dbfault.Faults() {
					pos++
					before := stored()
					want := expected[f]
					p.Shut()
					done := make(chan struct{})
					go func() { defer close(done); decide(t, &p.Gate, f); p.Open() }()
					err := write(pos)
					<-done
					if f == dbfault.Again && name == "transaction" { // the pool runs it again
						want.ok, want.stored, want.code = true, true, ""
					}
					var pg *pgconn.PgError
					switch {
					case want.code != "":
						if !errors.As(err, &pg) || pg.Code != want.code {
							t.Errorf("round %d, %v: %v, expected SQLSTATE %s", round, f, err, want.code)
						}
					case (err == nil) != want.ok:
						t.Errorf("round %d, %v: %v", round, f, err)
					}
					if want.late {
						if got := stored(); got != before {
							t.Errorf("round %d, %v: stored %d at once", round, f, got)
						}
						for deadline := time.Now().Add(5 * time.Second); stored() != pos && time.Now().Before(deadline); {
							time.Sleep(10 * time.Millisecond)
						}
					}
					if f == dbfault.Before {
						time.Sleep(20 * time.Millisecond) // the server notices
					}
					if got := stored(); (got == pos) != want.stored {
						t.Errorf("round %d, %v: stored %d, wrote %d", round, f, got, pos)
					}
				}
			}
			if active, _ := p.Traffic(); active != 0 {
				t.Errorf("%d statements are under way at the end", active)
			}
		})
	}
}

func TestALateBatchHoldsNoLocksAndALateEndDoes(t *testing.T) {
	for f, locked := range map[dbfault.Fault]bool{dbfault.Late: false, dbfault.LateEnd: true} {
		ctx, server := t.Context(), enginestest.TestPostgres(t)
		control, err := pgx.Connect(ctx, server)
		if err != nil {
			t.Fatal(err)
		}
		defer control.Close(ctx)
		if _, err := control.Exec(ctx, schema); err != nil {
			t.Fatal(err)
		}
		p, err := dbfault.NewProxy(server)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		p.Shut()
		go decide(t, &p.Gate, f)
		if err := forms(t, p.URL())["batch"](7); err == nil {
			t.Fatal("the batch was confirmed")
		}
		began := time.Now()
		if _, err := control.Exec(ctx, "UPDATE leases SET pos = pos + 100"); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began) > dbfault.LateAfter/2; waited != locked {
			t.Errorf("%v: another writer waited: %v, expected %v", f, waited, locked)
		}
	}
}

func TestProxyCutsAndFreezes(t *testing.T) {
	p, err := dbfault.NewProxy(enginestest.TestPostgres(t))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	d, err := db.Open(t.Context(), p.URL(), db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ask := func() error {
		var one int
		return d.QueryRow(t.Context(), "SELECT 1").Scan(&one)
	}
	p.Freeze()
	answer := make(chan error, 1)
	go func() { answer <- ask() }()
	select {
	case err := <-answer:
		t.Fatalf("answered though nothing flows: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	p.Thaw()
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	p.Away(true)
	if err := ask(); !db.IsUnavailable(err) {
		t.Errorf("the database is away, found %v", err)
	}
	p.Away(false)
	if err := ask(); err != nil {
		t.Error(err)
	}
}

func TestAnswersThatAreHeldAreOfThePast(t *testing.T) {
	ctx, server := t.Context(), enginestest.TestPostgres(t)
	p, err := dbfault.NewProxy(server)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	d, err := db.Open(ctx, p.URL(), db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, step := range []string{"CREATE TABLE notes (name TEXT, n BIGINT)", "INSERT INTO notes VALUES ('a', 1), ('b', 1)"} {
		if _, err := d.Exec(ctx, step); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) (n int) {
		if err := d.QueryRow(ctx, "SELECT n FROM notes WHERE name = $1", name).Scan(&n); err != nil {
			t.Error(err)
		}
		return n
	}
	for range 2 { // the second time with statements that are prepared
		sent := make(chan int64, 1)
		p.HoldAnswers(func(r dbfault.Read) bool {
			held := strings.Contains(r.Query, "FROM notes") && bytes.Contains(r.Values, []byte("a"))
			if held {
				_, n := p.Traffic()
				sent <- n
			}
			return held
		})
		before := read("b") // is not held
		answer := make(chan int, 1)
		go func() { answer <- read("a") }()
		began := <-sent
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if active, n := p.Traffic(); active == 0 && n >= began+2 { // sent and answered
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the server does not answer")
			}
		}
		if _, err := d.Exec(ctx, "UPDATE notes SET n = n + 1"); err != nil {
			t.Fatal(err)
		}
		select {
		case n := <-answer:
			t.Fatalf("%d was answered, though the answer is held", n)
		default:
		}
		p.LetAnswers()
		if late, now := <-answer, read("a"); late != before || now != before+1 {
			t.Errorf("the late answer is %d, then %d, expected %d and %d", late, now, before, before+1)
		}
	}
}

func TestSQLiteGivesEachCommitItsFate(t *testing.T) {
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "test.db")
	control, err := db.Open(ctx, "sqlite:"+path, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if _, err := control.Exec(ctx, schema); err != nil {
		t.Fatal(err)
	}
	s := dbfault.NewSQLite()
	defer s.Close()
	d, err := db.Open(ctx, "sqlite:"+path, db.Options{Driver: s.Driver()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	pos := int64(0)
	for range 2 {
		for _, f := range dbfault.Faults() {
			pos++
			want := expected[f]
			s.Shut()
			done := make(chan struct{})
			go func() { defer close(done); decide(t, &s.Gate, f); s.Gate.Open() }()
			err := d.Tx(ctx, func(tx *db.Tx) error {
				_, err := tx.Exec(ctx, advance, "a", pos)
				return err
			})
			<-done
			var unknown *db.CommitError
			if (err == nil) != want.ok || err != nil && !errors.As(err, &unknown) {
				t.Errorf("%v: %v", f, err)
			}
			var got int64
			if err := control.QueryRow(ctx, "SELECT pos FROM leases").Scan(&got); err != nil {
				t.Fatal(err)
			}
			if (got == pos) != want.stored {
				t.Errorf("%v: stored %d, wrote %d", f, got, pos)
			}
		}
	}
}
