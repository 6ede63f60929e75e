package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"lyceum/platform/backoff"
)

// ErrNoRows is what a Row's Scan returns when the query found nothing.
var ErrNoRows = sql.ErrNoRows

// Querier runs single statements: a *DB outside a transaction or a *Tx inside one.
type Querier interface {
	Query(ctx context.Context, query string, args ...any) (*Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) Row
	// Exec returns the number of rows that the statement changed.
	Exec(ctx context.Context, query string, args ...any) (int64, error)
	// Bulk runs "INSERT INTO t (a, b) VALUES ? ON CONFLICT …": the ? after VALUES becomes all rows. It
	// takes one statement per few thousand values and nothing at all for no rows.
	Bulk(ctx context.Context, query string, rows [][]any) error
}

// Options tunes the pools. Zero values mean the defaults in parentheses.
type Options struct {
	Readers int                  // most connections that read (SQLite 4, PostgreSQL 16)
	Schema  string               // PostgreSQL: search_path; "" keeps the server's
	Observe func(statements int) // called once per statement sent, for tests and metrics; may be nil
	Retry   func(err error)      // called for each retried transaction; may be nil
	Timeout time.Duration        // longest a statement may take (30 s)
	Params  map[string]string    // PostgreSQL: further connection parameters
	Driver  string               // SQLite: name of the registered driver ("sqlite"), for tests that break it
	Own     bool                 // refuse a database with the tables of another program (ErrForeign), before anything of it changes
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	engine
	read, write *sql.DB // PostgreSQL: the same
	readers     *gate   // before read
	writers     *gate   // before write: that of the readers where they are the same
	opts        Options
	failed      func(err error) // called with the errors of statements; may be nil
}

// engine is what differs between SQLite and PostgreSQL.
type engine interface {
	name() string
	// text is a statement as the engine takes it, list a slice of strings or integers.
	text(query string) string
	list(values any) any
	// bulk runs a statement with "VALUES ?" between before and after, insert adds rows with normalized values.
	bulk(ctx context.Context, t *Tx, before, after string, rows [][]any) error
	insert(ctx context.Context, t *Tx, table *Table, rows [][]any) error
	// send is the one transaction of a Write.
	send(ctx context.Context, d *DB, operations []operation) error
	// unique tells which unique key an error is about.
	unique(d *DB, err error) (*UniqueError, bool)
	// prelude are statements that each schema needs before the first migration.
	prelude() []string
}

// Open connects to "sqlite:FILE" or "postgres://…" and checks the connection.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	d := &DB{opts: o}
	var err error
	switch {
	case strings.HasPrefix(url, "sqlite:"):
		err = d.openSQLite(ctx, strings.TrimPrefix(url, "sqlite:"))
	case strings.HasPrefix(url, "postgres://"), strings.HasPrefix(url, "postgresql://"):
		err = d.openPostgres(url)
	default:
		return nil, errors.New("expected sqlite:FILE or postgres://user:password@host/name")
	}
	if err != nil {
		return nil, err
	}
	if err := d.firstConnection(ctx); err != nil {
		_ = d.Close()
		return nil, notOpened(strings.TrimPrefix(url, "sqlite:"), err)
	}
	if o.Own {
		if _, err := d.Ours(ctx); err != nil {
			_ = d.Close()
			return nil, err
		}
	}
	return d, nil
}

// firstConnection tries again while another process switches the same new file to WAL mode: then SQLite reports a lock at once, without
// waiting.
func (d *DB) firstConnection(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.opts.Timeout)
	defer cancel()
	for {
		err := d.write.PingContext(ctx)
		if err == nil || !isRetryable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Close ends all connections.
func (d *DB) Close() error { return errors.Join(d.read.Close(), d.write.Close()) }

// Postgres tells whether the engine is PostgreSQL. Only dialect leaves ask, and a test counts them.
func (d *DB) Postgres() bool { return d.name() == "postgres" }

// runner is a pool or a transaction.
type runner interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

func (d *DB) prepare(query string, args []any) (string, []any, error) {
	if d.opts.Observe != nil {
		d.opts.Observe(1)
	}
	args, _, err := d.arguments(args)
	return d.text(query), args, err
}

// prepareQuery is prepare for a statement that returns rows.
func (d *DB) prepareQuery(on runner, query string, args []any) (string, []any, error) {
	text, out, err := d.prepare(query, args)
	if _, bad := err.(*TextError); bad && on == runner(d.read) {
		out, _, err = d.arguments(stored(args))
	}
	return text, out, err
}

func (d *DB) query(ctx context.Context, on runner, query string, args []any) (*Rows, error) {
	text, args, err := d.prepareQuery(on, query, args)
	if err != nil {
		return nil, err
	}
	rows, err := asRows(on.QueryContext(ctx, text, args...))
	return rows, d.named(err)
}

// queryRow gives the turn back with the row.
func (d *DB) queryRow(ctx context.Context, on runner, t turn, query string, args []any) Row {
	text, args, err := d.prepareQuery(on, query, args)
	if err != nil {
		t.leave()
		return failedRow{err}
	}
	return &namedRow{d, t, on.QueryRowContext(ctx, text, args...)}
}

func (d *DB) exec(ctx context.Context, on runner, query string, args []any) (int64, error) {
	text, args, err := d.prepare(query, args)
	if err != nil {
		return 0, err
	}
	res, err := on.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, d.named(err)
	}
	return res.RowsAffected()
}

// failedRow is the row of a query that was not sent.
type failedRow struct{ err error }

// Scan gives the error.
func (r failedRow) Scan(...any) error { return r.err }

// namedRow is a row whose error says which unique key it is about.
type namedRow struct {
	d    *DB
	turn turn
	row  *sql.Row
}

