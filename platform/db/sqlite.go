package db

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// sqliteEngine keeps one connection that writes and a few that read, in WAL mode. Commits are synced to
// the disk: what was acknowledged survives the loss of power.
type sqliteEngine struct {
	texts   recent[string, string] // as written -> as the engine takes it
	inserts recent[*Table, string]

	mu         sync.Mutex
	statements map[string]*sql.Stmt // of the connection that writes, prepared by their text
}

// The most texts and prepared statements that are kept.
const (
	keptTexts      = 512
	keptStatements = 512
)

func (d *DB) openSQLite(ctx context.Context, path string) error {
	pragmas := url.Values{"_pragma": {
		"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
		"cache_size(-16000)", "temp_store(MEMORY)", "wal_autocheckpoint(4000)", "mmap_size(0)",
	}}
	if path == "" || strings.HasPrefix(path, ":memory:") {
		return errors.New("expected sqlite:FILE: a database in memory has no second connection, give a file in a temporary directory")
	}
	e := &sqliteEngine{statements: map[string]*sql.Stmt{}}
	e.texts.max, e.inserts.max = keptTexts, keptTexts
	d.engine = e
	if d.opts.Own {
		if err := d.refuseForeign(ctx, path); err != nil {
			return err
		}
	}
	if err := makePrivate(path); err != nil {
		return err
	}
	dsn := "file:" + escapePath.Replace(path)
	writeParams := url.Values{"_pragma": pragmas["_pragma"], "_txlock": {"immediate"}}
	driver := cmp.Or(d.opts.Driver, "sqlite")
	w, err := sql.Open(driver, dsn+"?"+writeParams.Encode())
	if err != nil {
		return err
	}
	w.SetMaxOpenConns(1)
	w.SetMaxIdleConns(1)
	r, err := sql.Open(driver, dsn+"?"+url.Values{"_pragma": pragmas["_pragma"]}.Encode())
	if err != nil {
		return err
	}
	readers := d.opts.Readers
	if readers == 0 {
		readers = 4
	}
	r.SetMaxOpenConns(readers)
	r.SetMaxIdleConns(readers)
	d.read, d.write, d.readers, d.writers = r, w, newGate(readers), newGate(1)
	return nil
}

func (e *sqliteEngine) name() string      { return "sqlite" }
func (e *sqliteEngine) prelude() []string { return nil }

// escapePath keeps the characters of a file's name that mean something in an address.
var escapePath = strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23")

var (
	anyList     = regexp.MustCompile(`= ANY\(\$(\d+)\)`)
	anyBytes    = regexp.MustCompile(`= ANY\(\$(\d+)::bytea\[\]\)`)
	unnest      = regexp.MustCompile(`unnest\(([^()]+)\) AS (\w+) \(([^()]+)\)`)
	placeholder = regexp.MustCompile(`\$(\d+)`)
	rowLock     = regexp.MustCompile(` FOR (SHARE|UPDATE)( SKIP LOCKED)?`)
)

func (e *sqliteEngine) text(query string) string {
	return e.texts.get(query, func() string { return translate(query) })
}

// translate turns lists into a table of JSON values, numbers the placeholders in SQLite's way and drops
// row locks: the one writer holds the whole file.
func translate(query string) string {
	query = unnest.ReplaceAllStringFunc(query, zip)
	query = anyBytes.ReplaceAllString(query, "IN (SELECT unhex(value) FROM json_each(?$1))")
	query = anyList.ReplaceAllString(query, "IN (SELECT value FROM json_each(?$1))")
	query = placeholder.ReplaceAllString(query, "?$1")
	return rowLock.ReplaceAllString(query, "")
}

// zip is "unnest($1::text[], $2::bigint[]) AS v (a, b)" with lists as JSON: a table of their elements side by side.
func zip(text string) string {
	m := unnest.FindStringSubmatch(text)
	params, names := strings.Split(m[1], ","), strings.Split(m[3], ",")
	columns := make([]string, len(names))
	for i, name := range names {
		param, _, _ := strings.Cut(strings.TrimSpace(params[i]), "::")
		columns[i] = "json_extract(" + param + ", '$[' || key || ']') AS " + strings.TrimSpace(name)
	}
	first, _, _ := strings.Cut(params[0], "::")
	return "(SELECT " + strings.Join(columns, ", ") + " FROM json_each(" + first + ")) AS " + m[2]
}

func (e *sqliteEngine) list(values any) any {
	if list, ok := values.([][]byte); ok {
		texts := make([]string, len(list))
		for i, b := range list {
			texts[i] = hex.EncodeToString(b)
		}
		values = texts
	}
	if reflect.ValueOf(values).Len() == 0 {
		return "[]"
	}
	list, _ := json.Marshal(values) // strings and integers can not fail
	return string(list)
}

// bulk runs the statement for one row after the other: prepared, that costs less than one with many rows, whose text is
// another for each number of rows.
func (e *sqliteEngine) bulk(ctx context.Context, t *Tx, before, after string, rows [][]any) error {
	query := before + valuesList(1, len(rows[0])) + after
	if len(rows) == 1 {
		_, err := t.Exec(ctx, query, rows[0]...)
		return err
	}
	rows = slices.Clone(rows)
	for i := range rows {
		var err error
		if rows[i], _, err = t.d.arguments(rows[i]); err != nil {
			return err
		}
	}
	return e.each(ctx, t, e.text(query), rows)
}

