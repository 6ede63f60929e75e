package stream

import (
	"context"
	"errors"
	"sync"
	"time"

	"lyceum/platform/bus"
)

// Start reads the positions, subscribes to the streams that the roles of this process need, and takes this process's
// share of the shards.
func (s *Streams) Start(ctx context.Context) error {
	s.wired = true
	self := s.opts.Leases.Self()
	var wanted []*Stream
	var needs []string
	for _, st := range s.opened {
		for i := range st.shards {
			if self.Has(st.spec.Role) {
				needs = append(needs, st.Lease(i))
			}
		}
		if !st.isNeededBy(self) {
			continue // a subscription may be started later
		}
		wanted = append(wanted, st)
		st.receiveMu.Lock()
		st.subscribeToBus()
		st.receiveMu.Unlock()
	}
	s.opts.Leases.SetRequired(needs...)
	s.unsubscribe = append(s.unsubscribe, s.opts.Bus.Subscribe("leases", func(bus.Message) { s.opts.Leases.Wake() }))
	s.unsubscribe = append(s.unsubscribe, s.opts.Bus.OnReconnect(func() {
		s.lostMessages.Add(1) // so Barrier reads the database until the positions were read once
		if s.opts.Leases.SetBus(s.opts.Bus.Server()) {
			s.busMoves.Add(1)
		}
		go s.afterReconnect()
	}))
	s.opts.Leases.SetBus(s.opts.Bus.Server()) // Ready tells the others, before this process takes shards
	// A process that was the only member published nothing. What it wrote lies before the positions that are read now.
	if err := s.opts.Leases.WaitUntilKnown(ctx); err != nil {
		s.close()
		return err
	}
	held, err := s.readPositions(ctx)
	if err != nil {
		s.close()
		return err
	}
	for _, st := range wanted {
		st.receiveMu.Lock()
		if !st.receiving.Load() {
			st.startAt(held)
		}
		st.receiveMu.Unlock()
	}
	// The others give this process its share only after Ready. A statement that fails here does not end the process: the
	// heartbeat repeats it, and maintain takes the shards.
	if err := errors.Join(s.opts.Leases.Ready(ctx), s.rebalance(ctx)); err != nil {
		if ctx.Err() != nil {
			s.close()
			return err
		}
		s.opts.Log.Warn("the first shards could not be taken, trying again", "error", err)
	}
	close(s.startDone)
	return nil
}

// Started is closed when Start has returned. Before that, this process does not know what the others wrote, and serves
// nobody.
func (s *Streams) Started() <-chan struct{} { return s.startDone }

// close undoes what Start began.
func (s *Streams) close() {
	s.cancel()
	for _, undo := range s.unsubscribe {
		undo()
	}
	for _, st := range s.opened {
		st.receiveMu.Lock()
		if st.unsubscribe != nil {
			st.unsubscribe()
		}
		st.receiveMu.Unlock()
	}
}

// Run writes, keeps the distribution of shards fair and notices lost messages until ctx ends. Then it writes what is
// queued and hands its shards over.
func (s *Streams) Run(ctx context.Context) error {
	defer s.close()
	var wg sync.WaitGroup
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	wg.Go(func() { s.runWriter(writing) })
	var consuming sync.WaitGroup
	for _, c := range s.consumers {
		consuming.Go(func() { c.run(ctx) })
	}
	s.maintain(ctx)
	consuming.Wait()
	// The writer still runs, so that what is queued is written before the shards go.
	end, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer done()
	err := s.releaseShards(end, func(*Stream, int) bool { return true })
	stopWriting()
	s.cancel() // ends the wait for what the fleet could not be told by now
	wg.Wait()
	return err
}

// afterReconnect reads what may have been lost while the bus was away, and announces this process's positions.
func (s *Streams) afterReconnect() {
	if s.busMoveUnannounced() {
		go s.markDegraded(s.ctx) // at once, not when the next commit needs it
	}
	step, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	_ = s.readHighWaterMarks(step) // maintain tries again
	s.announce()
}

// maintain rebalances shards, reads what lost messages announced, and repeats positions, until ctx ends.
func (s *Streams) maintain(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		changed := s.opts.Leases.Changed()
		if err := s.rebalance(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Warn("the shards could not be balanced", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			continue
		case <-tick.C:
		}
		step, cancel := context.WithTimeout(ctx, 5*time.Second)
		if !s.busIsComplete() {
			if err := s.readHighWaterMarks(step); err != nil && ctx.Err() == nil {
				s.opts.Log.Warn("neither the bus nor the database answers", "error", err)
			}
		}
		if n%4 == 0 {
			s.announce()
		}
		s.markRecovered(step)
		cancel()
	}
}
