package stream

import (
	"context"
	"errors"
	"time"

	"lyceum/platform/backoff"
	"lyceum/platform/lease"
)

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
	notReplaced := func(err error) bool { return !errors.Is(err, lease.ErrReplaced) }
	err := backoff.Retry(ctx, backoff.Backoff{First: 50 * time.Millisecond, Max: time.Second}, notReplaced, func() error {
		step, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return s.opts.Leases.SetDegraded(step, true)
	})
	if err != nil {
		return false
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

// strayed tells that there may be processes which believe this one to be at another server of the bus.
func (s *Streams) busMoveUntold() bool { return s.busMovesTold.Load() < s.busMoves.Load() }

// losses counts what makes the stored positions worth reading.
func (s *Streams) lossCount() int64 { return s.lostMessages.Load() + s.opts.Leases.DegradedViews() }

// trusted tells whether the bus carries all rows that are acknowledged: no message was lost since the stored
// positions were read, and no process is known to write without it.
func (s *Streams) busIsComplete() bool {
	return s.opts.Leases.NoneDegraded() && s.lossesRead.Load() >= s.lossCount() && s.opts.Bus.Connected()
}
