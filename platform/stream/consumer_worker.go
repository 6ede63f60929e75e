package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/lease"
)

// worker consumes one shard.
type worker struct {
	c     *consumer
	shard int
	lease lease.Lease // Pos is the stored cursor
	stop  context.CancelFunc
	done  chan struct{}
	wake  chan struct{}

	pos       int64            // the last row that is worked off
	stored    int64            // the stored cursor
	parked    map[string]int64 // keys with parked rows, and how many
	lastTried int64            // the parked row behind which the next retry begins; 0: begin with the first

	mu    sync.Mutex
	queue []Row // consecutive rows, as they were written
}

// run consumes the shard until ctx ends or the lease is lost.
func (w *worker) run(ctx context.Context) error {
	if w.c.OnAssigned != nil {
		w.c.OnAssigned(w.shard)
	}
	if err := w.loadParked(ctx); err != nil {
		return err
	}
	err := w.workUntilEnd(ctx)
	if ctx.Err() != nil && !isUnconfirmed(err) { // after an unconfirmed commit the stored cursor may be further
		return w.storeCursor(context.WithoutCancel(ctx), w.pos, nil, false)
	}
	return err
}

// workUntilEnd works off new rows, tries parked ones and calls Periodic, in turn: none of them waits until the others have nothing to do.
func (w *worker) workUntilEnd(ctx context.Context) error {
	stored := time.Now()
	var retryAt, periodicAt time.Time // when parked rows and Periodic have their turn
	for ctx.Err() == nil {
		rows, upto, err := w.nextRows(ctx, w.pos)
		if err != nil {
			return err
		}
		idle := upto == w.pos
		if !idle {
			wrote, err := w.workOff(ctx, rows, upto, time.Now().Truncate(cursorInterval).After(stored))
			if err != nil {
				return err
			}
			if wrote {
				stored = time.Now()
			}
		}
		if !time.Now().Before(retryAt) {
			if idle && w.pos > w.stored {
				if err := w.storeCursor(ctx, w.pos, nil, false); err != nil {
					return err
				}
			}
			pause, err := w.retryParked(ctx)
			if err != nil {
				return err
			}
			retryAt = time.Now().Add(pause)
		}
		if w.c.Periodic != nil && !time.Now().Before(periodicAt) {
			pause, err := w.c.Periodic(ctx, w.shard)
			if err != nil {
				return err
			}
			periodicAt = time.Now().Add(pause)
		}
		switch {
		case idle && w.c.Periodic != nil && periodicAt.Before(retryAt):
			w.wait(ctx, periodicAt, w.wake)
		case idle:
			w.wait(ctx, retryAt, w.wake)
		case len(rows) < w.c.Batch && w.c.Linger > 0: // all shards wait until the same time, and commit together
			w.wait(ctx, time.Now().Truncate(w.c.Linger).Add(w.c.Linger), nil)
		}
	}
	return nil
}

// wait waits until a time, until wake has a value, or until ctx ends.
func (w *worker) wait(ctx context.Context, until time.Time, wake <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-wake:
	case <-time.After(time.Until(until)):
	}
}

// nextRows returns the rows after a position, from memory when they are there, and the position that they reach.
func (w *worker) nextRows(ctx context.Context, pos int64) (rows []Row, upto int64, err error) {
	head := w.c.Stream.Position(w.shard)
	w.mu.Lock()
	i := slices.IndexFunc(w.queue, func(r Row) bool { return r.Pos > pos })
	if i < 0 {
		i = len(w.queue)
	}
	w.queue = w.queue[i:]
	if len(w.queue) > 0 && w.queue[0].Pos == pos+1 {
		n := min(w.c.Batch, len(w.queue))
		rows = slices.Clone(w.queue[:n])
		w.queue = w.queue[n:]
		w.mu.Unlock()
		return rows, rows[n-1].Pos, nil
	}
	w.mu.Unlock()
	if head <= pos {
		return nil, pos, nil
	}
	rows, err = w.c.Read(ctx, w.c.streams.opts.DB, Range{Shard: w.shard, After: pos, Upto: head, Limit: w.c.Batch})
	if err != nil {
		return nil, pos, err
	}
	if len(rows) == w.c.Batch {
		head = rows[len(rows)-1].Pos
	}
	return rows, head, nil
}

