package db_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines"
	"lyceum/platform/engines/enginestest"
)

func files(steps ...string) db.Migrations {
	fs := fstest.MapFS{}
	for i, sql := range steps {
		fs[fmt.Sprintf("migrations/%04d_step.sql", i+1)] = &fstest.MapFile{Data: []byte(sql)}
	}
	return db.Migrations{Domain: "test", Files: fs}
}

var items = files(`
CREATE TABLE items (id BIGINT NOT NULL PRIMARY KEY, name TEXT, data BYTEA, flag BOOLEAN NOT NULL DEFAULT FALSE);
-- a comment; with a semicolon
CREATE UNIQUE INDEX items_name ON items (name);`)

func names(t *testing.T, q db.Querier, query string, args ...any) string {
	t.Helper()
	rows, err := q.Query(context.Background(), query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var name *string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		if name == nil {
			out = append(out, "NULL")
		} else {
			out = append(out, *name)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func TestStatements(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		err := d.Bulk(ctx, "INSERT INTO items (id, name, data) VALUES ?", [][]any{
			{1, "a", []byte{0, 255}}, {int64(2), nil, nil}, {3, "c'\"\\ü", json.RawMessage(`{"k":1}`)}, {4, "d", []byte{}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for query, want := range map[string]struct {
			args []any
			want string
		}{
			"SELECT name FROM items WHERE id = ANY($1) ORDER BY id":                  {[]any{[]int64{1, 2, 9}}, "a NULL"},
			"SELECT name FROM items WHERE name = ANY($1) AND id > $2 ORDER BY id":    {[]any{[]string{"c'\"\\ü", "d", "a"}, 1}, "c'\"\\ü d"},
			"SELECT name FROM items WHERE id = ANY($1)":                              {[]any{[]int64{}}, ""},
			"SELECT name FROM items WHERE name = ANY($1)":                            {[]any{[]string(nil)}, ""},
			"SELECT name FROM items WHERE NOT (id = ANY($2)) AND id < $1":            {[]any{4, []int64{1, 3}}, "NULL"},
			"SELECT name FROM items WHERE data = $1":                                 {[]any{json.RawMessage(`{"k":1}`)}, "c'\"\\ü"},
			"SELECT name FROM items WHERE flag = $1 AND name IS NOT NULL ORDER BY 1": {[]any{false}, "a c'\"\\ü d"},
			"SELECT name FROM items WHERE id IN (" + db.Placeholders(3) + ") ORDER BY id DESC FOR UPDATE": {
				[]any{1, 3, 4}, "d c'\"\\ü a",
			},
		} {
			if got := names(t, d, query, want.args...); got != want.want {
				t.Errorf("%s %v: found %q, expected %q", query, want.args, got, want.want)
			}
		}
		var data []byte
		if err := d.QueryRow(ctx, "SELECT data FROM items WHERE id = 1").Scan(&data); err != nil || len(data) != 2 || data[1] != 255 {
			t.Errorf("data %v, %v", data, err)
		}
		if err := d.QueryRow(ctx, "SELECT data FROM items WHERE id = 99").Scan(&data); !errors.Is(err, db.ErrNoRows) {
			t.Errorf("a row that is not there: %v", err)
		}
		n, err := d.Exec(ctx, "UPDATE items SET flag = TRUE WHERE id = ANY($1)", []int64{1, 4})
		if err != nil || n != 2 {
			t.Errorf("changed %d, %v", n, err)
		}
		if got := names(t, d, "DELETE FROM items WHERE flag RETURNING name"); len(got) != 3 {
			t.Errorf("deleted %q", got)
		}
	}, items)
}

func TestBulkTakesMoreRowsThanOneStatement(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		rows := make([][]any, 20_000)
		for i := range rows {
			rows[i] = []any{i, fmt.Sprint("n", i)}
		}
		if err := d.Bulk(t.Context(), "INSERT INTO items (id, name) VALUES ?", rows); err != nil {
			t.Fatal(err)
		}
		for i := range rows {
			rows[i][1] = fmt.Sprint("m", i)
		}
		if err := d.Bulk(t.Context(), "INSERT INTO items (id, name) VALUES ? ON CONFLICT (id) DO UPDATE SET name = excluded.name",
			rows); err != nil {
			t.Fatal(err)
		}
		if got := names(t, d, "SELECT COUNT(*) FROM items WHERE name LIKE 'm%'"); got != "20000" {
			t.Errorf("found %s rows", got)
		}
		if err := d.Bulk(t.Context(), "INSERT INTO items (id) VALUES ?", nil); err != nil {
			t.Error(err)
		}
		for _, bad := range [][][]any{{{}}, {{1}, {1, 2}}} {
			if err := d.Bulk(t.Context(), "INSERT INTO items (id) VALUES ?", bad); err == nil {
				t.Errorf("the rows %v were taken", bad)
			}
		}
		if err := d.Bulk(t.Context(), "INSERT INTO items (id) SELECT 1", [][]any{{1}}); err == nil {
			t.Error("a statement without VALUES ? was taken")
		}
	}, items)
}

func TestTransactions(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		mine := errors.New("mine")
		err := d.Tx(ctx, func(tx *db.Tx) error {
			if _, err := tx.Exec(ctx, "INSERT INTO items (id, name) VALUES (1, 'a')"); err != nil {
				return err
			}
			if got := names(t, tx, "SELECT name FROM items"); got != "a" {
				t.Errorf("a transaction sees %q of its own rows", got)
			}
			return mine
		})
		if !errors.Is(err, mine) {
			t.Errorf("Tx returned %v", err)
		}
		if got := names(t, d, "SELECT name FROM items"); got != "" {
			t.Errorf("%q survived an undone transaction", got)
		}
		insert := func() error {
			_, err := d.Exec(ctx, "INSERT INTO items (id, name) VALUES ($1, $2)", 1, "a")
			return err
		}
		if err := insert(); err != nil {
			t.Fatal(err)
		}
		if err := insert(); !db.IsUnique(err) || db.IsUnavailable(err) {
			t.Errorf("a second row with the key: %v", err)
		}
		_, err = d.Exec(ctx, "INSERT INTO items (id, name) VALUES (2, 'a')")
		if !db.IsUnique(err) {
			t.Errorf("a second row in the unique index: %v", err)
		}
		if _, err = d.Exec(ctx, "INSERT INTO items (id, flag) VALUES (3, NULL)"); err == nil || db.IsUnique(err) || db.IsUnavailable(err) {
			t.Errorf("a missing value: %v", err)
		}
		if db.IsUnique(nil) || db.IsUnavailable(nil) || db.IsUnavailable(context.Canceled) {
			t.Error("no error, yet a kind of error")
		}
	}, items)
}

