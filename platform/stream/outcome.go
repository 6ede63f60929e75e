package stream

import (
	"errors"
	"slices"
	"time"

	"lyceum/platform/db"
)

// outcome is the result of a commit, on its way to the callers that wait. The outcomes of a lane are delivered in
// order, so a caller that waits for the newest ticket of a key has waited for all tickets before it.
type outcome struct {
	tickets     []*Ticket
	err         error
	rows        map[*Stream][]Row // published before the tickets complete
	committedAt time.Time
}

// committed moves the shards forward, gives the rows to the subscriptions and passes them on to be published.
func (s *Streams) committed(batch []*Ticket) {
	byStream := map[*Stream][]Row{}
	s.mu.Lock()
	for _, t := range batch {
		for _, e := range t.entries {
			if sh := e.Stream.shards[e.Shard]; sh.heldSince(e.epoch) {
				sh.next = e.Pos + 1
			}
			byStream[e.Stream] = append(byStream[e.Stream], e.Row)
		}
	}
	s.mu.Unlock()
	for _, st := range s.opened {
		if rows := byStream[st]; len(rows) > 0 {
			// The rows of one shard follow each other, so that readers find no gap.
			slices.SortStableFunc(rows, func(a, b Row) int { return a.Shard - b.Shard })
			st.deliver(rows)
		}
	}
	batch[0].lane.outcomes <- outcome{tickets: batch, rows: byStream, committedAt: time.Now()}
}

// completeAll publishes committed rows and completes their tickets, concurrently with the next commit.
func (s *Streams) completeAll(l *lane) {
	for o := range l.outcomes {
		if o.err == nil {
			published := s.publish(o.rows, o.committedAt.UnixMilli())
			if !published {
				s.metrics.countUnpublished()
			}
			// After a move of the bus, processes at the former server did not receive the rows.
			if (!published || s.busMoveUnannounced()) && !s.markDegraded(s.ctx) {
				o.err = &db.CommitError{Err: errNotAnnounced} // other processes may not see the rows yet
			}
		}
		s.complete(o)
	}
}

func (s *Streams) complete(o outcome) {
	s.mu.Lock()
	for _, t := range o.tickets {
		for _, e := range t.entries {
			e.Stream.shards[e.Shard].pending--
		}
		if t.basis != nil {
			t.basis.pending--
		}
		s.queued--
		s.queuedBytes -= t.bytes
		t.err = o.err
		t.decided = true
		t.freeEntries()
		close(t.done)
	}
	close(s.outcomesKnown)
	s.outcomesKnown = make(chan struct{})
	s.mu.Unlock()
}

// failRefused fails a ticket that the database refuses. A position that is already taken means that this process
// counts the positions of the shard wrongly: it gives the shard up and acquires it again.
func (s *Streams) failRefused(t *Ticket, err error) {
	for _, e := range t.entries {
		if key := e.Stream.spec.PositionKey; key != "" && db.IsUniqueOn(err, key) {
			s.opts.Log.Error("a position is taken already, taking the shard anew", "stream", e.Stream.spec.Name, "shard", e.Shard, "position", e.Pos)
			s.giveUp(e.Stream, e.Shard)
			err = ErrNotOwner
		}
	}
	s.fail(t, err)
}

// fail ends a ticket that was not written, together with the queued tickets that are built upon it.
func (s *Streams) fail(t *Ticket, err error) {
	var aborted []*Ticket
	s.mu.Lock()
	if t.basis != nil {
		t.basis.dead = true
		t.lane.queue = slices.DeleteFunc(t.lane.queue, func(other *Ticket) bool {
			if other.basis != t.basis {
				return false
			}
			aborted = append(aborted, other)
			return true
		})
	}
	s.mu.Unlock()
	if errors.Is(err, ErrAborted) || len(aborted) == 0 {
		t.lane.outcomes <- outcome{tickets: append([]*Ticket{t}, aborted...), err: err}
		return
	}
	t.lane.outcomes <- outcome{tickets: []*Ticket{t}, err: err}
	t.lane.outcomes <- outcome{tickets: aborted, err: ErrAborted}
}
