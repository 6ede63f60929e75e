package db_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
)

var kinds = files(`
CREATE TABLE fences (name TEXT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, pos BIGINT NOT NULL);
CREATE TABLE kinds (shard BIGINT NOT NULL, pos BIGINT NOT NULL, i BIGINT, t TEXT, b BYTEA, o BOOLEAN, f DOUBLE PRECISION, PRIMARY
KEY (shard, pos));
CREATE UNIQUE INDEX kinds_text ON kinds (t, i);
CREATE UNIQUE INDEX kinds_some ON kinds (b) WHERE o;
CREATE TABLE latest (id TEXT NOT NULL UNIQUE, pos BIGINT NOT NULL);
INSERT INTO fences VALUES ('a', 1, 0), ('b', 1, 0);`)

var (
	kindRows = &db.Table{Name: "kinds", Columns: []db.Column{
		{Name: "shard", Kind: db.Integer},
		{Name: "pos", Kind: db.Integer},
		{Name: "i", Kind: db.Integer},
		{Name: "t", Kind: db.Text},
		{Name: "b", Kind: db.Bytes},
		{Name: "o", Kind: db.Bool},
		{Name: "f", Kind: db.Float},
	}}
	latestRows = &db.Table{
		Name: "latest", Columns: []db.Column{{Name: "id", Kind: db.Text}, {Name: "pos", Kind: db.Integer}},
		Conflict: "ON CONFLICT (id) DO UPDATE SET pos = excluded.pos",
	}
)

func advance(w *db.Batch, name string, epoch, pos int64) {
	w.Must(1, "UPDATE fences SET pos = $1 WHERE name = $2 AND epoch = $3", pos, name, epoch)
}

// content is all that the tables of kinds hold.
func content(t *testing.T, d *db.DB) string {
	return names(t, d, `SELECT name || epoch || '.' || pos FROM fences ORDER BY name`) + "; " +
		names(t, d, `SELECT shard || '.' || pos || COALESCE(t, '-') FROM kinds ORDER BY shard, pos`) + "; " +
		names(t, d, `SELECT id || pos FROM latest ORDER BY id`)
}

func TestWriteIsOneTransaction(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		write := func(epoch int64, rows ...[]any) error {
			return d.Write(ctx, func(w *db.Batch) error {
				advance(w, "a", epoch, 9)
				w.Rows(kindRows, rows)
				w.Rows(latestRows, [][]any{{"x", 7}})
				w.Do("DELETE FROM latest WHERE id = ANY($1)", []string{"y", "z"})
				return nil
			})
		}
		if err := write(1, []any{0, 1, nil, "one", nil, nil, nil}, []any{0, 2, 5, nil, []byte{}, true, 1.5}); err != nil {
			t.Fatal(err)
		}
		want := "a1.9 b1.0; 0.1one 0.2-; x7"
		if got := content(t, d); got != want {
			t.Fatalf("found %q, expected %q", got, want)
		}
		// What fails leaves nothing, and the next write is not disturbed.
		for name, failing := range map[string]func() error{
			"a lost fence": func() error { return write(2, []any{0, 3, 1, "three", nil, nil, nil}) },
			"a duplicate": func() error {
				return write(1, []any{0, 4, 1, "four", nil, nil, nil}, []any{0, 1, 9, "again", nil, nil, nil})
			},
			"a wrong table": func() error {
				return d.Write(ctx, func(w *db.Batch) error { advance(w, "a", 1, 10); w.Do("DELETE FROM nowhere"); return nil })
			},
			"a wrong width":   func() error { return write(1, []any{0, 4}) },
			"a wrong kind":    func() error { return write(1, []any{0, 4, 1, 5, nil, nil, nil}) },
			"a text with NUL": func() error { return write(1, []any{0, 4, 1, "a\x00b", nil, nil, nil}) },
			"its own function": func() error {
				return d.Write(ctx, func(w *db.Batch) error { advance(w, "a", 1, 10); return errors.New("mine") })
			},
		} {
			if err := failing(); err == nil {
				t.Errorf("%s was taken", name)
			}
			if got := content(t, d); got != want {
				t.Fatalf("after %s: found %q, expected %q", name, got, want)
			}
			if err := d.Write(ctx, func(w *db.Batch) error { advance(w, "b", 1, 0); return nil }); err != nil {
				t.Fatalf("after %s: %v", name, err)
			}
		}
		if err := d.Write(ctx, func(*db.Batch) error { return nil }); err != nil {
			t.Errorf("nothing to write: %v", err)
		}
	}, kinds)
}

