package stream

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"lyceum/platform/db"
)

// parkedRow is a row whose work failed.
type parkedRow struct {
	Row
	reason string
}

const (
	behindOther      = "behind another row of its key"
	breaksConnection = "what is written breaks its connection to the database each time"
)

// connectionFailures counts how often workers of a shard lost their database connection at the same cursor while the
// database answered the next worker. The row there may be what breaks the connection. A worker whose write got no
// answer does not know what is stored, so it ends, and the next worker reads it.
type connectionFailures struct {
	cursor int64 // where workers ended
	count  int   // how often a worker ended there
	upto   int64 // rows up to this position are tried one by one
	parked int64 // the parked row that was tried; 0 for none
}

func (c *consumer) failuresOf(shard int) connectionFailures {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failures[shard]
}

// lostConnection reports whether err is a lost database connection, which a row may have caused.
func (w *worker) lostConnection(ctx context.Context, err error) bool {
	return ctx.Err() == nil && !errors.Is(err, errNotCurrent) && (db.IsUnavailable(err) || isUnconfirmed(err))
}

// noteFailure records that the worker ends with an error while it tries the rows up to a position.
func (w *worker) noteFailure(ctx context.Context, err error, upto int64) {
	if !w.lostConnection(ctx, err) {
		return
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	failures := w.c.failures[w.shard]
	if failures.cursor != w.pos {
		failures.cursor, failures.count = w.pos, 0
	}
	failures.count++
	failures.upto = max(failures.upto, upto)
	w.c.failures[w.shard] = failures
}

// noteParkedFailure records at which parked row a worker ended; 0 for none.
func (w *worker) noteParkedFailure(pos int64) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	failures := w.c.failures[w.shard]
	failures.parked = pos
	w.c.failures[w.shard] = failures
}

func (w *worker) loadParked(ctx context.Context) error {
	counts, err := db.Map[string, int64](w.c.streams.opts.DB.Query(ctx, `SELECT key, COUNT(*) FROM parked_rows WHERE consumer = $1
			AND shard = $2 GROUP BY key`, w.c.Name, w.shard))
	if err == nil {
		w.parked = counts
	}
	return err
}

var parkedRows = &db.Table{
	Name: "parked_rows", Columns: db.Columns("consumer text, shard integer, pos integer, key text, tries integer, " +
		"next_ms integer, reason text"),
	Conflict: "ON CONFLICT (consumer, shard, pos) DO NOTHING",
}

func (w *worker) park(b *db.Batch, rows []parkedRow) {
	values := make([][]any, len(rows))
	next := time.Now().Add(firstRetry).UnixMilli()
	for i, r := range rows {
		values[i] = []any{w.c.Name, w.shard, r.Pos, r.Key, 0, next, storable(r.reason)}
	}
	b.Rows(parkedRows, values)
}

// storable makes a reason a text that a database takes: it may quote another server.
func storable(reason string) string {
	reason = strings.ReplaceAll(strings.ToValidUTF8(reason, "\uFFFD"), "\x00", "\uFFFD")
	n := min(len(reason), maxReason)
	for n < len(reason) && !utf8.RuneStart(reason[n]) {
		n--
	}
	return reason[:n]
}

// retryParked tries parked rows until none is due or it is the turn of new rows, and returns the pause before the next
// try.
func (w *worker) retryParked(ctx context.Context) (time.Duration, error) {
	for end := time.Now().Add(parkedTurn); len(w.parked) > 0; {
		if pause, err := w.retryBatch(ctx, end); err != nil || pause > 0 || time.Now().After(end) {
			return pause, err
		}
	}
	return firstRetry, nil
}

// retryBatch tries the first parked row of each key whose time has come, until end, but at least one. The next call
// goes on behind it. It returns the pause before that call.
func (w *worker) retryBatch(ctx context.Context, end time.Time) (time.Duration, error) {
	type due struct {
		pos   int64
		key   string
		tries int
	}
	list, err := db.List(func(row db.Row) (d due, err error) { return d, row.Scan(&d.pos, &d.key, &d.tries) })(
		w.c.streams.opts.DB.Query(ctx, `SELECT pos, key, tries FROM parked_rows p WHERE consumer = $1 AND shard = $2 AND next_ms <= $3
				AND pos > $4
			AND NOT EXISTS (SELECT 1 FROM parked_rows o WHERE o.consumer = p.consumer AND o.shard = p.shard AND o.key = p.key AND o.pos < p.pos)
			ORDER BY pos LIMIT $5`, w.c.Name, w.shard, time.Now().UnixMilli(), w.lastTried, maxParkedBatch))
	if err != nil {
		return 0, err
	}
	pause := firstRetry
	if w.lastTried > 0 || len(list) == maxParkedBatch {
		pause = 0 // more rows are due
	}
	for i, d := range list {
		if i > 0 && time.Now().After(end) {
			return 0, nil
		}
		w.lastTried = d.pos
		var failed error
		if w.c.failuresOf(w.shard).parked == d.pos { // it is tried again after the other rows
			failed = errors.New(breaksConnection)
		} else if failed = w.retryRow(ctx, d.pos); failed == nil {
			pause = 0 // the next row of the key may be due
			if w.parked[d.key]--; w.parked[d.key] == 0 {
				delete(w.parked, d.key)
			}
			continue
		}
		if w.endsWorker(ctx, failed) {
			if w.lostConnection(ctx, failed) {
				w.noteParkedFailure(d.pos)
			}
			return 0, failed
		}
		err := w.postpone(ctx, d.pos, min(firstRetry<<min(d.tries, 10), longestRetry), failed)
		switch {
		case err == nil:
			w.noteParkedFailure(0)
		case w.endsWorker(ctx, err):
			return 0, err
		default:
			w.c.streams.opts.Log.Warn("a row that failed could not be put off", "consumer", w.c.Name, "shard", w.shard, "position", d.pos,
				"error", err)
		}
	}
	if len(list) < maxParkedBatch {
		w.lastTried = 0
	}
	return pause, nil
}

// retryRow does the work of a parked row and deletes it in the transaction that writes the work's result.
func (w *worker) retryRow(ctx context.Context, pos int64) error {
	rows, err := w.c.Read(ctx, w.c.streams.opts.DB, Range{Shard: w.shard, After: pos - 1, Upto: pos, Limit: 1})
	if err != nil {
		return err
	}
	var commit func(b *db.Batch)
	if len(rows) > 0 { // none: it was compacted away
		if commit, err = w.doWork(ctx, rows); err != nil {
			return err
		}
	}
	return w.storeCursor(context.WithoutCancel(ctx), w.pos, func(b *db.Batch) {
		if commit != nil {
			commit(b)
		}
		b.Do(`DELETE FROM parked_rows WHERE consumer = $1 AND shard = $2 AND pos = $3`, w.c.Name, w.shard, pos)
	}, true)
}

// postpone records the reason of a failure and when the parked row is tried again.
func (w *worker) postpone(ctx context.Context, pos int64, pause time.Duration, reason error) error {
	return w.storeCursor(ctx, w.pos, func(b *db.Batch) {
		b.Do(`UPDATE parked_rows SET tries = tries + 1, next_ms = $4, reason = $5 WHERE consumer = $1 AND shard = $2 AND pos = $3`,
			w.c.Name, w.shard, pos, time.Now().Add(pause).UnixMilli(), storable(reason.Error()))
	}, false)
}
