package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// ErrNoRows is what a Row's Scan returns when the query found nothing.
var ErrNoRows = sql.ErrNoRows

// Querier runs single statements: a *DB outside a transaction or a *Tx inside one.
type Querier interface {
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
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
}

// DB is an open database. It is safe for concurrent use.
type DB struct {
	engine
	opts  Options
	texts sync.Map // SQL text as written -> as the engine takes it
}

// engine is what differs between SQLite and PostgreSQL.
type engine interface {
	readPool() *sql.DB
	writePool() *sql.DB
	name() string
	translate(query string) string
	args(args []any) []any
	maxParams() int
	close() error
}

// Open connects to "sqlite:FILE" or "postgres://…" and checks the connection.
func Open(ctx context.Context, url string, o Options) (*DB, error) {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	var e engine
	var err error
	switch {
	case strings.HasPrefix(url, "sqlite:"):
		e, err = openSQLite(strings.TrimPrefix(url, "sqlite:"), o)
	case strings.HasPrefix(url, "postgres://"), strings.HasPrefix(url, "postgresql://"):
		e, err = openPostgres(url, o)
	default:
		return nil, errors.New("database address: expected sqlite:FILE or postgres://user:password@host/name")
	}
	if err != nil {
		return nil, err
	}
	d := &DB{engine: e, opts: o}
	if err := e.writePool().PingContext(ctx); err != nil {
		_ = e.close()
		return nil, fmt.Errorf("open %s database: %w", e.name(), err)
	}
	return d, nil
}

// Close ends all connections.
func (d *DB) Close() error { return d.close() }

// Postgres tells whether the engine is PostgreSQL. Only dialect leaves ask, and a test counts them.
func (d *DB) Postgres() bool { return d.name() == "postgres" }

func (d *DB) text(query string) string {
	if t, ok := d.texts.Load(query); ok {
		return t.(string)
	}
	t := d.translate(query)
	if len(query) < 8192 { // bulk statements of odd lengths are not kept
		d.texts.Store(query, t)
	}
	return t
}

func (d *DB) observe() {
	if d.opts.Observe != nil {
		d.opts.Observe(1)
	}
}

// Query runs a statement that returns rows, on a reader connection.
func (d *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	d.observe()
	return d.readPool().QueryContext(ctx, d.text(query), d.args(args)...)
}

// QueryRow runs a statement that returns at most one row, on a reader connection.
func (d *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	d.observe()
	return d.readPool().QueryRowContext(ctx, d.text(query), d.args(args)...)
}

// Exec runs one statement in a transaction of its own.
func (d *DB) Exec(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = d.retry(ctx, func() error {
		d.observe()
		res, err := d.writePool().ExecContext(ctx, d.text(query), d.args(args)...)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
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
	return d.retry(ctx, func() error {
		t, err := d.writePool().BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err := fn(&Tx{d: d, tx: t}); err != nil {
			_ = t.Rollback() // the cause is err
			return err
		}
		if err := t.Commit(); err != nil {
			if refused(err) {
				return err
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
	wait := 2 * time.Millisecond
	for try := 0; ; try++ {
		err := fn()
		if err == nil || try == 8 || !isRetryable(err) {
			return err
		}
		if d.opts.Retry != nil {
			d.opts.Retry(err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		wait *= 2
	}
}

// Tx is an open write transaction.
type Tx struct {
	d  *DB
	tx *sql.Tx
}

// Query runs a statement that returns rows.
func (t *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	t.d.observe()
	return t.tx.QueryContext(ctx, t.d.text(query), t.d.args(args)...)
}

// QueryRow runs a statement that returns at most one row.
func (t *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	t.d.observe()
	return t.tx.QueryRowContext(ctx, t.d.text(query), t.d.args(args)...)
}

// Exec returns the number of rows that the statement changed.
func (t *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	t.d.observe()
	res, err := t.tx.ExecContext(ctx, t.d.text(query), t.d.args(args)...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
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
	chunk := max(1, t.d.maxParams()/width)
	for len(rows) > 0 {
		n := min(chunk, len(rows))
		args := make([]any, 0, n*width)
		for _, row := range rows[:n] {
			if len(row) != width {
				return fmt.Errorf("bulk insert: expected %d values in each row, found %d", width, len(row))
			}
			args = append(args, row...)
		}
		if _, err := t.Exec(ctx, before+valuesList(n, width)+after, args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

type shape struct{ rows, width int }

var valueLists sync.Map // shape -> string, for the small shapes that come again and again

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
	if rows <= 64 {
		valueLists.Store(key, s)
	}
	return s
}

// Placeholders is "$1,$2,…" for n values, for lists that = ANY can not hold, such as bytes.
func Placeholders(n int) string {
	return strings.TrimSuffix(strings.TrimPrefix(valuesList(1, n), "VALUES ("), ")")
}