// workOff works rows off and moves the cursor. due: the cursor is stored even when there is nothing else to write.
// When a batch fails, its rows are tried one by one, to find the one that fails.
func (w *worker) workOff(ctx context.Context, rows []Row, upto int64, due bool) (wrote bool, err error) {
	var free []Row
	var park []parkedRow
	for _, r := range rows {
		if w.parked[r.Key] > 0 {
			park = append(park, parkedRow{r, behindOther})
		} else {
			free = append(free, r)
		}
	}
	if failures := w.c.failuresOf(w.shard); len(rows) == 0 || w.pos >= failures.upto {
		if wrote, err = w.try(ctx, portion{rows: free, park: park, upto: upto, due: due}); err == nil {
			return wrote, nil
		}
		if w.endsWorker(ctx, err) {
			w.noteFailure(ctx, err, upto)
			return wrote, err
		}
	}
	for i, r := range rows {
		to := r.Pos
		if i == len(rows)-1 {
			to = upto
		}
		reason := ""
		switch failures := w.c.failuresOf(w.shard); {
		case w.parked[r.Key] > 0:
			reason = behindOther
		case failures.cursor == w.pos && failures.count >= maxConnectionFailures:
			reason = breaksConnection
		}
		if reason == "" {
			if _, err = w.try(ctx, portion{rows: []Row{r}, upto: to, due: true, ownTransaction: true}); err != nil && !w.endsWorker(ctx, err) {
				reason = err.Error()
			}
		}
		if reason != "" {
			_, err = w.try(ctx, portion{park: []parkedRow{{r, reason}}, upto: to, due: true})
		}
		if err != nil {
			w.noteFailure(ctx, err, upto)
			return true, err
		}
	}
	return true, nil
}

// doWork calls Work for rows, after a Barrier: what this process knows from other streams is at least as new as the
// rows.
func (w *worker) doWork(ctx context.Context, rows []Row) (commit func(w *db.Batch), err error) {
	if err := w.c.streams.Barrier(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotCurrent, err)
	}
	if commit, err = w.c.Work(ctx, w.shard, rows); err != nil {
		err = &workError{err}
	}
	return commit, err
}

// workError is an error of Work. It says nothing about the database, because Work may also call other services; the
// write that follows shows whether the database answers.
type workError struct{ error }

func (e *workError) Unwrap() error { return e.error }

// errNotCurrent says that this process may not have received all acknowledged rows.
var errNotCurrent = errors.New("the newest rows are not known")

// endsWorker reports whether an error is not the fault of the rows: the worker ends, and starts again here or in another
// process.
func (w *worker) endsWorker(ctx context.Context, err error) bool {
	var work *workError
	switch {
	case ctx.Err() != nil:
		return true
	case errors.As(err, &work):
		return false
	}
	return errors.Is(err, errNotCurrent) || errors.Is(err, lease.ErrLost) || db.IsUnavailable(err) || isUnconfirmed(err)
}

// portion is what one try covers: rows to work off and rows to park, up to a position.
type portion struct {
	rows           []Row
	park           []parkedRow
	upto           int64
	due            bool
	ownTransaction bool // as in cursorUpdate
}

// try works off a portion and stores the cursor behind it; wrote reports whether it wrote to the database.
func (w *worker) try(ctx context.Context, a portion) (wrote bool, err error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	var commit func(w *db.Batch)
	if len(a.rows) > 0 {
		if commit, err = w.doWork(ctx, a.rows); err != nil {
			return false, errors.Join(err, ctx.Err())
		}
	}
	if commit == nil && len(a.park) == 0 && !a.due {
		w.pos = a.upto
		return false, nil
	}
	// Finished work is stored even when ctx has ended meanwhile.
	err = w.storeCursor(context.WithoutCancel(ctx), a.upto, func(b *db.Batch) {
		if commit != nil {
			commit(b)
		}
		w.park(b, a.park)
	}, a.ownTransaction)
	if err == nil {
		for _, r := range a.park {
			w.parked[r.Key]++
			w.c.streams.opts.Log.Warn("a row could not be worked off, it is tried again", "consumer", w.c.Name, "shard", w.shard, "position",
				r.Pos, "error", r.reason)
		}
	}
	return true, err
}

// storeCursor stores the cursor together with what extra writes (nil: nothing). It fails when the lease is lost.
func (w *worker) storeCursor(ctx context.Context, pos int64, extra func(b *db.Batch), ownTransaction bool) error {
	update := &cursorUpdate{lease.Lease{Name: w.lease.Name, Epoch: w.lease.Epoch, Pos: pos}, extra, ownTransaction, make(chan error, 1)}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case w.c.updates <- update:
	}
	select {
	case <-ctx.Done(): // the cursor may still be stored; the next worker reads it
		return ctx.Err()
	case err := <-update.done:
		if err == nil {
			w.pos, w.stored = pos, pos
		}
		return err
	}
}
