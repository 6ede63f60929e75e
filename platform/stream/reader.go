package stream

import (
	"context"
	"errors"
	"sync"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/lease"
)

// deliver hands rows of this process to the tails. The rows of a shard follow each other; what was seen already
// is left out, and before a gap it stops and reads the rest from the store.
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

// receive takes a bus message of the stream, as deliver does.
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

// admit tells whether a row is the next of its shard and moves the shard on; the caller holds mu.
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

// handScratch hands over rows that stand in scratch, and keeps its memory for the next.
func (st *Stream) dispatchScratch(fresh []Row) {
	st.dispatch(fresh)
	clear(fresh)
	if cap(fresh) <= st.streams.opts.Batch {
		st.scratch = fresh[:0]
	}
}

// hand gives rows to the tails and wakes who waits for positions; the caller holds tailMu.
func (st *Stream) dispatch(rows []Row) {
	if len(rows) > 0 {
		for _, t := range st.active {
			t.onRows(rows)
		}
	}
	st.mu.Lock()
	for _, sh := range st.shards {
		sh.seen = sh.delivered // tailMu is held since delivered moved, so these rows were handed over
	}
	if st.advanced != nil {
		close(st.advanced)
		st.advanced = nil
	}
	st.mu.Unlock()
}

// expect says that a shard has reached a position, and reads what is missing.
func (st *Stream) raiseTarget(shard int, pos int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	sh := st.shards[shard]
	sh.target = max(sh.target, pos)
	if st.positioned && sh.delivered < sh.target {
		st.catchUp(shard)
	}
}

// catchUp starts a goroutine that reads missed rows, unless one runs; the caller holds mu.
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

// handMissed gives rows read from the store to the tails. A compacted store leaves positions out, so the
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

// topic is the bus topic of a stream's rows.
func (st *Stream) topic() string { return "rows/" + st.spec.Name }