func TestWriteKeepsEveryKindOfValue(t *testing.T) {
	type text string
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		some := "pointed"
		rows := [][]any{
			{0, int64(1), nil, nil, nil, nil, nil},
			{0, 2, int32(-5), "ü'\"\\,{}NULL", []byte{0, 255}, true, -0.5},
			{0, 3, int64(1) << 62, "", []byte{}, false, 1e300},
			{0, 4, 0, &some, []byte(nil), nil, 0.0},
			{0, 5, 7, (*string)(nil), []byte("x"), true, nil},
			{0, 6, 8, text("named"), []byte("y"), true, nil},
			{0, 7, 9, []byte(`{"k":1}`), nil, true, nil},
		}
		if err := d.Write(ctx, func(w *db.Batch) error { w.Rows(kindRows, rows); return nil }); err != nil {
			t.Fatal(err)
		}
		var got []string
		err := db.Each(func(row db.Row) error {
			var i *int64
			var s *string
			var b []byte
			var o *bool
			var f *float64
			var null bool // SQLite's driver reads empty bytes as nil
			err := row.Scan(&i, &s, &b, &o, &f, &null)
			line := ""
			for _, v := range []any{i, s, o, f} {
				switch v := v.(type) {
				case *int64:
					line += show(v)
				case *string:
					line += show(v)
				case *bool:
					line += show(v)
				case *float64:
					line += show(v)
				}
			}
			got = append(got, line+fmt.Sprint(null, b))
			return err
		})(d.Query(ctx, "SELECT i, t, b, o, f, b IS NULL FROM kinds ORDER BY pos"))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"nil nil nil nil true []", "-5 ü'\"\\,{}NULL true -0.5 false [0 255]", "4611686018427387904  false 1e+300 false []",
			"0 pointed nil 0 true []", "7 nil true nil false [120]", "8 named true nil false [121]", `9 {"k":1} true nil true []`,
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("found\n%s\nexpected\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}, kinds)
}

func show[T any](v *T) string {
	if v == nil {
		return "nil "
	}
	return fmt.Sprint(*v) + " "
}

func TestWriteNamesWhatFailed(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		orphan := errors.New("orphan")
		if err := d.Write(ctx, func(w *db.Batch) error {
			w.Rows(kindRows, [][]any{{0, 1, 1, "a", []byte("b"), true, nil}})
			w.Do("INSERT INTO latest (id, pos) VALUES ('x', 1)")
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		for constraint, fn := range map[string]func(w *db.Batch){
			"kinds kinds_pkey":     func(w *db.Batch) { w.Rows(kindRows, [][]any{{0, 1, 9, "z", nil, nil, nil}}) },
			"kinds kinds_text":     func(w *db.Batch) { w.Rows(kindRows, [][]any{{0, 2, 1, "a", nil, nil, nil}}) },
			"kinds kinds_some":     func(w *db.Batch) { w.Rows(kindRows, [][]any{{0, 2, 2, "a", []byte("b"), true, nil}}) },
			"latest latest_id_key": func(w *db.Batch) { w.Do("INSERT INTO latest (id, pos) VALUES ($1, $2)", "x", 2) },
			"fences fences_pkey":   func(w *db.Batch) { w.Must(1, "INSERT INTO fences (name, epoch, pos) VALUES ($1, 1, 1)", "a") },
		} {
			table, name, _ := strings.Cut(constraint, " ")
			write := d.Write(ctx, func(w *db.Batch) error { fn(w); return nil })
			read := d.Write(ctx, func(w *db.Batch) error {
				_, err := w.Tx()
				fn(w)
				return err
			})
			for how, err := range map[string]error{"collected": write, "in a transaction": read} {
				u, ok := errors.AsType[*db.UniqueError](err)
				if !ok || u.Table != table || u.Constraint != name || !db.IsUnique(err) || !db.IsUniqueOn(err, name) || db.IsUniqueOn(err, "other") {
					t.Errorf("%s %s: %v", constraint, how, err)
				}
			}
		}
		_, err := d.Exec(ctx, "INSERT INTO latest (id, pos) VALUES ('x', 1)")
		if !db.IsUniqueOn(err, "latest_id_key") {
			t.Errorf("Exec: %v", err)
		}
		if err := d.QueryRow(ctx, "INSERT INTO latest (id, pos) VALUES ('x', 1) RETURNING pos").Scan(new(int)); !db.IsUniqueOn(err,
			"latest_id_key") {
			t.Errorf("QueryRow: %v", err)
		}
		for _, tx := range []bool{false, true} {
			write := func(fn func(w *db.Batch)) error {
				return d.Write(ctx, func(w *db.Batch) error {
					if tx {
						if _, err := w.Tx(); err != nil {
							return err
						}
					}
					fn(w)
					return nil
				})
			}
			if err := write(func(w *db.Batch) { w.Must(2, "UPDATE fences SET pos = 1 WHERE epoch = $1", 2) }); !errors.Is(err, db.ErrFence) {
				t.Errorf("a lost fence: %v", err)
			}
			if err := write(func(w *db.Batch) { w.Must(1, "UPDATE fences SET pos = 1") }); !errors.Is(err, db.ErrFence) {
				t.Errorf("more rows than one: %v", err)
			}
			if err := write(func(w *db.Batch) {
				w.Must(2, "SELECT 1 FROM fences WHERE epoch = $1", 1)
				w.Must(0, "DELETE FROM fences WHERE FALSE")
			}); err != nil {
				t.Errorf("fences that hold: %v", err)
			}
			if err := write(func(w *db.Batch) { w.Require(orphan, 0, "SELECT name FROM fences") }); !errors.Is(err, orphan) {
				t.Errorf("a requirement: %v", err)
			}
		}
	}, kinds)
}

func TestWriteThatReads(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		runs := 0
		add := func(fail error) error {
			return d.Write(ctx, func(w *db.Batch) error {
				runs++
				advance(w, "a", 1, 3)
				w.Rows(latestRows, [][]any{{"n", 1}})
				tx, err := w.Tx()
				if err != nil {
					return err
				}
				var n int
				if err := tx.QueryRow(ctx, "SELECT pos FROM latest WHERE id = $1", "n").Scan(&n); err != nil {
					return err
				}
				w.Rows(latestRows, [][]any{{"m", n + 41}})
				return fail
			})
		}
		if err := add(errors.New("mine")); err == nil || err.Error() != "mine" {
			t.Errorf("an error after reading: %v", err)
		}
		if got := content(t, d); got != "a1.0 b1.0; ; " {
			t.Errorf("an undone write left %s", got)
		}
		if err := add(nil); err != nil || runs != 4 {
			t.Errorf("%v after %d runs", err, runs)
		}
		if got := content(t, d); got != "a1.3 b1.0; ; m42 n1" {
			t.Errorf("found %s", got)
		}
	}, kinds)
}