func (e *sqliteEngine) insertText(t *Table) string {
	return e.inserts.get(t, func() string {
		return translate("INSERT INTO " + t.Name + " (" + t.names() + ") " + valuesList(1, len(t.Columns)) + " " + t.Conflict)
	})
}

func (e *sqliteEngine) insert(ctx context.Context, t *Tx, table *Table, rows [][]any) error {
	return e.each(ctx, t, e.insertText(table), rows)
}

// each runs a statement of one row for each row, inside a transaction.
func (e *sqliteEngine) each(ctx context.Context, t *Tx, text string, rows [][]any) error {
	if t.d.opts.Observe != nil {
		t.d.opts.Observe(1)
	}
	stmt := e.kept(text)
	if stmt != nil {
		stmt = t.tx.StmtContext(ctx, stmt)
	} else {
		var err error
		if stmt, err = t.tx.PrepareContext(ctx, text); err != nil {
			return err
		}
		defer stmt.Close()
	}
	for _, row := range rows {
		if _, err := stmt.ExecContext(ctx, row...); err != nil {
			return t.d.named(err)
		}
	}
	return nil
}

func (e *sqliteEngine) kept(text string) *sql.Stmt {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.statements[text]
}

// statement prepares a text for the connection that writes, once. It is nil when enough others are kept.
func (e *sqliteEngine) statement(ctx context.Context, d *DB, text string) (*sql.Stmt, error) {
	if s := e.kept(text); s != nil {
		return s, nil
	}
	s, err := d.write.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if other := e.statements[text]; other != nil || len(e.statements) >= keptStatements {
		_ = s.Close() // nothing is lost with it
		return other, nil
	}
	e.statements[text] = s
	return s, nil
}

// send runs the operations one after the other: with a file there is no round trip to save.
func (e *sqliteEngine) send(ctx context.Context, d *DB, operations []operation) error {
	texts := make([]string, len(operations))
	statements := make([]*sql.Stmt, len(operations))
	for i, o := range operations {
		switch {
		case o.table != nil:
			texts[i] = e.insertText(o.table)
		case o.counts && !changes(o.query):
			texts[i] = e.text("SELECT COUNT(*) FROM (" + o.query + ") AS found")
		default:
			texts[i] = e.text(o.query)
		}
		var err error
		if statements[i], err = e.statement(ctx, d, texts[i]); err != nil {
			return err
		}
	}
	tx, err := d.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for i, o := range operations {
		if err := e.run(tx, statements[i], texts[i], o); err != nil {
			_ = tx.Rollback() // the cause is err
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return d.named(err)
		}
	}
	if err := tx.Commit(); err != nil {
		if refused(err) {
			return d.named(err)
		}
		return &CommitError{err}
	}
	return nil
}

// run takes no context: the context of the transaction ends it too, and watching it again would cost time for each statement.
func (e *sqliteEngine) run(tx *sql.Tx, stmt *sql.Stmt, text string, o operation) (err error) {
	if stmt != nil {
		stmt = tx.Stmt(stmt)
	} else if stmt, err = tx.Prepare(text); err != nil {
		return err
	}
	defer stmt.Close()
	var found int64
	switch {
	case o.table != nil:
		for _, row := range o.rows {
			if _, err := stmt.Exec(row...); err != nil {
				return err
			}
		}
		return nil
	case o.counts && !changes(o.query):
		err = stmt.QueryRow(o.args...).Scan(&found)
	default:
		var res sql.Result
		if res, err = stmt.Exec(o.args...); err == nil {
			found, err = res.RowsAffected()
		}
	}
	if err == nil && o.counts && found != o.n {
		err = o.refuse
	}
	return err
}

// failedKey finds the columns in "UNIQUE constraint failed: table.a, table.b (2067)", or an index on an expression.
var failedKey = regexp.MustCompile(`UNIQUE constraint failed: (?:index '([^']+)'|([^(]+?)(?: \(\d+\))?$)`)

// unique finds the name that PostgreSQL would give the constraint: SQLite tells only its columns.
func (e *sqliteEngine) unique(d *DB, err error) (*UniqueError, bool) {
	m := failedKey.FindStringSubmatch(err.Error())
	if m == nil {
		return nil, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var table, name, origin string
	if m[1] != "" {
		_ = d.read.QueryRowContext(ctx, "SELECT tbl_name FROM sqlite_master WHERE name = ?", m[1]).Scan(&table) // its name suffices
		return &UniqueError{table, m[1], err}, true
	}
	var columns []string
	for part := range strings.SplitSeq(m[2], ", ") {
		var column string
		table, column, _ = strings.Cut(part, ".")
		columns = append(columns, column)
	}
	found := d.read.QueryRowContext(ctx, `SELECT l.name, l.origin FROM pragma_index_list(?1) l WHERE l."unique" AND ?2 =
		(SELECT group_concat(i.name, ',') FROM (SELECT name FROM pragma_index_info(l.name) ORDER BY seqno) i)
		ORDER BY l.partial LIMIT 1`, table, strings.Join(columns, ",")).Scan(&name, &origin)
	switch {
	case errors.Is(found, sql.ErrNoRows), origin == "pk": // a key that is the rowid is not in the list
		name = table + "_pkey"
	case origin == "u":
		name = table + "_" + strings.Join(columns, "_") + "_key"
	}
	return &UniqueError{table, name, err}, true
}
