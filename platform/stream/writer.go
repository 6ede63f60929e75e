package stream

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/lease"
)

const (
	maxQueue = 20_000 // entries that may wait
	maxBatch = 1_000  // entries of one transaction
)

// Ticket stands for entries on their way to the database.
type Ticket struct {
	entries []*Entry
	done    chan struct{}
	err     error
}

// Wait returns when the entries are durable and handed to the tails of this process, or failed. When ctx
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

// Append writes entries in one transaction and returns when they are durable, seen by this process's
// tails and published. This process must own their shards.
func (s *Streams) Append(ctx context.Context, entries ...*Entry) error {
	return s.Enqueue(entries...).Wait(ctx)
}

// Enqueue is Append without the wait. The order of calls is the order of positions.
func (s *Streams) Enqueue(entries ...*Entry) *Ticket {
	t := &Ticket{entries: entries, done: make(chan struct{})}
	for _, e := range entries {
		e.Shard = e.Stream.Shard(e.Key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		sh := e.Stream.shards[e.Shard]
		if !sh.owned || sh.closing {
			t.err = ErrNotOwner
			close(t.done)
			return t
		}
	}
	if len(s.queue) >= maxQueue {
		t.err = ErrBusy
		close(t.done)
		return t
	}
	for _, e := range entries {
		e.Stream.shards[e.Shard].pending++
	}
	s.queue = append(s.queue, t)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return t
}

// Claim tells whether this process owns a shard, and under which epoch: what was cached under another
// epoch is stale.
func (st *Stream) Claim(shard int) (epoch int64, ok bool) {
	st.set.mu.Lock()
	defer st.set.mu.Unlock()
	sh := st.shards[shard]
	return sh.epoch, sh.owned && !sh.closing
}

// runWriter commits what is queued until ctx ends and the queue is empty.
func (s *Streams) runWriter(ctx context.Context) {
	for {
		batch := s.take()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				if batch = s.take(); len(batch) == 0 {
					return
				}
			case <-s.wake:
				continue
			}
		}
		s.commit(ctx, batch)
	}
}

func (s *Streams) take() []*Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, entries := 0, 0
	for n < len(s.queue) && (n == 0 || entries+len(s.queue[n].entries) <= maxBatch) {
		entries += len(s.queue[n].entries)
		n++
	}
	batch := s.queue[:n:n]
	s.queue = s.queue[n:]
	return batch
}

// commit writes a batch, in whole if it can. When one ticket is at fault, the others are written without
// it; when the database is away, it waits for it.
func (s *Streams) commit(ctx context.Context, batch []*Ticket) {
	for len(batch) > 0 {
		start := time.Now()
		marks, err := s.write(batch)
		if err != nil && (db.IsUnavailable(err) || isUnconfirmed(err)) {
			if s.resolve(ctx, marks) {
				err = nil
			} else if ctx.Err() == nil {
				continue
			}
		}
		switch {
		case err == nil:
			s.metrics.committed(batch, time.Since(start))
			s.committed(batch)
			return
		case errors.Is(err, lease.ErrLost):
			batch = s.dropLost(ctx, batch)
		case len(batch) == 1:
			s.fail(batch[0], err)
			return
		default:
			// One entry that the database refuses must not fail the others.
			s.o.Log.Warn("a group commit failed, writing its parts one by one", "tickets", len(batch), "error", err)
			failed := map[*shard]bool{}
			for _, t := range batch {
				if s.touches(t, failed) {
					s.fail(t, ErrAborted)
				} else if s.commit(ctx, []*Ticket{t}); t.err != nil {
					for _, e := range t.entries {
						failed[e.Stream.shards[e.Shard]] = true
					}
				}
			}
			return
		}
	}
}

func isUnconfirmed(err error) bool {
	var c *db.CommitError
	return errors.As(err, &c)
}

func (s *Streams) touches(t *Ticket, shards map[*shard]bool) bool {
	return slices.ContainsFunc(t.entries, func(e *Entry) bool { return shards[e.Stream.shards[e.Shard]] })
}

