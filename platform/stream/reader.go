package stream

import (
	"context"
	"time"

	"lyceum/platform/bus"
)

// deliver gives rows that this process wrote to the subscriptions. The rows of a shard follow each other. Rows that
// were seen already are left out; at a gap it stops, and the rest is read from the store.
func (st *Stream) deliver(rows []Row) {
	st.dispatchMu.Lock()
	defer st.dispatchMu.Unlock()
	st.mu.Lock()
	fresh := st.scratch[:0]
	for _, row := range rows {
		if st.accept(row) {
			fresh = append(fresh, row)
		}
	}
	st.mu.Unlock()
	st.dispatchScratch(fresh)
}

// receive gives the rows of a bus message to the subscriptions, under the rules of deliver.
func (st *Stream) receive(m bus.Message) {
	r := rowReader{b: m.Data, shards: st.spec.Shards}
	from, at := r.header()
	if r.err == nil && from == st.streams.incarnation {
		return
	}
	st.dispatchMu.Lock()
	defer st.dispatchMu.Unlock()
	st.mu.Lock()
	fresh := st.scratch[:0]
	for row, ok := r.next(); ok; row, ok = r.next() {
		if st.accept(row) {
			fresh = append(fresh, row)
		}
	}
	st.mu.Unlock()
	if r.err != nil {
		st.streams.opts.Log.Error("a bus message could not be read", "topic", m.Topic, "error", r.err)
	}
	if at > 0 && len(fresh) > 0 {
		st.delivery.Observe(max(0, time.Since(time.UnixMilli(at)).Seconds()))
	}
	st.dispatchScratch(fresh)
}

// accept tells whether a row is the next of its shard, and moves the shard on; the caller holds mu.
func (st *Stream) accept(row Row) bool {
	sh := st.shards[row.Shard]
	sh.target = max(sh.target, row.Pos)
	switch {
	case !st.positioned:
	case row.Pos <= sh.delivered: // seen
	case row.Pos == sh.delivered+1 && (row.Data != nil || row.Value != nil):
		sh.delivered = row.Pos
		return true
	default:
		st.catchUp(row.Shard)
	}
	return false
}

// dispatchScratch dispatches rows that lie in scratch, and keeps its memory for the next rows.
func (st *Stream) dispatchScratch(fresh []Row) {
	st.dispatch(fresh)
	clear(fresh)
	if cap(fresh) <= st.streams.opts.Batch {
		st.scratch = fresh[:0]
	}
}

// dispatch gives rows to the subscriptions and wakes the callers that wait for positions; the caller holds dispatchMu.
func (st *Stream) dispatch(rows []Row) {
	if len(rows) > 0 {
		for _, t := range st.active {
			t.onRows(rows)
		}
	}
	st.mu.Lock()
	for _, sh := range st.shards {
		sh.seen = sh.delivered // dispatchMu is held since delivered moved, so these rows were dispatched
	}
	if st.advanced != nil {
		close(st.advanced)
		st.advanced = nil
	}
	st.mu.Unlock()
}

// raiseTarget records that a shard has reached a position, and reads what is missing.
func (st *Stream) raiseTarget(shard int, pos int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	sh := st.shards[shard]
	sh.target = max(sh.target, pos)
	if st.positioned && sh.delivered < sh.target {
		st.catchUp(shard)
	}
}

// catchUp starts a goroutine that reads missed rows, unless one is running; the caller holds mu.
func (st *Stream) catchUp(shard int) {
	sh := st.shards[shard]
	if sh.reading {
		return
	}
	sh.reading = true
	st.streams.metrics.countGap(st)
	go st.readMissed(shard)
}

func (st *Stream) readMissed(shard int) {
	for {
		st.mu.Lock()
		sh := st.shards[shard]
		after, upto := sh.delivered, sh.target
		if after >= upto || st.streams.ctx.Err() != nil {
			sh.reading = false
			st.mu.Unlock()
			return
		}
		st.mu.Unlock()
		ctx, cancel := context.WithTimeout(st.streams.ctx, 10*time.Second)
		rows, err := st.Read(ctx, Range{Shard: shard, After: after, Upto: upto, Limit: st.streams.opts.ReadLimit})
		cancel()
		if err != nil {
			if st.streams.ctx.Err() == nil {
				st.streams.opts.Log.Warn("missed rows could not be read, trying again", "stream", st.spec.Name, "shard", shard, "error", err)
			}
			select {
			case <-st.streams.ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
			continue
		}
		if len(rows) == st.streams.opts.ReadLimit {
			upto = rows[len(rows)-1].Pos
		}
		st.dispatchMissed(shard, rows, upto)
	}
}

// dispatchMissed gives rows read from the store to the subscriptions. A compacted store leaves positions out, so the
// shard moves to upto whatever the rows are.
func (st *Stream) dispatchMissed(shard int, rows []Row, upto int64) {
	st.dispatchMu.Lock()
	defer st.dispatchMu.Unlock()
	st.mu.Lock()
	sh := st.shards[shard]
	fresh := rows[:0]
	for _, row := range rows {
		if row.Pos > sh.delivered {
			fresh = append(fresh, row)
		}
	}
	sh.delivered = max(sh.delivered, upto)
	st.mu.Unlock()
	st.fromStore = true
	st.dispatch(fresh)
	st.fromStore = false
}
