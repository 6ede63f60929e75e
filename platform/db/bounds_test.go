package db

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"lyceum/platform/engines/enginestest"
)

func TestRecentKeepsWhatIsAskedForAgain(t *testing.T) {
	r := recent[int, string]{max: 10}
	made := 0
	get := func(key int) {
		if got := r.get(key, func() string { made++; return fmt.Sprint(key) }); got != fmt.Sprint(key) {
			t.Errorf("the value of %d is %s", key, got)
		}
	}
	for i := range 1000 {
		get(i)
		get(-1)
	}
	if made != 1001 || r.len() > 20 {
		t.Errorf("%d values were made and %d are kept", made, r.len())
	}
}

// Whatever shapes of statements come, what is kept of them is bounded.
func TestKeptStatementsAreBounded(t *testing.T) {
	run := func(t *testing.T, url string) *DB {
		ctx := context.Background()
		d, err := Open(ctx, url, Options{Readers: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		if err := Migrate(ctx, d, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Exec(ctx, "CREATE TABLE shapes (a BIGINT, b TEXT)"); err != nil {
			t.Fatal(err)
		}
		for i := range 700 {
			list, rows := make([]any, 1+i), make([][]any, 1+i%300)
			for j := range list {
				list[j] = j
			}
			for j := range rows {
				rows[j] = []any{j, "x"}
			}
			if _, err := Texts(d.Query(ctx, "SELECT b FROM shapes WHERE a IN ("+Placeholders(1+i)+") AND FALSE", list...)); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				if err := d.Bulk(ctx, "INSERT INTO shapes (a, b) VALUES ?", rows); err != nil {
					t.Fatal(err)
				}
			}
			err := d.Write(ctx, func(w *Batch) error {
				w.Do(fmt.Sprintf("DELETE FROM shapes WHERE FALSE AND a = %d", i))
				w.Must(0, fmt.Sprintf("SELECT 1 FROM shapes WHERE FALSE AND a = %d", i))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		kept := 0
		valueLists.Range(func(any, any) bool { kept++; return true })
		if kept > 64*32 {
			t.Errorf("%d lists of values are kept", kept)
		}
		return d
	}
	t.Run("sqlite", func(t *testing.T) {
		e := run(t, "sqlite:"+filepath.Join(t.TempDir(), "x.db")).engine.(*sqliteEngine)
		if n := e.texts.len(); n > 2*keptTexts {
			t.Errorf("%d texts are kept", n)
		}
		if n := len(e.statements); n > keptStatements {
			t.Errorf("%d statements are kept", n)
		}
	})
	t.Run("postgres", func(t *testing.T) {
		d := run(t, enginestest.TestPostgres(t))
		var n, bytes int
		if err := d.QueryRow(t.Context(), "SELECT COUNT(*), SUM(LENGTH(statement)) FROM pg_prepared_statements").Scan(&n,
			&bytes); err != nil || n > keptStatements+10 || bytes > 2<<20 {
			t.Errorf("%d statements of %d characters are prepared, %v", n, bytes, err)
		}
	})
}
