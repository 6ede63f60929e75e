package stream

import (
	"context"
	"time"

	"lyceum/platform/backoff"
	"lyceum/platform/db"
	"lyceum/platform/lease"
)

// Barrier returns when the subscriptions of this process have seen all rows that any process had acknowledged before
// the call. It costs one message to the bus and back, shared by concurrent callers, and nothing in a process that is
// the only member of the fleet. While the bus does not carry all rows it reads the positions from the database. Before
// Start has returned, Barrier waits for that.
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
		// Without the database too, this process knows nothing: another one may be degraded, or the only member.
		if _, err := s.highWaterMarks.Wait(ctx); err != nil {
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
	type position struct {
		shard int
		pos   int64
	}
	var behind []position
	for i, sh := range st.shards {
		if sh.seen < sh.target {
			behind = append(behind, position{i, sh.target})
		}
	}
	st.mu.Unlock()
	for _, b := range behind {
		if err := st.WaitFor(ctx, b.shard, b.pos); err != nil {
			return err
		}
	}
	return nil
}

// readHighWaterMarks reads the stored positions of all shards and begins to read the rows that are missing.
func (s *Streams) readHighWaterMarks(ctx context.Context) error {
	losses := s.lossCount()
	held, err := s.readPositions(ctx)
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

// readPositions reads the stored position of each shard, by the name of its lease. A database that was away for a moment leaves broken
// connections behind: no reason to refuse requests, or to end a process that starts.
func (s *Streams) readPositions(ctx context.Context) (held map[string]lease.Holder, err error) {
	pauses := backoff.Backoff{First: 10 * time.Millisecond, Max: time.Second, Attempts: 8}
	err = backoff.Retry(ctx, pauses, db.IsUnavailable, func() (err error) {
		held, err = s.opts.Leases.Read(ctx, "stream/")
		return err
	})
	return held, err
}
