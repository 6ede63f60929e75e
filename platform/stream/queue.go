package stream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"
)

// ErrNotOwner says that this process does not own the shard: ask the owner. What was queued before may be stored.
var ErrNotOwner error = movingError("another process owns this shard of the stream")

// ErrAborted says that an entry failed upon which this one was built, so this one was not written either: build it
// anew and try again.
var ErrAborted error = movingError("an entry that this one was built upon was not written")

// moving is an error that passes as soon as a shard has its next owner.
type movingError string

func (e movingError) Error() string { return string(e) }

// HTTPStatus and MarshalJSON make it an answer to clients, where trying again did not help for long.
func (e movingError) HTTPStatus() int { return http.StatusServiceUnavailable }

// MarshalJSON gives the body of the answer. It has no retry_after_ms, which would say that nothing was changed.
func (e movingError) MarshalJSON() ([]byte, error) {
	return []byte(`{"errcode":"M_UNKNOWN","error":"The work moves to another process of the server: try again"}`), nil
}

// ErrBusy is what a BusyError is.
var ErrBusy = errors.New("too many writes are waiting")

// BusyError says that the queue of this process is full. Nothing was changed.
type BusyError struct{ RetryAfter time.Duration }

func (e *BusyError) Error() string { return ErrBusy.Error() }

// HTTPStatus and MarshalJSON make it an answer to clients.
func (e *BusyError) HTTPStatus() int { return http.StatusTooManyRequests }

// MarshalJSON gives the body of the answer (Client-Server API, "Rate limiting").
func (e *BusyError) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `{"errcode":"M_LIMIT_EXCEEDED","error":"The server is busy: wait before you try again","retry_after_ms":%d}`, e.RetryAfter.Milliseconds()), nil
}

// Is makes it an ErrBusy.
func (e *BusyError) Is(target error) bool { return target == ErrBusy }

// ErrTooLarge says that the entries of one ticket hold more bytes than one transaction takes. Nothing was changed.
var ErrTooLarge = errors.New("too much to be written at once")

const (
	maxTicketBytes = 16 << 20  // what is written as one
	maxBatchBytes  = 4 << 20   // of a transaction, which takes one ticket whatever its size
	maxQueueBytes  = 256 << 20 // that wait in all
)

// Basis is what the owner of a shard knows of a key and builds entries upon. It ends with the ownership under which it
// was made, and when one of its entries is not written: what else was built upon it is not written then either.
type Basis struct {
	st      *Stream
	shard   int
	epoch   int64
	dead    bool // under Streams.mu, as is pending
	pending int  // tickets that are not decided
}

// Basis begins what is built upon a key. What is read from the database after the call is current for as long as the
// basis is alive. The error is ErrNotOwner.
func (st *Stream) Basis(key string) (*Basis, error) {
	shard := st.Shard(key)
	epoch, ok := st.Ownership(shard)
	if !ok {
		return nil, ErrNotOwner
	}
	return &Basis{st: st, shard: shard, epoch: epoch}, nil
}

// Alive tells whether the shard is owned since the basis was made, and all entries built upon it were written or may
// be yet.
func (b *Basis) Alive() bool {
	b.st.streams.mu.Lock()
	defer b.st.streams.mu.Unlock()
	return b.aliveLocked()
}

func (b *Basis) aliveLocked() bool { return !b.dead && b.st.shards[b.shard].heldSince(b.epoch) }

// Idle tells that no entry built upon the basis waits to be decided.
func (b *Basis) Idle() bool {
	b.st.streams.mu.Lock()
	defer b.st.streams.mu.Unlock()
	return b.pending == 0
}

// Enqueue queues entries that are built upon the basis: see Streams.Enqueue.
func (b *Basis) Enqueue(entries ...*Entry) (*Ticket, error) {
	return b.st.streams.Enqueue(b, entries...)
}

// Ticket stands for entries on their way to the database.
type Ticket struct {
	entries  []*Entry // none any more when they are written: who keeps the ticket does not keep them
	streams  *Streams
	basis    *Basis // nil when nothing is built upon the entries
	lane     *lane
	bytes    int
	queuedAt time.Time
	done     chan struct{}
	err      error

	// Under Streams.mu.
	unsealed           bool
	aborted            bool // it is not to be written
	released, answered bool // it is out of the writer's hands; its outcome is told
}