// write runs the one transaction of a group commit and returns what it meant to reach.
func (s *Streams) write(batch []*Ticket) ([]lease.Lease, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	marks, byStream := s.assign(batch)
	err := s.o.DB.Tx(ctx, func(tx *db.Tx) error {
		if err := s.o.Leases.Advance(ctx, tx, marks); err != nil {
			return err
		}
		for _, st := range s.order {
			if entries := byStream[st]; len(entries) > 0 {
				if err := st.spec.Store.Insert(ctx, tx, entries); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return marks, err
}

// assign gives the entries of a batch their positions.
func (s *Streams) assign(batch []*Ticket) ([]lease.Lease, map[*Stream][]*Entry) {
	byStream := map[*Stream][]*Entry{}
	marks := map[string]lease.Lease{}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := map[*shard]int64{}
	for _, t := range batch {
		for _, e := range t.entries {
			sh := e.Stream.shards[e.Shard]
			pos, ok := next[sh]
			if !ok {
				pos = sh.next
			}
			e.Pos = pos
			next[sh] = pos + 1
			name := e.Stream.Lease(e.Shard)
			marks[name] = lease.Lease{Name: name, Epoch: sh.epoch, Pos: pos}
			byStream[e.Stream] = append(byStream[e.Stream], e)
		}
	}
	// One order of row locks in all processes.
	return slices.SortedFunc(maps.Values(marks), func(a, b lease.Lease) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}), byStream
}

// resolve waits until the database answers again and tells whether the transaction that meant to reach
// marks is durable. As the leases fence all others out, their stored positions tell.
func (s *Streams) resolve(ctx context.Context, marks []lease.Lease) bool {
	s.o.Log.Warn("the database is away, writes wait for it")
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		step, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		held, err := s.o.Leases.Read(step, "stream/")
		cancel()
		if err == nil {
			m := marks[0]
			return held[m.Name].Epoch == m.Epoch && held[m.Name].Pos >= m.Pos
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// dropLost fails the tickets of shards that were taken over, and returns the others.
func (s *Streams) dropLost(ctx context.Context, batch []*Ticket) []*Ticket {
	step, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	held, err := s.o.Leases.Read(step, "stream/")
	if err != nil {
		held = nil // not known which: all are given up, and taken again if they are still free
	}
	lost := map[*shard]bool{}
	for _, st := range s.order {
		for i, sh := range st.shards {
			if epoch, owned := st.Claim(i); owned && held[st.Lease(i)].Epoch != epoch {
				lost[sh] = true
				s.giveUp(st, i)
			}
		}
	}
	var rest []*Ticket
	for _, t := range batch {
		if s.touches(t, lost) {
			s.fail(t, ErrNotOwner)
		} else {
			rest = append(rest, t)
		}
	}
	return rest
}

// giveUp stops owning a shard whose lease another process has.
func (s *Streams) giveUp(st *Stream, shard int) {
	s.mu.Lock()
	st.shards[shard].owned = false
	s.mu.Unlock()
	s.o.Log.Warn("a shard was taken over by another process", "stream", st.spec.Name, "shard", shard)
	if st.spec.Lost != nil {
		st.spec.Lost(shard)
	}
}

// committed moves the shards forward, hands the rows to the tails, publishes them and answers.
func (s *Streams) committed(batch []*Ticket) {
	byStream := map[*Stream][]Row{}
	s.mu.Lock()
	for _, t := range batch {
		for _, e := range t.entries {
			sh := e.Stream.shards[e.Shard]
			sh.next = e.Pos + 1
			byStream[e.Stream] = append(byStream[e.Stream], e.Row)
		}
	}
	s.mu.Unlock()
	for _, st := range s.order {
		if rows := byStream[st]; len(rows) > 0 {
			// The rows of one shard follow each other, so that readers find no gap.
			slices.SortStableFunc(rows, func(a, b Row) int { return a.Shard - b.Shard })
			st.deliver(rows)
		}
	}
	s.publish(byStream)
	for _, t := range batch {
		s.settle(t, nil)
	}
	s.signalSettled()
}

// fail answers a ticket and drops what the domain built upon it.
func (s *Streams) fail(t *Ticket, err error) {
	s.mu.Lock()
	aborted := []*Ticket{}
	shards := map[*shard]bool{}
	for _, e := range t.entries {
		sh := e.Stream.shards[e.Shard]
		shards[sh] = true
		sh.closing = true // nothing is built upon the failed entry while its cache is dropped
	}
	s.queue = slices.DeleteFunc(s.queue, func(other *Ticket) bool {
		if !s.touches(other, shards) {
			return false
		}
		aborted = append(aborted, other)
		return true
	})
	s.mu.Unlock()
	for _, e := range t.entries {
		if e.Stream.spec.Lost != nil {
			e.Stream.spec.Lost(e.Shard)
		}
	}
	s.mu.Lock()
	for sh := range shards {
		sh.closing = sh.leaving
	}
	s.mu.Unlock()
	for _, other := range aborted {
		s.settle(other, ErrAborted)
	}
	s.settle(t, err)
	s.signalSettled()
}

func (s *Streams) settle(t *Ticket, err error) {
	s.mu.Lock()
	for _, e := range t.entries {
		e.Stream.shards[e.Shard].pending--
	}
	s.mu.Unlock()
	t.err = err
	close(t.done)
}

func (s *Streams) signalSettled() {
	s.mu.Lock()
	close(s.settled)
	s.settled = make(chan struct{})
	s.mu.Unlock()
}