// Scan is that of the row.
func (r *namedRow) Scan(into ...any) error {
	err := r.scan(into)
	return r.d.named(err)
}

func (r *namedRow) scan(into []any) error {
	defer r.turn.leave()
	return r.row.Scan(into...)
}

// Identity names the database: a copy of its contents elsewhere has another, a standby that takes over the same. "" for SQLite.
func (d *DB) Identity(ctx context.Context) (id string, err error) {
	if d.Postgres() {
		err = d.QueryRow(ctx, `SELECT concat_ws('/', s.system_identifier, d.oid, current_schema()) FROM pg_control_system() s, pg_database d
			WHERE d.datname = current_database()`).Scan(&id)
	}
	return id, err
}

// Query runs a statement that returns rows and changes nothing, on a reader connection. A text that can not be stored equals
// none that is.
func (d *DB) Query(ctx context.Context, query string, args ...any) (*Rows, error) {
	t, err := d.readers.enter(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := d.query(ctx, d.read, query, args)
	if err != nil {
		t.leave()
		return nil, err
	}
	rows.turn = t
	return rows, nil
}

// QueryRow is Query for at most one row.
func (d *DB) QueryRow(ctx context.Context, query string, args ...any) Row {
	t, err := d.readers.enter(ctx)
	if err != nil {
		return failedRow{err}
	}
	return d.queryRow(ctx, d.read, t, query, args)
}

// Exec runs one statement in a transaction of its own.
func (d *DB) Exec(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = d.endSessionOnBreak(ctx, func(ctx context.Context) error {
		return d.retry(ctx, func() error {
			turn, err := d.writers.enter(ctx)
			if err != nil {
				return err
			}
			defer turn.leave()
			n, err = d.exec(ctx, d.write, query, args)
			return err
		})
	})
	return n, err
}

// Bulk inserts many rows in a transaction of its own.
func (d *DB) Bulk(ctx context.Context, query string, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	return d.Tx(ctx, func(tx *Tx) error { return tx.Bulk(ctx, query, rows) })
}

// Tx runs fn in a write transaction and commits it. It runs fn again after a serialization failure, a
// deadlock or a busy database, so fn has no effects outside the transaction.
func (d *DB) Tx(ctx context.Context, fn func(tx *Tx) error) error {
	return d.endSessionOnBreak(ctx, func(ctx context.Context) error { return d.tx(ctx, fn) })
}

func (d *DB) tx(ctx context.Context, fn func(tx *Tx) error) error {
	return d.retry(ctx, func() error {
		turn, err := d.writers.enter(ctx)
		if err != nil {
			return err
		}
		defer turn.leave()
		t, err := d.write.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err := fn(&Tx{d: d, tx: t}); err != nil {
			_ = t.Rollback() // the cause is err
			return err
		}
		if err := t.Commit(); err != nil {
			if refused(err) {
				return d.named(err)
			}
			return &CommitError{err}
		}
		return nil
	})
}

// CommitError says that the transaction's work was done but its commit was not confirmed: it may or may
// not be durable.
type CommitError struct{ Err error }

func (e *CommitError) Error() string { return "commit not confirmed: " + e.Err.Error() }

// Unwrap gives the engine's error.
func (e *CommitError) Unwrap() error { return e.Err }

func (d *DB) retry(ctx context.Context, fn func() error) error {
	again := func(err error) bool {
		retry := isRetryable(err)
		if retry && d.opts.Retry != nil {
			d.opts.Retry(err)
		}
		return retry
	}
	return backoff.Retry(ctx, backoff.Backoff{First: 2 * time.Millisecond, Max: time.Second, Attempts: 9}, again, fn)
}

// Tx is an open write transaction.
type Tx struct {
	d  *DB
	tx *sql.Tx
}

// Query runs a statement that returns rows.
func (t *Tx) Query(ctx context.Context, query string, args ...any) (*Rows, error) {
	return t.d.query(ctx, t.tx, query, args)
}

// QueryRow runs a statement that returns at most one row.
func (t *Tx) QueryRow(ctx context.Context, query string, args ...any) Row {
	return t.d.queryRow(ctx, t.tx, turn{}, query, args)
}

// Exec returns the number of rows that the statement changed.
func (t *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	return t.d.exec(ctx, t.tx, query, args)
}

// Bulk inserts many rows; see Querier.
func (t *Tx) Bulk(ctx context.Context, query string, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	before, after, ok := strings.Cut(query, "VALUES ?")
	if !ok {
		return fmt.Errorf("bulk insert: expected \"VALUES ?\" in %q", query)
	}
	width := len(rows[0])
	if width == 0 {
		return errors.New("bulk insert: expected at least one value in each row")
	}
	for _, row := range rows {
		if len(row) != width {
			return fmt.Errorf("bulk insert: expected %d values in each row, found %d", width, len(row))
		}
	}
	return t.d.bulk(ctx, t, before, after, rows)
}

type shape struct{ rows, width int }

var valueLists sync.Map // shape -> string, for the 2,048 small shapes that come again and again

func valuesList(rows, width int) string {
	key := shape{rows, width}
	if s, ok := valueLists.Load(key); ok {
		return s.(string)
	}
	var b strings.Builder
	b.WriteString("VALUES ")
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('(')
		for j := range width {
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "$%d", i*width+j+1)
		}
		b.WriteByte(')')
	}
	s := b.String()
	if rows <= 64 && width <= 32 {
		valueLists.Store(key, s)
	}
	return s
}

// Placeholders is "$1,$2,…" for n values, for lists that = ANY can not hold, such as bytes.
func Placeholders(n int) string {
	return strings.TrimSuffix(strings.TrimPrefix(valuesList(1, n), "VALUES ("), ")")
}
