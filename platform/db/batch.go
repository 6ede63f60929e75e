package db

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// MaxWrite is the most that a Write may send, in bytes of values.
const MaxWrite = 64 << 20

// ErrReads is what Batch.Tx returns while statements are only collected. Write then runs its function again in a
// transaction.
var ErrReads = errors.New("this write reads: it is run again in a transaction")

// ErrFence says that a statement of a Must did not change the expected number of rows, so that all was undone.
var ErrFence = errors.New("a statement changed another number of rows than it must")

// ErrTooLarge says that a write or a statement was refused for its size, before anything was sent.
var ErrTooLarge = errors.New("too many bytes for one write")

// Batch collects the statements of a Write. Its methods return no error: the first one is what Write returns.
type Batch struct {
	ctx   context.Context
	d     *DB
	tx    *Tx // set when the statements run at once
	steps []operation
	bytes int
	reads bool
	err   error
}

// operation is a statement, or the rows of a table.
type operation struct {
	table *Table
	rows  [][]any

	query  string
	args   []any
	counts bool // must change n rows, else the write fails with refuse
	n      int64
	refuse error
}

// Write runs all statements that fn collects as one transaction, in their order, and sends them to PostgreSQL as one message: one round
// trip. No result is looked at before the last statement; conditions are expressed by Must. It returns nil when all is durable. Otherwise
// nothing is stored, unless the error is a *CommitError: then it is not known whether the rows are stored. Further errors: *UniqueError,
// ErrFence or what a Require names, *TextError, ErrTooLarge, and errors for which IsUnavailable is true. It sends again after a
// serialization failure, a deadlock or a busy database.
//
// fn has no effects outside the batch: when it asks for a transaction it runs again.
func (d *DB) Write(ctx context.Context, fn func(w *Batch) error) error {
	w := &Batch{ctx: ctx, d: d}
	err := fn(w)
	switch {
	case w.err != nil:
		return w.err
	case w.reads && (err == nil || errors.Is(err, ErrReads)):
		return d.tx(ctx, func(tx *Tx) error {
			w := &Batch{ctx: ctx, d: d, tx: tx}
			if err := fn(w); w.err == nil {
				return err
			}
			return w.err
		})
	case err != nil:
		return err
	case len(w.steps) == 0:
		return nil
	}
	return d.retry(ctx, func() error {
		if d.opts.Observe != nil {
			d.opts.Observe(len(w.steps))
		}
		turn, err := d.writers.enter(ctx)
		if err != nil {
			return err
		}
		defer turn.leave()
		return d.send(ctx, d, w.steps)
	})
}

// Check tells whether fn collects what Write would send: it finds a *TextError, ErrTooLarge and errors of fn. Nothing
// is sent. What fn would do in a transaction is not known.
func (d *DB) Check(ctx context.Context, fn func(w *Batch) error) error {
	w := &Batch{ctx: ctx, d: d}
	if err := fn(w); w.err == nil && err != nil && !errors.Is(err, ErrReads) {
		return err
	}
	return w.err
}

// Rows inserts rows with the values of the table's columns, which may be nil. The caller must not change the rows afterwards.
func (w *Batch) Rows(t *Table, rows [][]any) {
	if len(rows) == 0 || w.err != nil {
		return
	}
	for _, row := range rows {
		n, err := t.normalize(row)
		if err != nil {
			w.err = err
			return
		}
		w.bytes += n
	}
	if w.bounded() && w.tx != nil {
		w.err = w.d.insert(w.ctx, w.tx, t, rows)
	} else {
		w.steps = append(w.steps, operation{table: t, rows: rows})
	}
}

// Do runs a statement; how many rows it changes does not matter.
func (w *Batch) Do(query string, args ...any) {
	w.add(operation{query: query, args: args})
}

// Must runs a statement that changes exactly n rows, else all is undone and Write returns ErrFence. A SELECT must give
// n rows. The statement has no RETURNING.
func (w *Batch) Must(n int, query string, args ...any) {
	w.Require(ErrFence, n, query, args...)
}

// Require is Must with the error that Write returns.
func (w *Batch) Require(refuse error, n int, query string, args ...any) {
	w.add(operation{query: query, args: args, counts: true, n: int64(n), refuse: refuse})
}

func (w *Batch) add(s operation) {
	if w.err != nil {
		return
	}
	var n int
	if s.args, n, w.err = w.d.arguments(s.args); w.err != nil {
		return
	}
	w.bytes += n
	if !w.bounded() {
		return
	}
	if w.tx == nil {
		w.steps = append(w.steps, s)
		return
	}
	query := s.query
	if s.counts && !changes(query) {
		query = "SELECT COUNT(*) FROM (" + query + ") AS found"
		var found int64
		if w.err = w.tx.QueryRow(w.ctx, query, s.args...).Scan(&found); w.err == nil && found != s.n {
			w.err = s.refuse
		}
		return
	}
	changed, err := w.tx.Exec(w.ctx, query, s.args...)
	if w.err = err; err == nil && s.counts && changed != s.n {
		w.err = s.refuse
	}
}

func (w *Batch) bounded() bool {
	if w.bytes > MaxWrite {
		w.err = fmt.Errorf("%w: expected at most %d, found %d: write it in parts", ErrTooLarge, MaxWrite, w.bytes)
	}
	return w.err == nil
}

// Tx gives the transaction of the write, for callers that must read inside it. The first time it returns ErrReads, which the caller hands
// on; fn then runs again in a transaction, in which the statements of the batch run at once.
func (w *Batch) Tx() (*Tx, error) {
	if w.err != nil {
		return nil, w.err
	}
	if w.tx == nil {
		w.reads = true
		return nil, ErrReads
	}
	return w.tx, nil
}

// changes tells that a statement changes rows.
func changes(query string) bool {
	first, _, _ := strings.Cut(strings.TrimSpace(query), " ")
	return first == "INSERT" || first == "UPDATE" || first == "DELETE"
}
