package stream

import (
	"context"
	"fmt"
	"time"
)

const (
	maxTicketBytes = 16 << 20  // of one ticket
	maxBatchBytes  = 4 << 20   // of one transaction; a larger ticket has one of its own
	maxQueueBytes  = 256 << 20 // of all waiting tickets
)

// Ticket stands for entries on their way to the database.
type Ticket struct {
	entries  []*Entry // nil after they were written, so that a kept ticket does not keep them
	streams  *Streams
	basis    *Basis // nil when nothing is built upon the entries
	lane     *lane
	bytes    int
	queuedAt time.Time
	done     chan struct{}
	err      error

	// Under Streams.mu.
	unsealed         bool
	aborted          bool // it must not be written
	written, decided bool // written: the writer does not use it any more; decided: its outcome is known
}

// Wait returns when the entries are durable, seen by the subscriptions of this process and published, or have failed.
// When ctx ends first, they may still be written.
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

// Decided reports whether the entries are durable or failed.
func (t *Ticket) Decided() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// Seal runs the Seal functions of the entries; the writer waits for it. When one panics nothing is written.
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

// unblock lets the writer take the ticket, to write it or, when aborted, to fail it.
func (t *Ticket) unblock(broken bool) {
	t.streams.mu.Lock()
	t.unsealed, t.aborted = false, broken
	t.streams.mu.Unlock()
	t.lane.signal()
}

// Append writes entries in one transaction and returns when they are durable, seen by this process's subscriptions and
// published. This process must own their shards.
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

// Enqueue queues entries, which are written in one transaction, and returns at once. Positions follow the order of
// calls. An error means that nothing was changed: ErrNotOwner, ErrAborted, ErrTooLarge or a *BusyError. Queued entries
// fail later only when the write fails. A caller whose entries have a Seal calls Ticket.Seal next.
//
// basis is what the entries were built upon; nil when they depend on no state and no later entry is built upon them.
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

// queueDelay is how long the oldest entry has waited, which is about when there is room again; the caller holds mu.
func (s *Streams) queueDelay() time.Duration {
	longest := 100 * time.Millisecond
	for _, l := range s.lanes {
		if len(l.queue) > 0 {
			longest = max(longest, time.Since(l.queue[0].queuedAt))
		}
	}
	return min(longest, 10*time.Second)
}
