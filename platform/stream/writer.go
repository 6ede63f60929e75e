package stream

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"lyceum/platform/backoff"
	"lyceum/platform/db"
	"lyceum/platform/lease"
)

const (
	maxCommits            = 4 // of one lane at a time
	maxConnectionFailures = 5 // how often a batch may break its connection while the database answers
)

// runWriter commits what is queued until ctx ends and the queues are empty.
func (s *Streams) runWriter(ctx context.Context) {
	var wg sync.WaitGroup
	for _, l := range s.lanes {
		wg.Go(func() { s.runLane(ctx, l) })
	}
	wg.Wait()
}

func (s *Streams) runLane(ctx context.Context, l *lane) {
	var completing, commits sync.WaitGroup
	completing.Go(func() { s.completeAll(l) })
	defer completing.Wait()
	defer close(l.outcomes)
	defer commits.Wait()
	commit := func(batch []*Ticket) {
		began := time.Now()
		s.commit(ctx, batch)
		s.endCommit(l, batch, time.Since(began))
	}
	slots := make(chan struct{}, maxCommits)
	overlap := time.NewTimer(slowCommit)
	defer overlap.Stop()
	ctxDone := ctx.Done()
	for {
		runtime.Gosched() // when processors are busy, goroutines about to queue entries run first: larger commits
		batch := s.takeBatch(l)
		if len(batch) == 0 {
			if ctxDone == nil && s.isIdle(l) {
				return
			}
			select {
			case <-ctxDone:
				ctxDone = nil
			case <-l.wake:
			}
			continue
		}
		if !s.opts.DB.Postgres() { // one transaction at a time
			commit(batch)
			continue
		}
		slots <- struct{}{}
		done := make(chan struct{})
		commits.Go(func() {
			defer close(done)
			defer func() { <-slots }()
			commit(batch)
		})
		overlap.Reset(s.overlapDelay(l))
		select {
		case <-done:
		case <-overlap.C:
		}
	}
}

// commit writes a batch in one transaction if it can. When one ticket is at fault, the others are written without it.
// While the database is away, commit waits for it.
func (s *Streams) commit(ctx context.Context, batch []*Ticket) {
	failures := 0
	pause := backoff.Backoff{First: 10 * time.Millisecond, Max: time.Second}
	for {
		if batch = s.failStale(batch); len(batch) == 0 {
			return
		}
		start := time.Now()
		leases, err := s.write(batch)
		retry := false
		switch {
		case err == nil:
		case db.IsUnavailable(err) || isUnconfirmed(err):
			stored, decided := s.resolve(ctx, leases)
			if stored {
				err = nil
				break
			}
			failures++
			retry = !decided || failures < maxConnectionFailures
		case errors.Is(err, lease.ErrLost):
			s.giveUpLost(ctx)
			retry = true
		}
		switch {
		case err == nil:
			s.metrics.observeCommit(batch, time.Since(start))
			s.committed(batch)
			return
		case retry && ctx.Err() == nil:
			_ = pause.Wait(ctx) // at the end of ctx the batch is written once more
		case retry:
			for _, t := range s.failStale(batch) {
				s.fail(t, err)
			}
			return
		case len(batch) == 1:
			s.failRefused(batch[0], err)
			return
		default:
			// One entry that the database refuses must not fail the others.
			level := slog.LevelWarn
			if isRefusal(err) {
				level = slog.LevelDebug
			}
			s.opts.Log.Log(ctx, level, "a group commit failed, writing its parts one by one", "tickets", len(batch), "error", err)
			for _, t := range batch {
				s.commit(ctx, []*Ticket{t})
			}
			return
		}
	}
}