// Transactions that read and then write the same row collide; each must count.
func TestCollidingTransactionsAllHappen(t *testing.T) {
	run := func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		if _, err := d.Exec(ctx, "INSERT INTO items (id, name) VALUES (1, '0'), (2, '00')"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for range 10 {
					// The two orders of locks make deadlocks.
					err := d.Tx(ctx, func(tx *db.Tx) error {
						for i := range 2 {
							if _, err := tx.Exec(ctx, "UPDATE items SET name = name || 'x' WHERE id = $1", (w+i)%2+1); err != nil {
								return err
							}
						}
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := names(t, d, "SELECT LENGTH(name) FROM items ORDER BY id"); got != "41 42" {
			t.Errorf("lengths %s, expected 41 42", got)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		run(t, dbtest.Open(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"), items))
	})
	t.Run("postgres", func(t *testing.T) {
		url := enginestest.TestPostgres(t)
		dbtest.Open(t, url, items)
		var retries atomic.Int64
		d, err := db.Open(t.Context(), url, db.Options{
			Retry:  func(error) { retries.Add(1) },
			Params: map[string]string{"deadlock_timeout": "5ms"},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		run(t, d)
		t.Logf("%d transactions were run again", retries.Load())
	})
}

func TestARefusedCommitIsNoLostOne(t *testing.T) {
	d := dbtest.Open(t, enginestest.TestPostgres(t), files(`CREATE TABLE late (id BIGINT UNIQUE DEFERRABLE INITIALLY DEFERRED);`))
	err := d.Tx(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), "INSERT INTO late VALUES (1), (1)")
		return err
	})
	var lost *db.CommitError
	if !db.IsUnique(err) || errors.As(err, &lost) {
		t.Errorf("a commit that the database refused: %v", err)
	}
	err = d.Tx(t.Context(), func(tx *db.Tx) error {
		_, _ = tx.Exec(t.Context(), "SELECT no_such_column")
		return nil
	})
	if err == nil || errors.As(err, &lost) {
		t.Errorf("a commit after a failed statement: %v", err)
	}
}

// A new file can not be turned to its log while another process writes into it.
func TestOpenWaitsForWhoHasANewFileLocked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new.db")
	other, err := sql.Open("sqlite", "file:"+file)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Exec("CREATE TABLE t (n BIGINT)"); err != nil {
		t.Fatal(err)
	}
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		time.Sleep(200 * time.Millisecond)
		ended <- tx.Rollback()
	}()
	d, err := db.Open(t.Context(), "sqlite:"+file, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestMigrationsOfManyProcessesRunOnce(t *testing.T) {
	set := files("CREATE TABLE counted (n BIGINT NOT NULL);", "INSERT INTO counted VALUES (1);",
		"INSERT INTO counted VALUES (2);\nINSERT INTO counted VALUES (3);")
	run := func(t *testing.T, url string) {
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				d, err := db.Open(context.Background(), url, db.Options{})
				if err != nil {
					t.Error(err)
					return
				}
				defer d.Close()
				if err := db.Migrate(context.Background(), d, slog.New(slog.DiscardHandler), set); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := names(t, dbtest.Open(t, url, set), "SELECT n FROM counted ORDER BY n"); got != "1 2 3" {
			t.Errorf("rows %s", got)
		}
	}
	t.Run("sqlite", func(t *testing.T) { run(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db")) })
	t.Run("postgres", func(t *testing.T) { run(t, enginestest.TestPostgres(t)) })
}

func TestMigrationsRefuseAndUndo(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		log := slog.New(slog.DiscardHandler)
		one, two := "CREATE TABLE one (n BIGINT);", "CREATE TABLE two (n BIGINT);"
		err := db.Migrate(t.Context(), d, log, files(one, two+"\nINSERT INTO nowhere VALUES (1);"))
		if err == nil || !strings.Contains(err.Error(), "test 0002_step") {
			t.Errorf("a failing step: %v", err)
		}
		if _, err := d.Exec(t.Context(), "INSERT INTO one VALUES (1)"); err != nil {
			t.Errorf("the step before the failing one: %v", err)
		}
		if _, err := d.Exec(t.Context(), "INSERT INTO two VALUES (1)"); err == nil {
			t.Error("a failing step left a table")
		}
		if err := db.Migrate(t.Context(), d, log, files(one, two)); err != nil {
			t.Errorf("the mended step: %v", err)
		}
		if err := db.Migrate(t.Context(), d, log, files(one)); err != nil {
			t.Errorf("a database that a newer version expanded: %v", err)
		}
		contracted := files(one, two, "-- needs 99.1.0\nDROP TABLE one;")
		if err := db.Migrate(t.Context(), d, log, contracted); err != nil {
			t.Errorf("a step that contracts: %v", err)
		}
		if err := db.Migrate(t.Context(), d, log, files(one, two)); err == nil || !strings.Contains(err.Error(), "99.1.0") {
			t.Errorf("a database that needs a newer version: %v", err)
		}
		gap := db.Migrations{Domain: "gap", Files: fstest.MapFS{"migrations/0002_x.sql": {Data: []byte(one)}}}
		if err := db.Migrate(t.Context(), d, log, gap); err == nil || !strings.Contains(err.Error(), "0001") {
			t.Errorf("a missing step: %v", err)
		}
	})
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	for url, want := range map[string]string{
		"mysql://x": "expected sqlite:FILE or postgres://",
		"":          "expected sqlite:FILE or postgres://",
		"postgres://u:secret@127.0.0.1:1/x?connect_timeout=1": "open the database: PostgreSQL, user u, database x: 127.0.0.1:1",
		"postgres://u:secret@127.0.0.1:notaport/x":            "expected postgres://user:password@host/name",
		"sqlite:/no/such/directory/x.db":                      "open the database /no/such/directory/x.db: no such file or directory",
		"sqlite::memory:":                                     "a file in a temporary directory",
		"sqlite:":                                             "expected sqlite:FILE",
	} {
		d, err := db.Open(t.Context(), url, db.Options{})
		if err == nil {
			_ = d.Close()
			t.Errorf("%s was opened", url)
		} else if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, expected %q", url, err, want)
		}
	}
	_, err := db.Open(t.Context(), "postgres://u@127.0.0.1:1/x", db.Options{})
	if !db.IsUnavailable(err) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestSQLiteTakesAnyFileName(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a b.db", "100%25.db", "why?.db", "a#b.db"} {
		d := dbtest.Open(t, "sqlite:"+filepath.Join(dir, name), items)
		if _, err := d.Exec(t.Context(), "INSERT INTO items (id, name) VALUES (1, $1)", name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if found, err := filepath.Glob(filepath.Join(dir, strings.ReplaceAll(name, "?", "[?]"))); err != nil || len(found) != 1 {
			t.Errorf("%s: files %v, %v", name, found, err)
		}
	}
}

func TestCallsGoOnAfterARestartOfPostgres(t *testing.T) {
	pg, err := engines.StartPostgres(t.Context(), enginestest.Dir(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Stop() })
	d := dbtest.Open(t, pg.URL(), items)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var done, failed, serial atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				id := serial.Add(1)
				err := d.Tx(ctx, func(tx *db.Tx) error {
					if _, err := tx.Exec(ctx, "INSERT INTO items (id, name) VALUES ($1, $2)", id, fmt.Sprint(id)); err != nil {
						return err
					}
					return tx.QueryRow(ctx, "SELECT name FROM items WHERE id = $1", id).Scan(new(string))
				})
				var lost *db.CommitError
				switch {
				case err == nil:
					done.Add(1)
				case db.IsUnavailable(err), errors.As(err, &lost):
					failed.Add(1)
				default:
					t.Errorf("an error that is not known as unavailable: %v", err)
				}
			}
		})
	}
	wait := func(what string, n *atomic.Int64) {
		for start := n.Load(); n.Load() < start+20; time.Sleep(time.Millisecond) {
			if ctx.Err() != nil {
				t.Errorf("waited in vain for %s", what)
				return
			}
		}
	}
	wait("work", &done)
	if err := pg.Restart(ctx); err != nil {
		t.Error(err)
	}
	wait("work after a restart", &done)
	if err := pg.Kill(); err != nil {
		t.Error(err)
	}
	wait("errors", &failed)
	if err := pg.Restart(ctx); err != nil {
		t.Error(err)
	}
	wait("work after a crash", &done)
	close(stop)
	wg.Wait()
	if got := names(t, d, "SELECT COUNT(*) FROM items"); got < fmt.Sprint(done.Load()) && len(got) <= len(fmt.Sprint(done.Load())) {
		t.Errorf("%s rows, but %d transactions were confirmed", got, done.Load())
	}
}

func TestIdentity(t *testing.T) {
	url := enginestest.TestPostgres(t)
	a, again, other := dbtest.Open(t, url), dbtest.Open(t, url), dbtest.Open(t, enginestest.TestPostgres(t))
	identity := func(d *db.DB) string {
		id, err := d.Identity(t.Context())
		if err != nil {
			t.Error(err)
		}
		return id
	}
	if id := identity(a); id == "" || id != identity(again) || id == identity(other) {
		t.Errorf("%q, %q again, %q of another", id, identity(again), identity(other))
	}
	if id := identity(dbtest.Open(t, "sqlite:"+filepath.Join(t.TempDir(), "data.db"))); id != "" {
		t.Errorf("%q", id)
	}
}