func TestWritesAtOnceAllHappen(t *testing.T) {
	run := func(t *testing.T, url string) {
		dbtest.Open(t, url, kinds)
		params := map[string]string{"deadlock_timeout": "5ms"}
		d, err := db.Open(t.Context(), url, db.Options{Params: params})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		var wg sync.WaitGroup
		for n := range 6 {
			wg.Go(func() {
				for i := range 20 {
					err := d.Write(context.Background(), func(w *db.Batch) error {
						if i%4 == 0 { // the two orders of locks make deadlocks
							advance(w, string(rune('a'+n%2)), 1, 1)
							advance(w, string(rune('b'-n%2)), 1, 1)
						}
						rows := make([][]any, 1+i)
						for j := range rows {
							rows[j] = []any{n, i*100 + j, nil, nil, nil, nil, nil}
						}
						w.Rows(kindRows, rows)
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := names(t, d, "SELECT COUNT(*) FROM kinds"); got != "1260" {
			t.Errorf("%s rows, expected 1260", got)
		}
	}
	t.Run("sqlite", func(t *testing.T) { run(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db")) })
	t.Run("postgres", func(t *testing.T) { run(t, enginestest.TestPostgres(t)) })
}

// The function of the fences is in any schema that is migrated or restored.
func TestFencesHoldInEverySchema(t *testing.T) {
	url := enginestest.TestPostgres(t)
	first := dbtest.Open(t, url, kinds)
	for schema, build := range map[string]func(d *db.DB) error{
		"migrated": func(d *db.DB) error { return db.Migrate(t.Context(), d, slog.New(slog.DiscardHandler), kinds) },
		"restored": func(d *db.DB) error {
			return d.Tx(t.Context(), func(tx *db.Tx) error {
				_, err := db.Build(t.Context(), tx, map[string]int64{"test": 1}, kinds)
				return err
			})
		},
	} {
		if _, err := first.Exec(t.Context(), "CREATE SCHEMA "+schema); err != nil {
			t.Fatal(err)
		}
		d, err := db.Open(t.Context(), url, db.Options{Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if err := build(d); err != nil {
			t.Fatal(err)
		}
		err = d.Write(t.Context(), func(w *db.Batch) error {
			w.Do("INSERT INTO latest (id, pos) VALUES ('x', 1)")
			w.Must(2, "UPDATE latest SET pos = 2")
			return nil
		})
		if !errors.Is(err, db.ErrFence) || names(t, d, "SELECT id FROM latest") != "" {
			t.Errorf("%s: %v", schema, err)
		}
		if got := names(t, d, "SELECT COUNT(*) FROM pg_proc WHERE proname = 'lyceum_fence' AND pronamespace = $1::regnamespace",
			schema); got != "1" {
			t.Errorf("%s: %s functions", schema, got)
		}
	}
}
