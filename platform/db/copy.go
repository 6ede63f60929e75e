package db

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// Kind is what a column holds, alike in both engines.
type Kind string

// The kinds of columns that migrations use.
const (
	Integer Kind = "integer"
	Text    Kind = "text"
	Bytes   Kind = "bytes"
	Bool    Kind = "bool"
	Float   Kind = "float"
)

// Column is a column of a table.
type Column struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
}

// Table is a table as it is in the database, or the part of one that Batch.Rows fills: then it is declared once, as a
// variable of a package.
type Table struct {
	Name     string   `json:"name"`
	Columns  []Column `json:"columns"` // in the order of the table
	Conflict string   `json:"-"`       // the clause ON CONFLICT …, or ""
}

// Columns reads "name kind, name kind, …", the columns of a Table that a package declares. It panics on a kind that is
// none: that is a mistake in the program.
func Columns(list string) []Column {
	var out []Column
	for part := range strings.SplitSeq(list, ",") {
		name, kind, _ := strings.Cut(strings.TrimSpace(part), " ")
		if _, ok := postgresTypes[Kind(kind)]; !ok {
			panic("column " + name + ": expected a kind such as integer or text, found " + kind)
		}
		out = append(out, Column{name, Kind(kind)})
	}
	return out
}

func (t *Table) names() string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = c.Name
	}
	return strings.Join(names, ", ")
}

// Snapshot runs fn in one snapshot of the database: its statements do not see later commits. fn only reads. It is not run again.
func (d *DB) Snapshot(ctx context.Context, fn func(q Querier) error) error {
	turn, err := d.readers.enter(ctx)
	if err != nil {
		return err
	}
	defer turn.leave()
	// SQLite in WAL mode gives a transaction a snapshot at its first statement, whatever the isolation level.
	t, err := d.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
	if err != nil {
		return err
	}
	defer func() { _ = t.Rollback() }() // it changed nothing
	return fn(&Tx{d: d, tx: t})
}

// Tables finds the tables of the schema, by name.
func (d *DB) Tables(ctx context.Context, q Querier) ([]Table, error) {
	query := `SELECT m.name, c.name, c.type FROM sqlite_master m JOIN pragma_table_info(m.name) c
		WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY m.name, c.cid`
	if d.Postgres() {
		query = `SELECT c.table_name, c.column_name, c.data_type FROM information_schema.columns c
			JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
			WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE'
			ORDER BY c.table_name COLLATE "C", c.ordinal_position`
	}
	var out []Table
	err := Each(func(row Row) error {
		var table, column, declared string
		if err := row.Scan(&table, &column, &declared); err != nil {
			return err
		}
		if len(out) == 0 || out[len(out)-1].Name != table {
			out = append(out, Table{Name: table})
		}
		t := &out[len(out)-1]
		t.Columns = append(t.Columns, Column{column, kinds[strings.ToUpper(declared)]})
		return nil
	})(q.Query(ctx, query))
	return out, err
}

// kinds are the types of columns as the engines name them; others are the empty Kind.
var kinds = map[string]Kind{
	"BIGINT": Integer, "TEXT": Text, "BYTEA": Bytes, "BOOLEAN": Bool, "DOUBLE PRECISION": Float,
}

// Known gives for each domain the number of its newest step.
func Known(sets ...Migrations) (map[string]int64, error) {
	out := map[string]int64{}
	for _, set := range sets {
		steps, err := readSteps(set)
		if err != nil {
			return nil, err
		}
		out[set.Domain] = int64(len(steps))
	}
	return out, nil
}

// Applied gives for each domain the newest step that the database has.
func Applied(ctx context.Context, q Querier) (map[string]int64, error) {
	return Map[string, int64](q.Query(ctx, "SELECT domain, MAX(version) FROM migrations GROUP BY domain"))
}

// Build makes, inside a transaction, the tables that the given steps of each domain made, in a schema that
// has none of them. Processes that start wait until the transaction ends. The statements about indexes are
// returned, to be run when the tables are filled: that is faster.
func Build(ctx context.Context, tx *Tx, steps map[string]int64, sets ...Migrations) (indexes []string, err error) {
	if tx.d.Postgres() {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
			return nil, err
		}
	}
	for _, stmt := range append(tx.d.prelude(), migrationsTable, needsTable) {
		if _, err := tx.Exec(ctx, stmt); err != nil {
			return nil, err
		}
	}
	for _, set := range sets {
		all, err := readSteps(set)
		if err != nil {
			return nil, err
		}
		if steps[set.Domain] > int64(len(all)) {
			return nil, fmt.Errorf("schema of %s: expected at most step %d, found %d: use a newer version", set.Domain, len(all), steps[set.Domain])
		}
		for _, s := range all[:steps[set.Domain]] {
			later, err := buildStep(ctx, tx, set.Domain, s)
			if err != nil {
				return nil, fmt.Errorf("migration %s %04d_%s: %w", set.Domain, s.version, s.title, err)
			}
			indexes = append(indexes, later...)
		}
	}
	return indexes, nil
}

func buildStep(ctx context.Context, tx *Tx, domain string, s step) (indexes []string, err error) {
	_, err = tx.Exec(ctx, "INSERT INTO migrations (domain, version, title, applied_ms) VALUES ($1, $2, $3, $4)", domain, s.version,
		s.title, time.Now().UnixMilli())
	if err != nil {
		return nil, err
	}
	if first, _, _ := strings.Cut(s.sql, "\n"); strings.HasPrefix(first, needsLine) {
		needs := strings.TrimSpace(strings.TrimPrefix(first, needsLine))
		if _, err := tx.Exec(ctx, "INSERT INTO migration_needs (domain, version, needs) VALUES ($1, $2, $3)", domain, s.version,
			needs); err != nil {
			return nil, err
		}
	}
	for _, stmt := range splitStatements(s.sql) {
		words := strings.Fields(strings.ToUpper(stmt))
		if len(words) > 2 && (words[1] == "INDEX" || words[1] == "UNIQUE" && words[2] == "INDEX") {
			indexes = append(indexes, stmt)
			continue
		}
		if _, err := tx.Exec(ctx, stmt); err != nil {
			return nil, err
		}
	}
	return indexes, nil
}
