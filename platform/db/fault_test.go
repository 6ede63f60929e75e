package db_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
)

// fault is what a proxy does to the next message that ends with a Sync.
type fault string

const (
	pass   fault = ""
	before fault = "cut before the message arrives"
	during fault = "cut before its last part, the Sync, arrives"
	after  fault = "cut after it arrived, before the answer"
	refuse fault = "no new connection"
)

// proxy stands between a pool and PostgreSQL.
type proxy struct {
	url   string
	next  atomic.Value // fault
	taken chan struct{}
}

var syncMessage = []byte{'S', 0, 0, 0, 4}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	server := u.Host
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	u.Host = l.Addr().String()
	p := &proxy{url: u.String(), taken: make(chan struct{}, 10)}
	p.next.Store(pass)
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			if p.next.Load() == refuse {
				_ = client.Close()
				continue
			}
			go p.run(client, server)
		}
	}()
	return p
}

func (p *proxy) run(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	var swallow atomic.Bool
	answered := make(chan struct{}, 100)
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil {
				_ = client.Close()
				return
			}
			if swallow.Load() {
				answered <- struct{}{}
				continue
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		f := p.next.Load().(fault)
		if f == pass || !bytes.HasSuffix(buf[:n], syncMessage) {
			f = pass
		} else {
			p.next.Store(pass)
			p.taken <- struct{}{}
		}
		switch f {
		case before:
			return
		case during:
			_, _ = server.Write(buf[:n-len(syncMessage)])
			time.Sleep(20 * time.Millisecond) // the statements run
			return
		case after:
			swallow.Store(true)
			_, _ = server.Write(buf[:n])
			<-answered
			return
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func unknown(err error) bool {
	var c *db.CommitError
	return errors.As(err, &c)
}

// A connection that breaks makes the outcome unknown: never a success that is none, never a second write.
func TestABrokenConnectionMakesTheOutcomeUnknown(t *testing.T) {
	target := enginestest.TestPostgres(t)
	direct := dbtest.Open(t, target, kinds)
	p := newProxy(t, target)
	d, err := db.Open(t.Context(), p.url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	pos := 0
	write := func() error {
		pos++
		return d.Write(t.Context(), func(w *db.Batch) error {
			advance(w, "a", 1, int64(pos))
			w.Rows(kindRows, [][]any{{0, pos, nil, nil, nil, nil, nil}})
			return nil
		})
	}
	for _, c := range []struct {
		fault  fault
		stored bool
	}{{before, false}, {during, false}, {after, true}, {during, false}, {after, true}} {
		if err := write(); err != nil { // the texts are prepared
			t.Fatal(err)
		}
		want := pos
		p.next.Store(c.fault)
		err := write()
		select {
		case <-p.taken:
		default:
			t.Fatalf("%s: the proxy saw no message", c.fault)
		}
		if !unknown(err) {
			t.Errorf("%s: %v", c.fault, err)
		}
		if c.stored {
			want++
		} else {
			want = pos - 1
		}
		var at, n int
		const query = "SELECT pos, (SELECT COUNT(*) FROM kinds WHERE pos = $1) FROM fences WHERE name = 'a'"
		if err := direct.QueryRow(t.Context(), query, pos).Scan(&at, &n); err != nil {
			t.Fatal(err)
		}
		if at != want || (n == 1) != c.stored {
			t.Errorf("%s: the position is %d, expected %d, with %d rows", c.fault, at, want, n)
		}
	}
	p.next.Store(refuse)
	_ = d.Close()
	if d, err = db.Open(t.Context(), p.url, db.Options{}); err == nil || !db.IsUnavailable(err) || unknown(err) {
		t.Errorf("no connection: %v", err)
	}
}

func TestABackendThatEndsMakesTheOutcomeUnknown(t *testing.T) {
	d := dbtest.Open(t, enginestest.TestPostgres(t), kinds)
	slow := func(ctx context.Context) error {
		return d.Write(ctx, func(w *db.Batch) error {
			advance(w, "a", 1, 5)
			w.Rows(kindRows, [][]any{{0, 1, nil, nil, nil, nil, nil}})
			w.Do("SELECT pg_sleep(10)")
			return nil
		})
	}
	sleeping := func(do string) {
		for start := time.Now(); time.Since(start) < 9*time.Second; time.Sleep(5 * time.Millisecond) {
			if n := names(t, d, "SELECT COUNT("+do+") FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active' AND "+
				"datname = current_database()"); n != "0" {
				return
			}
		}
		t.Error("the write did not begin")
	}
	go sleeping("pg_terminate_backend(pid)")
	if err := slow(t.Context()); !unknown(err) {
		t.Errorf("a backend that was ended: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { sleeping("pid"); cancel() }()
	if err := slow(ctx); !unknown(err) || !errors.Is(err, context.Canceled) {
		t.Errorf("a write whose context ended: %v", err)
	}
	for start := time.Now(); names(t, d,
		"SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active' AND "+
			"datname = current_database()") != "0"; {
		if time.Sleep(5 * time.Millisecond); time.Since(start) > 30*time.Second {
			t.Fatal("the write whose context ended goes on") // and would be taken for the next one
		}
	}
	go sleeping("pg_cancel_backend(pid)")
	if err := slow(t.Context()); err == nil || unknown(err) || db.IsUnavailable(err) {
		t.Errorf("a statement that was cancelled: %v", err)
	}
	if err := slow(ctx); !errors.Is(err, context.Canceled) || unknown(err) {
		t.Errorf("a context that had ended before: %v", err)
	}
	if err := d.Write(t.Context(), func(w *db.Batch) error { advance(w, "b", 1, 1); return nil }); err != nil {
		t.Errorf("the write after: %v", err)
	}
	if got := content(t, d); got != "a1.0 b1.1; ; " {
		t.Errorf("found %s", got)
	}
}

func TestSQLiteWaitsForTheFileOnlyAsLongAsTheContext(t *testing.T) {
	path := "sqlite:" + filepath.Join(t.TempDir(), "test.db")
	d, other := dbtest.Open(t, path, kinds), dbtest.Open(t, path, kinds)
	write := func(ctx context.Context) error {
		return d.Write(ctx, func(w *db.Batch) error { advance(w, "a", 1, 5); return nil })
	}
	if err := write(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := other.Tx(t.Context(), func(*db.Tx) error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := write(ctx); !errors.Is(err, context.DeadlineExceeded) || unknown(err) {
			t.Errorf("a file that another process writes: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := write(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestADeferredConstraintUndoesAWrite(t *testing.T) {
	d := dbtest.Open(t, enginestest.TestPostgres(t), files(`CREATE TABLE late (id BIGINT, CONSTRAINT late_id UNIQUE (id) DEFERRABLE
			INITIALLY DEFERRED);`))
	err := d.Write(t.Context(), func(w *db.Batch) error { w.Do("INSERT INTO late VALUES (1), (1)"); return nil })
	if !db.IsUniqueOn(err, "late_id") || unknown(err) {
		t.Errorf("a commit that the database refused: %v", err)
	}
	if got := names(t, d, "SELECT COUNT(*) FROM late"); got != "0" {
		t.Errorf("%s rows", got)
	}
}

func TestLargeWrites(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		rows := func(n, size int) [][]any {
			out := make([][]any, n)
			for i := range out {
				out[i] = []any{n, i, nil, nil, make([]byte, size), nil, nil}
			}
			return out
		}
		write := func(n, size int) error {
			return d.Write(t.Context(), func(w *db.Batch) error { w.Rows(kindRows, rows(n, size)); return nil })
		}
		if err := write(20_000, 10); err != nil {
			t.Error(err)
		}
		if err := write(3, 10<<20); err != nil {
			t.Error(err)
		}
		sent := names(t, d, "SELECT COUNT(*) FROM kinds")
		if err := write(2, 33<<20); !errors.Is(err, db.ErrTooLarge) {
			t.Errorf("66 MiB: %v", err)
		}
		err := d.Write(t.Context(), func(w *db.Batch) error {
			if _, err := w.Tx(); err != nil {
				return err
			}
			w.Rows(kindRows, rows(1, 33<<20))
			w.Rows(kindRows, rows(1, 33<<20))
			return nil
		})
		if !errors.Is(err, db.ErrTooLarge) {
			t.Errorf("66 MiB in a transaction: %v", err)
		}
		if _, err := d.Exec(t.Context(), "UPDATE kinds SET b = $1 WHERE pos < 0", make([]byte, 257<<20)); !errors.Is(err, db.ErrTooLarge) {
			t.Errorf("257 MiB in a statement: %v", err)
		}
		if got := names(t, d, "SELECT COUNT(*) FROM kinds"); got != sent || sent != "20003" {
			t.Errorf("%s rows after %s", got, sent)
		}
	}, kinds)
}

// What is looked for may come from an event or a setting, which may hold any text.
func TestTextThatCanNotBeStoredIsNotFound(t *testing.T) {
	type named string
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		if _, err := d.Exec(ctx, "INSERT INTO latest (id, pos) VALUES ('a', 1), ('ab', 2)"); err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{"a\x00b", "\x00", "a\xffb"} {
			for _, c := range []struct {
				where string
				arg   any
				found string
			}{
				{"id = $1", bad, "0"},
				{"id = $1", named(bad), "0"},
				{"id = $1", &bad, "0"},
				{"id <> $1", bad, "2"},
				{"id LIKE $1", "%" + bad + "%", "0"},
				{"id = ANY($1)", []string{"ab", bad}, "1"},
				{"id = ANY($1)", []named{"ab", named(bad)}, "1"},
				{"NOT (id = ANY($1))", []string{"ab", bad}, "1"},
			} {
				if got := names(t, d, "SELECT COUNT(*) FROM latest WHERE "+c.where, c.arg); got != c.found {
					t.Errorf("%s with %q: expected %s rows, found %s", c.where, bad, c.found, got)
				}
				n := ""
				if err := d.QueryRow(ctx, "SELECT COUNT(*) FROM latest WHERE "+c.where, c.arg).Scan(&n); err != nil || n != c.found {
					t.Errorf("%s with %q: expected %s rows, found %s: %v", c.where, bad, c.found, n, err)
				}
			}
		}
	}, kinds)
}

// Text that PostgreSQL refuses, and SQLite changes, is refused alike, wherever it is to be stored.
func TestTextThatCanNotBeStoredIsRefused(t *testing.T) {
	type named string
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		nul, broken := "a\x00b", "a\xffb"
		write := func(fn func(w *db.Batch)) error {
			return d.Write(ctx, func(w *db.Batch) error { fn(w); return nil })
		}
		for _, c := range []struct {
			where string
			err   error
		}{
			{"kinds.t", write(func(w *db.Batch) { w.Rows(kindRows, [][]any{{0, 1, nil, nul, nil, nil, nil}}) })},
			{"kinds.t", write(func(w *db.Batch) { w.Rows(kindRows, [][]any{{0, 1, nil, &broken, nil, nil, nil}}) })},
			{"kinds.t", d.Check(ctx, func(w *db.Batch) error { w.Rows(kindRows, [][]any{{0, 1, nil, named(nul), nil, nil, nil}}); return nil })},
			{"$2", write(func(w *db.Batch) { w.Do("UPDATE latest SET id = $2 WHERE pos = $1", 1, nul) })},
			{"$1", write(func(w *db.Batch) { w.Must(0, "SELECT 1 FROM latest WHERE id = ANY($1)", []string{"a", broken}) })},
			{"$1", second(d.Exec(ctx, "INSERT INTO latest (id, pos) VALUES ($1, 1)", nul))},
			{"$1", second(d.Exec(ctx, "INSERT INTO latest (id, pos) VALUES ($1, 1)", broken))},
			{"$1", d.Bulk(ctx, "INSERT INTO latest (id, pos) VALUES ?", [][]any{{"a", 1}, {nul, 2}})},
			{"$1", d.Tx(ctx, func(tx *db.Tx) error { return second(tx.Exec(ctx, "DELETE FROM latest WHERE id = $1", &nul)) })},
		} {
			text, ok := errors.AsType[*db.TextError](c.err)
			if !ok || text.Where != c.where || db.IsUnavailable(c.err) || !strings.Contains(c.err.Error(), c.where) {
				t.Errorf("expected an error about %s, found %v", c.where, c.err)
			}
		}
		if got := content(t, d); got != "a1.0 b1.0; ; " {
			t.Errorf("found %s", got)
		}
	}, kinds)
}

func second[T any](_ T, err error) error { return err }

// TestALostWriteIsEndedBeforeItIsTold: what a connection that broke had taken must not come when its client, who was told that nobody
// knows, has written something else.
func TestALostWriteIsEndedBeforeItIsTold(t *testing.T) {
	p, err := dbfault.NewProxy(enginestest.TestPostgres(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	d, err := db.Open(t.Context(), p.URL(), db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	t.Cleanup(p.Open)
	exec := func(query string, args ...any) error {
		_, err := d.Exec(t.Context(), query, args...)
		return err
	}
	if err := errors.Join(exec(`CREATE TABLE names (name TEXT NOT NULL)`), exec(`INSERT INTO names (name) VALUES ('first')`)); err != nil {
		t.Fatal(err)
	}
	p.Also(regexp.MustCompile(`UPDATE names`))
	const update = `UPDATE names SET name = $1`
	for how, write := range map[string]func(name string) error{
		"statement": func(name string) error { return exec(update, name) },
		"transaction": func(name string) error {
			return d.Tx(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), update, name); return err })
		},
	} {
		for _, f := range []dbfault.Fault{dbfault.Late, dbfault.LateEnd} {
			old, wanted := how+" old "+f.String(), how+" new "+f.String()
			p.Shut()
			told := make(chan error, 1)
			go func() { told <- write(old) }()
			nextHeld(t, &p.Gate).Decide(f)
			if err := <-told; err == nil {
				t.Errorf("%s, %v: a write whose connection broke is said to be done", how, f)
			}
			p.Gate.Open()
			if err := write(wanted); err != nil {
				t.Fatal(err)
			}
			time.Sleep(dbfault.LateBatch + dbfault.LateAfter)
			var name string
			if err := d.QueryRow(t.Context(), `SELECT name FROM names`).Scan(&name); err != nil || name != wanted {
				t.Errorf("%s, %v: found %q, %v, after %q was acknowledged", how, f, name, err, wanted)
			}
		}
	}
}