// Wait returns when the entries are durable, handed to the tails of this process and published, or failed. When ctx
// ends first, they may still be written.
func (t *Ticket) Wait(ctx context.Context) error {
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		select {
		case <-t.done:
			return t.err
		default:
			return ctx.Err()
		}
	}
}

// Decided tells that the entries are durable or failed.
func (t *Ticket) Decided() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// Seal runs the Seal of the entries, which the writer waits for. When it panics nothing is written.
func (t *Ticket) Seal() {
	if t.lane == nil {
		return
	}
	s := t.streams
	s.mu.Lock()
	unsealed, entries := t.unsealed, t.entries
	s.mu.Unlock()
	if !unsealed {
		return
	}
	sealed := false
	defer func() { t.unblock(!sealed) }()
	for _, e := range entries {
		if e.Seal != nil {
			e.Seal()
		}
	}
	sealed = true
}

// Abort makes a ticket that is not sealed fail with ErrAborted.
func (t *Ticket) Abort() { t.unblock(true) }

// ready lets the writer go on.
func (t *Ticket) unblock(broken bool) {
	t.streams.mu.Lock()
	t.unsealed, t.aborted = false, broken
	t.streams.mu.Unlock()
	t.lane.signal()
}

// Append writes entries in one transaction and returns when they are durable, seen by this process's
// tails and published. This process must own their shards.
func (s *Streams) Append(ctx context.Context, entries ...*Entry) error {
	if len(entries) == 0 {
		return nil
	}
	t, err := s.Enqueue(nil, entries...)
	if err != nil {
		return err
	}
	t.Seal()
	return t.Wait(ctx)
}