// write runs the one transaction of a group commit. It returns the leases with the positions that the commit reaches.
func (s *Streams) write(batch []*Ticket) ([]lease.Lease, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	leases, byStream := s.assignPositions(batch)
	err := s.opts.DB.Write(ctx, func(w *db.Batch) error {
		s.opts.Leases.Advance(w, leases)
		for _, st := range s.opened {
			if entries := byStream[st]; len(entries) > 0 {
				if err := st.spec.Store.Insert(ctx, w, entries); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return leases, err
}

// assignPositions gives the entries of a batch their positions.
func (s *Streams) assignPositions(batch []*Ticket) ([]lease.Lease, map[*Stream][]*Entry) {
	byStream := map[*Stream][]*Entry{}
	leases := map[string]lease.Lease{}
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
			leases[name] = lease.Lease{Name: name, Epoch: sh.epoch, Pos: pos}
			byStream[e.Stream] = append(byStream[e.Stream], e)
		}
	}
	// All processes take row locks in the same order.
	return slices.SortedFunc(maps.Values(leases), func(a, b lease.Lease) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}), byStream
}

// resolve finds out whether a transaction without an answer is durable. It waits until the database answers and the
// transaction has ended, and makes sure that it can not arrive later. decided is false when ctx ended before that.
// Shards that others have taken over meanwhile are given up; when all of them are, stored is false although the rows
// may be there: the callers ask the new owners.
func (s *Streams) resolve(ctx context.Context, leases []lease.Lease) (stored, decided bool) {
	s.opts.Log.Warn("the outcome of a write is not known, asking the database")
	held := func(m lease.Lease) bool { // without interruption: no other process can have moved the lease
		epoch, owned := s.leaseEpoch(s.byLease[m.Name].st, s.byLease[m.Name].shard)
		return owned && epoch == m.Epoch
	}
	var renewed map[string]lease.Lease
	err := backoff.Retry(ctx, backoff.Backoff{First: 20 * time.Millisecond, Max: 500 * time.Millisecond}, nil, func() (err error) {
		var names []string
		for _, m := range leases {
			if held(m) {
				names = append(names, m.Name)
			}
		}
		step, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		renewed, err = s.opts.Leases.Renew(step, names...)
		return err
	})
	if err != nil {
		return false, false
	}
	for _, m := range leases {
		l, mine := renewed[m.Name]
		if !held(m) {
			continue
		}
		p := s.byLease[m.Name]
		if !mine {
			s.giveUp(p.st, p.shard)
			continue
		}
		s.mu.Lock()
		p.st.shards[p.shard].epoch = l.Epoch
		s.mu.Unlock()
		stored = stored || l.Pos >= m.Pos
	}
	return stored, true
}

// failStale fails the tickets whose shards were lost since they were queued, and the tickets built upon failed ones,
// and returns the others.
func (s *Streams) failStale(batch []*Ticket) []*Ticket {
	var rest []*Ticket
	for _, t := range batch {
		if err := s.whyStale(t); err != nil {
			s.fail(t, err)
		} else {
			rest = append(rest, t)
		}
	}
	return rest
}

func (s *Streams) whyStale(t *Ticket) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(t.entries, func(e *Entry) bool { return !e.Stream.shards[e.Shard].heldSince(e.epoch) }) {
		return ErrNotOwner
	}
	if t.aborted || t.basis != nil && t.basis.dead {
		return ErrAborted
	}
	return nil
}

// giveUpLost gives up the shards whose leases this process does not have, or not under the epoch that it writes with.
func (s *Streams) giveUpLost(ctx context.Context) {
	step, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	epochs := map[shardRef]int64{}
	for _, st := range s.opened {
		for i := range st.shards {
			if epoch, owned := s.leaseEpoch(st, i); owned {
				epochs[shardRef{st, i}] = epoch
			}
		}
	}
	held, err := s.opts.Leases.Read(step, "stream/")
	if err != nil {
		return // the write is tried again and finds the leases lost again
	}
	for p, before := range epochs {
		// A lease that was renewed or taken anew meanwhile was not lost.
		if epoch, owned := s.leaseEpoch(p.st, p.shard); owned && epoch == before && held[p.st.Lease(p.shard)].Epoch != epoch {
			s.giveUp(p.st, p.shard)
		}
	}
}

// leaseEpoch returns the epoch of a shard's lease and whether this process owns the shard, also while it is being released.
func (s *Streams) leaseEpoch(st *Stream, shard int) (epoch int64, owned bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return st.shards[shard].epoch, st.shards[shard].owned
}

// giveUp stops owning a shard. What is queued for it becomes stale.
func (s *Streams) giveUp(st *Stream, shard int) {
	s.opts.Log.Warn("a shard is given up", "stream", st.spec.Name, "shard", shard)
	s.mu.Lock()
	s.setOwned(st.shards[shard], false)
	s.mu.Unlock()
	if st.spec.OnLost != nil {
		st.spec.OnLost(shard)
	}
}
