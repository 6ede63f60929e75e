package db

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgresEngine takes SQL as it is written, over one pool.
type postgresEngine struct {
	inserts  recent[*Table, string]
	readOnly atomic.Int64 // connections made before take no writes, in Unix nanoseconds
}

// unheard is how long the network to the database may be silent about something sent before the connection counts as
// broken. A database that is busy or paused is not meant: its machine confirms what it gets.
const unheard = 4 * time.Second

func (d *DB) openPostgres(url string) error {
	o := d.opts
	c, err := parseAddress(url)
	if err != nil {
		return err
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	// A database that can not be reached any more is found out within seconds: otherwise a statement waits for as long as
	// the kernel resends it, and no new connection is tried before.
	c.DialFunc = (&net.Dialer{
		Control:         giveUpAfter(unheard),
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: unheard, Interval: time.Second, Count: 3},
	}).DialContext
	c.StatementCacheCapacity = keptStatements
	c.RuntimeParams["application_name"] = "lyceum"
	c.RuntimeParams["statement_timeout"] = fmt.Sprint(o.Timeout.Milliseconds())
	// A paused process must not hold the row locks that keep its successor waiting. As long as a lease lives without a heartbeat
	// (lease.Options.TTL, 3 s; design/001).
	c.RuntimeParams["idle_in_transaction_session_timeout"] = "3000"
	if o.Schema != "" {
		c.RuntimeParams["search_path"] = o.Schema
	}
	for k, v := range o.Params {
		c.RuntimeParams[k] = v
	}
	c.Tracer = watch{}
	e := &postgresEngine{}
	pool := stdlib.OpenDB(*c, stdlib.OptionAfterConnect(made), stdlib.OptionResetSession(e.stillGood))
	n := o.Readers
	if n == 0 {
		n = 16
	}
	pool.SetMaxOpenConns(n)
	pool.SetMaxIdleConns(n)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	pool.SetConnMaxLifetime(time.Hour)
	e.inserts.max = keptTexts
	d.engine, d.read, d.write, d.failed = e, pool, pool, e.noteReadOnly
	d.readers = newGate(n)
	d.writers = d.readers
	return nil
}

// madeAt is the name under which a connection keeps when it was made.
const madeAt = "lyceum.made"

func made(ctx context.Context, c *pgx.Conn) error {
	c.PgConn().CustomData()[madeAt] = time.Now().UnixNano()
	return rememberSession(ctx, c)
}

// noteReadOnly drops all connections when one takes no writes, except those made in the last second: another server is, or will soon be,
// the primary.
func (e *postgresEngine) noteReadOnly(err error) {
	if !IsReadOnly(err) {
		return
	}
	now, last := time.Now().UnixNano(), e.readOnly.Load()
	if now-last > int64(time.Second) {
		e.readOnly.CompareAndSwap(last, now)
	}
}

// stillGood is asked before a connection is used again.
func (e *postgresEngine) stillGood(_ context.Context, c *pgx.Conn) error {
	if at, _ := c.PgConn().CustomData()[madeAt].(int64); at < e.readOnly.Load() {
		return driver.ErrBadConn // the pool makes another one
	}
	return nil
}

func (*postgresEngine) name() string         { return "postgres" }
func (*postgresEngine) text(q string) string { return q }
func (*postgresEngine) list(values any) any  { return values }

// The most values, and about the most bytes, of one statement of a bulk insert.
const (
	bulkParams = 16_000
	bulkBytes  = 16 << 20
)

