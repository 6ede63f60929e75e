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
	if len(entries) == 0 {
		close(t.done)
		return t
	}
	for _, e := range entries {
		e.Shard = e.Stream.Shard(e.Key)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		sh := e.Stream.shards[e.Shard]
		if !sh.open() {
			t.err = ErrNotOwner
			close(t.done)
			return t
		}
		e.epoch = sh.epoch
	}
	if len(s.queue) >= s.o.Queue {
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
	return sh.epoch, sh.open()
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
	for n < len(s.queue) && (n == 0 || entries+len(s.queue[n].entries) <= s.o.Batch) {
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
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		if batch = s.dropStale(batch); len(batch) == 0 {
			return
		}
		start := time.Now()
		marks, err := s.write(batch)
		again := false
		if err != nil && (db.IsUnavailable(err) || isUnconfirmed(err)) {
			if s.resolve(ctx, marks) {
				err = nil
			} else {
				again = true
			}
		} else if errors.Is(err, lease.ErrLost) {
			s.dropLost(ctx)
			again = true
		}
		switch {
		case err == nil:
			s.metrics.committed(batch, time.Since(start))
			s.committed(batch)
			return
		case again && ctx.Err() == nil:
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		case again || len(batch) == 1:
			for _, t := range s.dropStale(batch) {
				s.fail(t, err)
			}
			return
		default:
			// One entry that the database refuses must not fail the others.
			s.o.Log.Warn("a group commit failed, writing its parts one by one", "tickets", len(batch), "error", err)
			failed := map[place]bool{}
			for _, t := range batch {
				if t.touches(failed) {
					s.fail(t, ErrAborted)
				} else {
					s.commit(ctx, []*Ticket{t})
				}
				if t.err != nil {
					t.mark(failed)
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

// place is a shard of a stream.
type place struct {
	st    *Stream
	shard int
}

func (t *Ticket) touches(places map[place]bool) bool {
	return slices.ContainsFunc(t.entries, func(e *Entry) bool { return places[place{e.Stream, e.Shard}] })
}

func (t *Ticket) mark(places map[place]bool) {
	for _, e := range t.entries {
		places[place{e.Stream, e.Shard}] = true
	}
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
			marks[name] = lease.Lease{Name: name, Epoch: e.epoch, Pos: pos}
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
// marks is durable. As a lease fences all others out, its stored position tells while its epoch is ours.
// A position below the mark tells it under any epoch. When all leases were taken over and moved on, it is not
// known, and false: the entries are given up, since their shards are.
func (s *Streams) resolve(ctx context.Context, marks []lease.Lease) bool {
	s.o.Log.Warn("the database is away, writes wait for it")
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		step, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		held, err := s.o.Leases.Read(step, "stream/")
		cancel()
		if err == nil {
			return slices.ContainsFunc(marks, func(m lease.Lease) bool {
				return held[m.Name].Epoch == m.Epoch && held[m.Name].Pos >= m.Pos
			})
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

// dropStale fails the tickets of shards that were lost since they were queued, and returns the others.
func (s *Streams) dropStale(batch []*Ticket) []*Ticket {
	var rest []*Ticket
	broken := map[place]bool{}
	for _, t := range batch {
		switch {
		case s.stale(t):
			t.mark(broken)
			s.fail(t, ErrNotOwner)
		case t.touches(broken):
			t.mark(broken)
			s.fail(t, ErrAborted)
		default:
			rest = append(rest, t)
		}
	}
	return rest
}

func (s *Streams) stale(t *Ticket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(t.entries, func(e *Entry) bool {
		sh := e.Stream.shards[e.Shard]
		return !sh.owned || sh.epoch != e.epoch
	})
}

// dropLost gives up the shards whose leases other processes have.
func (s *Streams) dropLost(ctx context.Context) {
	step, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	held, err := s.o.Leases.Read(step, "stream/")
	if err != nil {
		return // the write is tried again and finds the leases lost again
	}
	for _, st := range s.order {
		for i := range st.shards {
			if epoch, owned := s.holds(st, i); owned && held[st.Lease(i)].Epoch > epoch {
				s.giveUp(st, i)
			}
		}
	}
}

// holds tells whether this process has the lease of a shard, be it open for entries or not.
func (s *Streams) holds(st *Stream, shard int) (epoch int64, owned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return st.shards[shard].epoch, st.shards[shard].owned
}

// giveUp stops owning a shard whose lease another process has. What is queued for it becomes stale.
func (s *Streams) giveUp(st *Stream, shard int) {
	s.o.Log.Warn("a shard was taken over by another process", "stream", st.spec.Name, "shard", shard)
	sh := st.shards[shard]
	s.mu.Lock()
	sh.closing = true
	s.mu.Unlock()
	if st.spec.Lost != nil {
		st.spec.Lost(shard)
	}
	s.mu.Lock()
	sh.owned, sh.closing, sh.leaving = false, false, false
	s.mu.Unlock()
}

// committed moves the shards forward, hands the rows to the tails, publishes them and answers.
func (s *Streams) committed(batch []*Ticket) {
	byStream := map[*Stream][]Row{}
	s.mu.Lock()
	for _, t := range batch {
		for _, e := range t.entries {
			sh := e.Stream.shards[e.Shard]
			if sh.epoch == e.epoch {
				sh.next = e.Pos + 1
			}
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
	if !s.publish(byStream, time.Now().UnixMilli()) {
		s.metrics.unpublished()
		s.hush()
	}
	for _, t := range batch {
		s.settle(t, nil)
	}
	s.signalSettled()
}

// fail answers a ticket and drops what the domains built upon it: their caches and what is queued behind
// it for the same shards, also for those that queued tickets share with it.
func (s *Streams) fail(t *Ticket, err error) {
	broken := map[place]bool{}
	t.mark(broken)
	var aborted []*Ticket
	s.mu.Lock()
	s.queue = slices.DeleteFunc(s.queue, func(other *Ticket) bool {
		if !other.touches(broken) {
			return false
		}
		other.mark(broken)
		aborted = append(aborted, other)
		return true
	})
	for p := range broken {
		p.st.shards[p.shard].closing = true // nothing is built upon the failed entry while its cache is dropped
	}
	s.mu.Unlock()
	for p := range broken {
		if p.st.spec.Lost != nil {
			p.st.spec.Lost(p.shard)
		}
	}
	s.mu.Lock()
	for p := range broken {
		p.st.shards[p.shard].closing = false
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
