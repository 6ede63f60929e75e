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
	st.tailMu.Lock()
	defer st.tailMu.Unlock()
	st.mu.Lock()
	fresh := st.scratch[:0]
	for _, row := range rows {
		if st.admit(row) {
			fresh = append(fresh, row)
		}
	}
	st.mu.Unlock()
	st.handScratch(fresh)
}

// receive takes a bus message of the stream, as deliver does.
func (st *Stream) receive(m bus.Message) {
	r := rowReader{b: m.Data, shards: st.spec.Shards}
	from, at := r.head()
	if r.err == nil && from == st.set.incarnation {
		return
	}
	st.tailMu.Lock()
	defer st.tailMu.Unlock()
	st.mu.Lock()
	fresh := st.scratch[:0]
	for row, ok := r.next(); ok; row, ok = r.next() {
		if st.admit(row) {
			fresh = append(fresh, row)
		}
	}
	st.mu.Unlock()
	if r.err != nil {
		st.set.o.Log.Error("a bus message could not be read", "topic", m.Topic, "error", r.err)
	}
	if at > 0 && len(fresh) > 0 {
		st.delivery.Observe(max(0, time.Since(time.UnixMilli(at)).Seconds()))
	}
	st.handScratch(fresh)
}

// admit tells whether a row is the next of its shard and moves the shard on; the caller holds mu.
func (st *Stream) admit(row Row) bool {
	sh := st.shards[row.Shard]
	sh.target = max(sh.target, row.Pos)
	switch {
	case !st.begun:
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
func (st *Stream) handScratch(fresh []Row) {
	st.hand(fresh)
	clear(fresh)
	if cap(fresh) <= st.set.o.Batch {
		st.scratch = fresh[:0]
	}
}

// hand gives rows to the tails and wakes who waits for positions; the caller holds tailMu.
func (st *Stream) hand(rows []Row) {
	if len(rows) > 0 {
		for _, t := range st.active {
			t.rows(rows)
		}
	}
	st.mu.Lock()
	for _, sh := range st.shards {
		sh.seen = sh.delivered // tailMu is held since delivered moved, so these rows were handed over
	}
	if st.moved != nil {
		close(st.moved)
		st.moved = nil
	}
	st.mu.Unlock()
}

// expect says that a shard has reached a position, and reads what is missing.
func (st *Stream) expect(shard int, pos int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	sh := st.shards[shard]
	sh.target = max(sh.target, pos)
	if st.begun && sh.delivered < sh.target {
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
	st.set.metrics.gap(st)
	go st.readMissed(shard)
}

func (st *Stream) readMissed(shard int) {
	for {
		st.mu.Lock()
		sh := st.shards[shard]
		after, upto := sh.delivered, sh.target
		if after >= upto || st.set.ctx.Err() != nil {
			sh.reading = false
			st.mu.Unlock()
			return
		}
		st.mu.Unlock()
		ctx, cancel := context.WithTimeout(st.set.ctx, 10*time.Second)
		rows, err := st.Read(ctx, Range{Shard: shard, After: after, Upto: upto, Limit: st.set.o.ReadLimit})
		cancel()
		if err != nil {
			if st.set.ctx.Err() == nil {
				st.set.o.Log.Warn("missed rows could not be read, trying again", "stream", st.spec.Name, "shard", shard, "error", err)
			}
			select {
			case <-st.set.ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
			continue
		}
		if len(rows) == st.set.o.ReadLimit {
			upto = rows[len(rows)-1].Pos
		}
		st.handMissed(shard, rows, upto)
	}
}

// handMissed gives rows read from the store to the tails. A compacted store leaves positions out, so the
// shard moves to upto whatever the rows are.
func (st *Stream) handMissed(shard int, rows []Row, upto int64) {
	st.tailMu.Lock()
	defer st.tailMu.Unlock()
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
	st.stored = true
	st.hand(fresh)
	st.stored = false
}

// topic is the bus topic of a stream's rows.
func (st *Stream) topic() string { return "rows/" + st.spec.Name }

// publish sends rows to the other processes and tells whether the bus took them. If not, they read the
// database. at is when the rows were written, in ms since 1970; 0 for positions that are repeated.
func (s *Streams) publish(byStream map[*Stream][]Row, at int64) bool {
	if len(byStream) == 0 || s.only() {
		return true
	}
	var msgs []bus.Message
	for _, st := range s.order {
		if rows := byStream[st]; len(rows) > 0 {
			msgs = append(msgs, bus.Message{Topic: st.topic(), Data: encodeRows(s.incarnation, at, rows)})
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.o.Bus.Publish(ctx, msgs...)
	return err == nil || errors.Is(err, bus.ErrClosed) // then there are no others, or this process is at its end
}

// hush runs before rows are acknowledged that the bus did not take, or did not bring to all: when this process came to
// another server. It tells the fleet to ask the database in every Barrier, and waits until no process trusts a view from
// before. Only the first rows of an outage wait. Not told when ctx ends before.
func (s *Streams) hush(ctx context.Context) (told bool) {
	s.muteMu.Lock()
	defer s.muteMu.Unlock()
	moves := s.moves.Load()
	if s.mute && !s.doubtful || s.o.Leases.Alone() {
		s.told.Store(moves) // speak tells where this process is when it ends that
		return true
	}
	s.o.Log.Warn("the bus does not bring rows to all: the fleet reads them from the database")
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		step, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := s.o.Leases.SetDegraded(step, true)
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
	case <-time.After(s.o.Leases.ViewTTL()):
	}
	s.mute, s.doubtful = true, false
	s.told.Store(moves)
	return true
}

// strayed tells that there may be processes which believe this one to be at another server of the bus.
func (s *Streams) strayed() bool { return s.told.Load() < s.moves.Load() }

// speak ends what hush began when the bus takes messages again. Whoever sees that a process speaks again reads the
// stored positions once.
func (s *Streams) speak(ctx context.Context) {
	if !s.muteMu.TryLock() {
		return
	}
	defer s.muteMu.Unlock()
	if !s.mute || !s.o.Bus.Connected() || s.o.Bus.Barrier(ctx) != nil {
		return
	}
	err := s.o.Leases.SetDegraded(ctx, false)
	s.mute, s.doubtful = err != nil, err != nil
}

// losses counts what makes the stored positions worth reading.
func (s *Streams) losses() int64 { return s.lost.Load() + s.o.Leases.DegradedViews() }

// trusted tells whether the bus carries all rows that are acknowledged: no message was lost since the stored
// positions were read, and no process is known to write without it.
func (s *Streams) trusted() bool {
	return s.o.Leases.NoneDegraded() && s.read.Load() >= s.losses() && s.o.Bus.Connected()
}

// announce publishes the positions of the shards that this process owns, so that a reader who missed the
// last rows before a pause notices.
func (s *Streams) announce() {
	heads := map[*Stream][]Row{}
	s.mu.Lock()
	for _, st := range s.order {
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
	case <-s.begun:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.only() {
		return s.waitCaughtUp(ctx)
	}
	if err := s.o.Bus.Barrier(ctx); err != nil || !s.trusted() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// A process that can not reach the database either knows nothing: another one may be mute, or the only one.
		if _, err := s.heads.wait(ctx); err != nil {
			return err
		}
	}
	return s.waitCaughtUp(ctx)
}

// waitCaughtUp waits for the rows that are known to exist now.
func (s *Streams) waitCaughtUp(ctx context.Context) error {
	for _, st := range s.order {
		if err := st.waitCaughtUp(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (st *Stream) waitCaughtUp(ctx context.Context) error {
	if !st.followed.Load() {
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
func (s *Streams) syncHeads(ctx context.Context) error {
	losses := s.losses()
	held, err := s.o.Leases.Read(ctx, "stream/")
	// A database that was away for a moment leaves connections that are broken, which is no reason to refuse requests.
	for wait := 10 * time.Millisecond; db.IsUnavailable(err) && wait < time.Second; wait *= 2 {
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		held, err = s.o.Leases.Read(ctx, "stream/")
	}
	if err != nil {
		return err
	}
	for _, st := range s.order {
		if !st.followed.Load() {
			continue
		}
		for i := range st.shards {
			st.expect(i, held[st.Lease(i)].Pos)
		}
	}
	for old := s.read.Load(); old < losses && !s.read.CompareAndSwap(old, losses); old = s.read.Load() {
	}
	return nil
}