// publish sends rows to the other processes and tells whether the bus took them. If not, they read the
// database. at is when the rows were written, in ms since 1970; 0 for positions that are repeated.
func (s *Streams) publish(byStream map[*Stream][]Row, at int64) bool {
	if len(byStream) == 0 || s.isOnlyMember() {
		return true
	}
	var msgs []bus.Message
	for _, st := range s.opened {
		if rows := byStream[st]; len(rows) > 0 {
			msgs = append(msgs, bus.Message{Topic: st.topic(), Data: encodeRows(s.incarnation, at, rows)})
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.opts.Bus.Publish(ctx, msgs...)
	return err == nil || errors.Is(err, bus.ErrClosed) // then there are no others, or this process is at its end
}

// hush runs before rows are acknowledged that the bus did not take, or did not bring to all: when this process came to
// another server. It tells the fleet to ask the database in every Barrier, and waits until no process trusts a view from
// before. Only the first rows of an outage wait. Not told when ctx ends before.
func (s *Streams) markDegraded(ctx context.Context) (told bool) {
	s.degradedMu.Lock()
	defer s.degradedMu.Unlock()
	moves := s.busMoves.Load()
	if s.degraded && !s.recoveryDoubtful || s.opts.Leases.Alone() {
		s.busMovesTold.Store(moves) // speak tells where this process is when it ends that
		return true
	}
	s.opts.Log.Warn("the bus does not bring rows to all: the fleet reads them from the database")
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		step, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := s.opts.Leases.SetDegraded(step, true)
		cancel()
		if errors.Is(err, lease.ErrReplaced) {
			return false
		}
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
	select {
	case <-ctx.Done(): // whoever comes next waits as long
		return false
	case <-time.After(s.opts.Leases.ViewTTL()):
	}
	s.degraded, s.recoveryDoubtful = true, false
	s.busMovesTold.Store(moves)
	return true
}

// strayed tells that there may be processes which believe this one to be at another server of the bus.
func (s *Streams) busMoveUntold() bool { return s.busMovesTold.Load() < s.busMoves.Load() }

// speak ends what hush began when the bus takes messages again. Whoever sees that a process speaks again reads the
// stored positions once.
func (s *Streams) markRecovered(ctx context.Context) {
	if !s.degradedMu.TryLock() {
		return
	}
	defer s.degradedMu.Unlock()
	if !s.degraded || !s.opts.Bus.Connected() || s.opts.Bus.Barrier(ctx) != nil {
		return
	}
	err := s.opts.Leases.SetDegraded(ctx, false)
	s.degraded, s.recoveryDoubtful = err != nil, err != nil
}

// losses counts what makes the stored positions worth reading.
func (s *Streams) lossCount() int64 { return s.lostMessages.Load() + s.opts.Leases.DegradedViews() }

// trusted tells whether the bus carries all rows that are acknowledged: no message was lost since the stored
// positions were read, and no process is known to write without it.
func (s *Streams) busIsComplete() bool {
	return s.opts.Leases.NoneDegraded() && s.lossesRead.Load() >= s.lossCount() && s.opts.Bus.Connected()
}

// announce publishes the positions of the shards that this process owns, so that a reader who missed the
// last rows before a pause notices.
func (s *Streams) announce() {
	heads := map[*Stream][]Row{}
	s.mu.Lock()
	for _, st := range s.opened {
		for i, sh := range st.shards {
			if sh.owned && sh.next > 1 {
				heads[st] = append(heads[st], Row{Shard: i, Pos: sh.next - 1})
			}
		}
	}
	s.mu.Unlock()
	s.publish(heads, 0) // if it fails, the next announcement comes soon
}

// shared runs a call once for all who came before it began.
type shared[T any] struct {
	run func(ctx context.Context) (T, error)

	mu      sync.Mutex
	running bool
	next    *sharedCall[T]
}

type sharedCall[T any] struct {
	done   chan struct{}
	result T
	err    error
}

// wait returns what a call gave that began after wait was called.
func (s *shared[T]) wait(ctx context.Context) (T, error) {
	s.mu.Lock()
	if s.next == nil {
		s.next = &sharedCall[T]{done: make(chan struct{})}
	}
	call := s.next
	if !s.running {
		s.running = true
		go s.work()
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	case <-call.done:
		return call.result, call.err
	}
}

func (s *shared[T]) work() {
	for {
		s.mu.Lock()
		call := s.next
		s.next = nil
		s.running = call != nil
		s.mu.Unlock()
		if call == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		call.result, call.err = s.run(ctx)
		cancel()
		close(call.done)
	}
}

// Barrier returns when the tails of this process have seen all rows that any process had acknowledged
// before the call. It costs one message to the bus and back, shared by concurrent callers, and nothing
// when the process is the only one. While the bus does not carry all rows it asks the database. Before Start is done
// it waits for that.
func (s *Streams) Barrier(ctx context.Context) error {
	select {
	case <-s.startDone:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.isOnlyMember() {
		return s.waitCaughtUp(ctx)
	}
	if err := s.opts.Bus.Barrier(ctx); err != nil || !s.busIsComplete() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// A process that can not reach the database either knows nothing: another one may be mute, or the only one.
		if _, err := s.highWaterMarks.wait(ctx); err != nil {
			return err
		}
	}
	return s.waitCaughtUp(ctx)
}

// waitCaughtUp waits for the rows that are known to exist now.
func (s *Streams) waitCaughtUp(ctx context.Context) error {
	for _, st := range s.opened {
		if err := st.waitCaughtUp(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (st *Stream) waitCaughtUp(ctx context.Context) error {
	if !st.receiving.Load() {
		return nil
	}
	st.mu.Lock()
	var behind []Row
	for i, sh := range st.shards {
		if sh.seen < sh.target {
			behind = append(behind, Row{Shard: i, Pos: sh.target})
		}
	}
	st.mu.Unlock()
	for _, b := range behind {
		if err := st.WaitFor(ctx, b.Shard, b.Pos); err != nil {
			return err
		}
	}
	return nil
}

// syncHeads reads the stored positions of all shards and begins to read what is missing.
func (s *Streams) readHighWaterMarks(ctx context.Context) error {
	losses := s.lossCount()
	held, err := s.opts.Leases.Read(ctx, "stream/")
	// A database that was away for a moment leaves connections that are broken, which is no reason to refuse requests.
	for wait := 10 * time.Millisecond; db.IsUnavailable(err) && wait < time.Second; wait *= 2 {
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		held, err = s.opts.Leases.Read(ctx, "stream/")
	}
	if err != nil {
		return err
	}
	for _, st := range s.opened {
		if !st.receiving.Load() {
			continue
		}
		for i := range st.shards {
			st.raiseTarget(i, held[st.Lease(i)].Pos)
		}
	}
	for old := s.lossesRead.Load(); old < losses && !s.lossesRead.CompareAndSwap(old, losses); old = s.lossesRead.Load() {
	}
	return nil
}
