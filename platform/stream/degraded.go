package stream

import (
	"context"
	"errors"
	"time"

	"lyceum/platform/backoff"
	"lyceum/platform/lease"
)

// markDegraded marks this process as degraded before it acknowledges rows that the bus refused, or that the bus may
// not have brought to all because this process came to another server. From then on Barrier reads the database in all
// processes. It returns after ViewTTL, when every process has read that this one is degraded; later calls return at
// once. announced is false when ctx ended before that.
func (s *Streams) markDegraded(ctx context.Context) (announced bool) {
	s.degradedMu.Lock()
	defer s.degradedMu.Unlock()
	moves := s.busMoves.Load()
	if s.degraded && !s.recoveryUnconfirmed || s.opts.Leases.Embedded() {
		s.announcedBusMoves.Store(moves) // markRecovered announces the server of this process
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
	case <-ctx.Done(): // the next call waits just as long
		return false
	case <-time.After(s.opts.Leases.ViewTTL()):
	}
	s.degraded, s.recoveryUnconfirmed = true, false
	s.announcedBusMoves.Store(moves)
	return true
}

// markRecovered ends what markDegraded began, when the bus takes messages again. A process that reads of the
// recovery reads the stored positions once.
func (s *Streams) markRecovered(ctx context.Context) {
	if !s.degradedMu.TryLock() {
		return
	}
	defer s.degradedMu.Unlock()
	if !s.degraded || !s.opts.Bus.Connected() || s.opts.Bus.Barrier(ctx) != nil {
		return
	}
	err := s.opts.Leases.SetDegraded(ctx, false)
	s.degraded, s.recoveryUnconfirmed = err != nil, err != nil
}

// busMoveUnannounced reports whether some processes may still take this one to be at another server of the bus.
func (s *Streams) busMoveUnannounced() bool { return s.announcedBusMoves.Load() < s.busMoves.Load() }

// lossCount counts the events after which the stored positions must be read again.
func (s *Streams) lossCount() int64 { return s.lostMessages.Load() + s.opts.Leases.DegradedViews() }

// busIsComplete reports whether the bus carries all rows that are acknowledged: no message was lost since the stored
// positions were read, and no process is known to write while degraded.
func (s *Streams) busIsComplete() bool {
	return s.opts.Leases.NoneDegraded() && s.lossesRead.Load() >= s.lossCount() && s.opts.Bus.Connected()
}
