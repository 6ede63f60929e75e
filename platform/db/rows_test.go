package db_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
)

func TestResultsAreReadWhole(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		if err := d.Bulk(ctx, "INSERT INTO items (id, name, flag) VALUES ?", [][]any{
			{1, "a", true},
			{2, "b", false},
			{3, "c", true},
		}); err != nil {
			t.Fatal(err)
		}
		texts, err := db.Texts(d.Query(ctx, "SELECT name FROM items ORDER BY id DESC"))
		if err != nil || !slices.Equal(texts, []string{"c", "b", "a"}) {
			t.Errorf("texts: %v, %v", texts, err)
		}
		both := func(row db.Row) (s string, err error) {
			var id int
			err = row.Scan(&id, &s)
			return fmt.Sprint(id, s), err
		}
		list, err := db.List(both)(d.Query(ctx, "SELECT id, name FROM items ORDER BY id"))
		if err != nil || !slices.Equal(list, []string{"1a", "2b", "3c"}) {
			t.Errorf("list: %v, %v", list, err)
		}
		if one, err := both(d.QueryRow(ctx, "SELECT id, name FROM items WHERE id = 2")); err != nil || one != "2b" {
			t.Errorf("one row: %q, %v", one, err)
		}
		byName, err := db.Map[string, int64](d.Query(ctx, "SELECT name, id FROM items"))
		if err != nil || !maps.Equal(byName, map[string]int64{"a": 1, "b": 2, "c": 3}) {
			t.Errorf("map: %v, %v", byName, err)
		}
		byFlag, err := db.Groups[bool, string](d.Query(ctx, "SELECT flag, name FROM items ORDER BY id"))
		if err != nil || len(byFlag) != 2 || !slices.Equal(byFlag[true], []string{"a", "c"}) || !slices.Equal(byFlag[false], []string{"b"}) {
			t.Errorf("groups: %v, %v", byFlag, err)
		}
		if none, err := db.Texts(d.Query(ctx, "SELECT name FROM items WHERE id > 9")); none != nil || err != nil {
			t.Errorf("no rows: %#v, %v", none, err)
		}
	}, items)
}

func TestAnErrorEndsAResult(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		if err := d.Bulk(ctx, "INSERT INTO items (id, name) VALUES ?", [][]any{{1, "a"}, {2, nil}, {3, "c"}}); err != nil {
			t.Fatal(err)
		}
		if list, err := db.Texts(d.Query(ctx, "SELECT name FROM items ORDER BY id")); err == nil || list != nil {
			t.Errorf("a column that does not fit: %v, %v", list, err)
		}
		if list, err := db.Texts(d.Query(ctx, "SELECT nothing FROM items")); err == nil || list != nil {
			t.Errorf("a query that fails: %v, %v", list, err)
		}
		// A transaction has one connection: it goes on only when the result before is closed.
		err := d.Tx(ctx, func(tx *db.Tx) error {
			seen, stop := 0, errors.New("stop")
			err := db.Each(func(db.Row) error {
				seen++
				return stop
			})(tx.Query(ctx, "SELECT id FROM items"))
			if !errors.Is(err, stop) || seen != 1 {
				t.Errorf("%d rows seen, %v", seen, err)
			}
			_, err = tx.Exec(ctx, "DELETE FROM items")
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}, items)
}
