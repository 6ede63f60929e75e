package db_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
)

var benchTables = files(`
CREATE TABLE leases (name TEXT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, pos BIGINT NOT NULL);
CREATE TABLE events (shard BIGINT NOT NULL, pos BIGINT NOT NULL, room TEXT NOT NULL, id TEXT NOT NULL, ts BIGINT NOT NULL, json
BYTEA NOT NULL, txn TEXT, PRIMARY KEY (shard, pos));
CREATE UNIQUE INDEX events_id ON events (id);
CREATE INDEX events_ts ON events (room, ts);
CREATE TABLE relations (target TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (target, id));
INSERT INTO leases VALUES ('a', 1, 0);`)

var benchEvents = &db.Table{Name: "events", Columns: []db.Column{
	{Name: "shard", Kind: db.Integer},
	{Name: "pos", Kind: db.Integer},
	{Name: "room", Kind: db.Text},
	{Name: "id", Kind: db.Text},
	{Name: "ts", Kind: db.Integer},
	{Name: "json", Kind: db.Bytes},
	{Name: "txn", Kind: db.Text},
}}

var benchRelations = &db.Table{
	Name: "relations", Columns: []db.Column{{Name: "target", Kind: db.Text}, {Name: "id", Kind: db.Text}},
	Conflict: "ON CONFLICT (target, id) DO NOTHING",
}

// BenchmarkWrite is a group commit: the fence, messages, and a relation for every fifth of them.
func BenchmarkWrite(b *testing.B) {
	ctx := context.Background()
	const advance = "UPDATE leases SET pos = $1 WHERE name = $2 AND epoch = $3"
	for _, engine := range []string{"sqlite", "postgres"} {
		url := "sqlite:" + filepath.Join(b.TempDir(), "bench.db")
		if engine == "postgres" {
			url = enginestest.TestPostgres(b)
		}
		d := dbtest.Open(b, url, benchTables)
		pos := 0
		for _, n := range []int{1, 16, 64} {
			rows := func() (events, relations [][]any) {
				for range n {
					pos++
					id := fmt.Sprintf("$%043d", pos)
					events = append(events, []any{pos % 16, pos, "!room:here.test", id, pos, make([]byte, 700), id})
					if pos%5 == 0 {
						relations = append(relations, []any{"$target", id})
					}
				}
				return events, relations
			}
			b.Run(fmt.Sprintf("%s/%d/tx", engine, n), func(b *testing.B) {
				defer cpu(b)()
				for range b.N {
					events, relations := rows()
					err := d.Tx(ctx, func(tx *db.Tx) error {
						if _, err := tx.Exec(ctx, advance, pos, "a", 1); err != nil {
							return err
						}
						if err := manyRows(ctx, tx, "INSERT INTO events (shard, pos, room, id, ts, json, txn) VALUES ", "", events); err != nil {
							return err
						}
						return manyRows(ctx, tx, "INSERT INTO relations (target, id) VALUES ", " ON CONFLICT (target, id) DO NOTHING", relations)
					})
					if err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(fmt.Sprintf("%s/%d/write", engine, n), func(b *testing.B) {
				defer cpu(b)()
				for range b.N {
					events, relations := rows()
					err := d.Write(ctx, func(w *db.Batch) error {
						w.Must(1, advance, pos, "a", 1)
						w.Rows(benchEvents, events)
						w.Rows(benchRelations, relations)
						return nil
					})
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// manyRows is one statement with all rows.
func manyRows(ctx context.Context, tx *db.Tx, before, after string, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	var text strings.Builder
	var args []any
	for i, row := range rows {
		if i > 0 {
			text.WriteByte(',')
		}
		for j := range row {
			text.WriteString([]string{"($", ",$"}[min(j, 1)])
			text.WriteString(strconv.Itoa(len(args) + j + 1))
		}
		text.WriteByte(')')
		args = append(args, row...)
	}
	_, err := tx.Exec(ctx, before+text.String()+after, args...)
	return err
}

// cpu reports the time that this process's cores spent: with SQLite all of it, with PostgreSQL the client's part.
func cpu(b *testing.B) func() {
	spent := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin := spent()
	return func() { b.ReportMetric(float64((spent()-begin).Microseconds())/float64(b.N), "cpu-µs/op") }
}