func (*postgresEngine) bulk(ctx context.Context, t *Tx, before, after string, rows [][]any) error {
	width := len(rows[0])
	for len(rows) > 0 {
		var args []any
		n, size := 0, 0
		for n < len(rows) && (n == 0 || (n+1)*width <= bulkParams && size < bulkBytes) {
			_, bytes, err := t.d.arguments(rows[n])
			if err != nil {
				return err
			}
			args = append(args, rows[n]...)
			size += bytes
			n++
		}
		text := before + valuesList(n, width) + after
		if len(text) > 8192 {
			// It is not prepared, since each connection would keep many statements of this size.
			args = append([]any{pgx.QueryExecModeDescribeExec}, args...)
		}
		if _, err := t.Exec(ctx, text, args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// fence is the function that ends a batch when a statement changed another number of rows than it must: no count is read before the last
// statement.
const (
	fence = `CREATE OR REPLACE FUNCTION lyceum_fence(actual bigint, expected bigint) RETURNS boolean LANGUAGE plpgsql AS $$
		BEGIN
			IF actual = expected THEN RETURN TRUE; END IF;
			RAISE EXCEPTION 'expected % rows, found %', expected, actual USING ERRCODE = 'LY001';
		END $$`
	fenceCode = "LY001"
)

func (*postgresEngine) prelude() []string { return []string{fence} }

func (*postgresEngine) unique(_ *DB, err error) (*UniqueError, bool) {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return nil, false
	}
	return &UniqueError{pg.TableName, pg.ConstraintName, err}, true
}

// insertText is one text for each table, whatever the number of rows: with VALUES each number is another text, which
// each connection parses, plans and keeps.
func (e *postgresEngine) insertText(t *Table) string {
	return e.inserts.get(t, func() string {
		arrays := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			arrays[i] = fmt.Sprintf("$%d::%s[]", i+1, postgresTypes[c.Kind])
		}
		return "INSERT INTO " + t.Name + " (" + t.names() + ") SELECT * FROM unnest(" + strings.Join(arrays, ", ") + ") " + t.Conflict
	})
}

var postgresTypes = map[Kind]string{Integer: "bigint", Text: "text", Bytes: "bytea", Bool: "boolean", Float: "double precision"}

// array is one column of rows as an array of PostgreSQL; see pgtype.ArrayGetter.
type array struct {
	rows   [][]any
	column int
	kind   Kind
}

// Dimensions is part of pgtype.ArrayGetter.
func (a array) Dimensions() []pgtype.ArrayDimension {
	return []pgtype.ArrayDimension{{Length: int32(len(a.rows)), LowerBound: 1}}
}

// Index is part of pgtype.ArrayGetter.
func (a array) Index(i int) any { return a.rows[i][a.column] }

// IndexType is part of pgtype.ArrayGetter.
func (a array) IndexType() any {
	switch a.kind {
	case Integer:
		return int64(0)
	case Bytes:
		return []byte{}
	case Bool:
		return false
	case Float:
		return float64(0)
	}
	return ""
}

func arrays(t *Table, rows [][]any) []any {
	out := make([]any, len(t.Columns))
	for i, c := range t.Columns {
		out[i] = array{rows, i, c.Kind}
	}
	return out
}

func (e *postgresEngine) insert(ctx context.Context, t *Tx, table *Table, rows [][]any) error {
	_, err := t.Exec(ctx, e.insertText(table), arrays(table, rows)...)
	return err
}

// send sends all in one message up to one Sync, which is one transaction without BEGIN and COMMIT: the first error
// undoes all, and leaves no transaction that must be ended.
func (e *postgresEngine) send(ctx context.Context, d *DB, operations []operation) error {
	conn, err := d.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := false
	var failed error
	err = conn.Raw(func(c any) error {
		sent = true
		pg := c.(*stdlib.Conn).Conn()
		batch := &pgx.Batch{} // one can be sent only once
		for _, o := range operations {
			switch {
			case o.table != nil:
				batch.Queue(e.insertText(o.table), arrays(o.table, o.rows)...)
			case o.counts:
				batch.Queue(fenced(o.query, len(o.args)), append(o.args[:len(o.args):len(o.args)], o.n)...)
			default:
				batch.Queue(o.query, o.args...)
			}
		}
		results := pg.SendBatch(ctx, batch)
		at := 0
		for ; at < len(operations) && failed == nil; at++ {
			_, failed = results.Exec()
		}
		// Only Close waits for the answer to the Sync, which is the commit.
		if err := results.Close(); failed == nil {
			failed, at = err, 0
		}
		if failed != nil {
			var refuse error
			if at > 0 {
				refuse = operations[at-1].refuse
			}
			failed = outcome(failed, refuse, pg.IsClosed())
		}
		if pg.IsClosed() {
			return driver.ErrBadConn // the pool lets go of it
		}
		return nil
	})
	if sent {
		return d.named(failed)
	}
	return err
}

// outcome tells what an error of a batch means: nothing is stored, or nobody knows.
func outcome(err, refuse error, closed bool) error {
	var before pgx.ErrPreprocessingBatch
	pg, answered := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.As(err, &before), pgconn.SafeToRetry(err):
		return err // no statement was sent
	case closed, !answered:
		return &CommitError{err}
	case pg.Code == fenceCode && refuse != nil:
		return refuse
	}
	return err
}

// fenced is a statement that fails unless it changes, or gives, the number of rows in its last parameter.
func fenced(query string, args int) string {
	if changes(query) {
		query += " RETURNING 1"
	}
	return fmt.Sprintf("WITH found AS (%s) SELECT lyceum_fence((SELECT COUNT(*) FROM found), $%d::bigint)", query, args+1)
}