// Enqueue queues entries, which are written in one transaction, and returns at once. The order of calls is the order of
// positions. An error has changed nothing: ErrNotOwner, ErrAborted, ErrTooLarge or a *BusyError. What was queued is
// not refused later but for a failure of the write; who queued entries with a Seal calls Ticket.Seal next.
//
// basis is what the entries were built upon; nil when they are built upon nothing and nothing is built upon them.
func (s *Streams) Enqueue(basis *Basis, entries ...*Entry) (*Ticket, error) {
	t := &Ticket{entries: entries, streams: s, basis: basis, lane: entries[0].Stream.lane, done: make(chan struct{}), queuedAt: time.Now()}
	for _, e := range entries {
		e.Shard = e.Stream.Shard(e.Key)
		if e.Stream.lane != t.lane {
			panic(fmt.Sprintf("streams %s and %s are written apart from each other", e.Stream.spec.Name, entries[0].Stream.spec.Name))
		}
		t.bytes += e.size()
		t.unsealed = t.unsealed || e.Seal != nil
	}
	if t.bytes > maxTicketBytes {
		return nil, fmt.Errorf("%w: expected at most %d bytes, found %d", ErrTooLarge, maxTicketBytes, t.bytes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		sh := e.Stream.shards[e.Shard]
		if !sh.accepts() || basis != nil && !sh.heldSince(basis.epoch) {
			return nil, ErrNotOwner
		}
		e.epoch = sh.epoch
	}
	if basis != nil && basis.dead {
		return nil, ErrAborted
	}
	if s.queued >= s.opts.Queue || s.queuedBytes+t.bytes > maxQueueBytes {
		return nil, &BusyError{RetryAfter: s.queueDelay()}
	}
	for _, e := range entries {
		e.Stream.shards[e.Shard].pending++
	}
	if basis != nil {
		basis.pending++
	}
	s.queued++
	s.queuedBytes += t.bytes
	t.lane.queue = append(t.lane.queue, t)
	if !t.unsealed {
		t.lane.signal()
	}
	return t, nil
}

func (e *Entry) size() int { return max(e.Bytes, len(e.Data)) + len(e.Key) + 64 }

// waiting is how long the oldest entry has waited: about when there is room again. The caller holds mu.
func (s *Streams) queueDelay() time.Duration {
	longest := 100 * time.Millisecond
	for _, l := range s.lanes {
		if len(l.queue) > 0 {
			longest = max(longest, time.Since(l.queue[0].queuedAt))
		}
	}
	return min(longest, 10*time.Second)
}

// Ownership tells whether this process owns a shard, and under which epoch: what was cached under another
// epoch is stale.
func (st *Stream) Ownership(shard int) (epoch int64, ok bool) {
	st.streams.mu.Lock()
	defer st.streams.mu.Unlock()
	sh := st.shards[shard]
	return sh.epoch, sh.accepts()
}

// Confirm returns when it is certain that the basis was alive after the call began, so that no other process had written
// for its key: an answer from memory that writes nothing may be given. It costs one statement, shared by all who wait,
// and nothing in a process that is alone.
func (b *Basis) Confirm(ctx context.Context) error {
	s := b.st.streams
	if !s.opts.Leases.Alone() {
		held, err := s.leaseReads.wait(ctx)
		if err != nil {
			return err
		}
		self, h := s.opts.Leases.Self(), held[b.st.leases[b.shard]]
		if h.Machine != self.ID || h.Incarnation != self.Incarnation {
			s.opts.Leases.Wake()
			return ErrNotOwner
		}
	}
	if !b.Alive() {
		return ErrNotOwner
	}
	return nil
}

// lane is a queue of its own and what writes it. Streams of different lanes do not hold each other up.
type lane struct {
	name     string
	wake     chan struct{}
	queue    []*Ticket // under Streams.mu
	inFlight int       // commits under way, under Streams.mu
	pace     pace      // under Streams.mu
	outcomes chan outcome
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// laneOf finds or makes the lane of a stream, at wiring time.
func (s *Streams) laneOf(name string) *lane {
	i := slices.IndexFunc(s.lanes, func(l *lane) bool { return l.name == name })
	if i < 0 {
		i = len(s.lanes)
		s.lanes = append(s.lanes, &lane{name: name, wake: make(chan struct{}, 1), outcomes: make(chan outcome, 64)})
	}
	return s.lanes[i]
}

// take gives the tickets for the next commit of a lane: those of whose shards none is in another commit. The shards are
// in this one until free is called.
func (s *Streams) takeBatch(l *lane) []*Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeCount++
	var batch []*Ticket
	entries, bytes := 0, 0
	rest := l.queue[:0]
	for i, t := range l.queue {
		if len(batch) > 0 && (entries+len(t.entries) > s.opts.Batch || bytes+t.bytes > maxBatchBytes) {
			rest = append(rest, l.queue[i:]...)
			break
		}
		blocked := t.unsealed || slices.ContainsFunc(t.entries, func(e *Entry) bool {
			sh := e.Stream.shards[e.Shard]
			return sh.inCommit || sh.blockedTake == s.takeCount
		})
		if blocked { // and so is what comes behind it for the same shards
			for _, e := range t.entries {
				e.Stream.shards[e.Shard].blockedTake = s.takeCount
			}
			rest = append(rest, t)
			continue
		}
		batch = append(batch, t)
		entries += len(t.entries)
		bytes += t.bytes
	}
	clear(l.queue[len(rest):])
	l.queue = rest
	for _, t := range batch {
		for _, e := range t.entries {
			e.Stream.shards[e.Shard].inCommit = true
		}
	}
	if len(batch) > 0 {
		l.inFlight++
	}
	return batch
}

// forget lets go of what nobody asks for any more, under Streams.mu.
func (t *Ticket) dropEntries() {
	if t.released && t.answered {
		t.entries, t.basis = nil, nil
	}
}

// free ends a commit, which took so long.
func (s *Streams) releaseBatch(l *lane, batch []*Ticket, took time.Duration) {
	s.mu.Lock()
	l.pace.add(took)
	for _, t := range batch {
		for _, e := range t.entries {
			e.Stream.shards[e.Shard].inCommit = false
		}
		t.released = true
		t.dropEntries()
	}
	l.inFlight--
	s.mu.Unlock()
	l.signal()
}

func (s *Streams) isIdle(l *lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(l.queue) == 0 && l.inFlight == 0
}

func (s *Streams) overlapDelay(l *lane) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.pace.overlapDelay()
}
