package hostiletest_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"lyceum/fleettest"
	"lyceum/platform/db"
)

// moving are tables that change by themselves: heartbeats, and what is derived from events in the background.
var moving = []string{
	"machines",
	"leases",
	"parked_rows",
	"account_news",
	"search_positions",
	"search_texts",
	"search_people",
	"search_rooms",
	"push_outbox",
	"presence",
	"key_count_changes",
	"migrations",
	"schema_migrations",
	"to_device_txns",
}

// movingColumns tell when and from where a device was seen.
var movingColumns = []string{"seen", "user_agent", "epoch", "expires"}

// base reads the database of a process.
type base struct {
	t      *testing.T
	db     *db.DB
	tables []string
	texts  map[string]string // table: query
}

func openBase(t *testing.T, a *fleettest.Alone) *base {
	t.Helper()
	d, err := db.Open(t.Context(), a.Database, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	list := `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name`
	columns := `SELECT name FROM pragma_table_info($1) ORDER BY name`
	if strings.HasPrefix(a.Database, "postgres") {
		list = `SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY table_name`
		columns = `SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = $1
			ORDER BY column_name`
	}
	b := &base{t: t, db: d, texts: map[string]string{}}
	all, err := db.Texts(d.Query(t.Context(), list))
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range all {
		if slices.Contains(moving, table) {
			continue
		}
		names, err := db.Texts(d.Query(t.Context(), columns, table))
		if err != nil {
			t.Fatal(err)
		}
		var parts []string
		for _, name := range names {
			if !slices.ContainsFunc(movingColumns, func(m string) bool { return strings.Contains(name, m) }) {
				parts = append(parts, `COALESCE(CAST("`+name+`" AS TEXT), '')`)
			}
		}
		if len(parts) > 0 {
			b.tables = append(b.tables, table)
			b.texts[table] = "SELECT " + strings.Join(parts, " || '|' || ") + ` FROM "` + table + `"`
		}
	}
	if len(b.tables) < 30 {
		t.Fatalf("found the tables %v only", b.tables)
	}
	return b
}

// dump gives all rows, by table.
func (b *base) dump() map[string][]string {
	b.t.Helper()
	out := map[string][]string{}
	for _, table := range b.tables {
		rows, err := db.Texts(b.db.Query(b.t.Context(), b.texts[table]))
		if err != nil {
			b.t.Fatalf("%s: %v", table, err)
		}
		slices.Sort(rows)
		out[table] = rows
	}
	return out
}

// settled is dump when what happens in the background is over.
func (b *base) settled() map[string][]string {
	b.t.Helper()
	before := b.dump()
	for range 150 {
		time.Sleep(100 * time.Millisecond)
		var left int // of what changes of accounts leave to be done
		if err := b.db.QueryRow(b.t.Context(), `SELECT COUNT(*) FROM account_news`).Scan(&left); err != nil {
			b.t.Fatal(err)
		}
		now := b.dump()
		if left == 0 && len(changes(before, now)) == 0 {
			return now
		}
		before = now
	}
	b.t.Fatal("the database does not come to rest")
	return nil
}

// changes names the rows that two dumps do not share.
func changes(before, after map[string][]string) []string {
	var out []string
	for table, rows := range after {
		has := map[string]int{}
		for _, row := range before[table] {
			has[row]++
		}
		for _, row := range rows {
			if has[row]--; has[row] < 0 {
				out = append(out, fmt.Sprintf("+ %s: %.300s", table, row))
			}
		}
		for row, n := range has {
			if n > 0 {
				out = append(out, fmt.Sprintf("- %s: %.300s", table, row))
			}
		}
	}
	ended := func(line string) bool { return strings.HasPrefix(line, "+ typing: ") && strings.Contains(line, "[]") }
	if slices.ContainsFunc(out, ended) { // somebody's time was over meanwhile
		out = slices.DeleteFunc(out, func(line string) bool { return strings.HasPrefix(line[2:], "typing: ") })
	}
	slices.Sort(out)
	return out
}

// about keeps the changes that name one of some things.
func about(changed []string, names ...string) []string {
	return slices.DeleteFunc(slices.Clone(changed), func(line string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(line, name) })
	})
}
