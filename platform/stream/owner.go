package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"lyceum/platform/bus"
	"lyceum/platform/lease"
)

// Start reads the positions, subscribes to the streams that the roles of this process need, and takes the shards that are this process's share.
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
			continue // a tail may be started later
		}
		wanted = append(wanted, st)
		st.receiveMu.Lock()
		st.subscribeToBus()
		st.receiveMu.Unlock()
	}
	s.opts.Leases.SetRequired(needs...)
	s.unsubscribe = append(s.unsubscribe, s.opts.Bus.Subscribe("leases", func(bus.Message) { s.opts.Leases.Wake() }))
	s.unsubscribe = append(s.unsubscribe, s.opts.Bus.OnReconnect(func() {
		s.lostMessages.Add(1) // so a Barrier asks the database until the positions were read once
		if s.opts.Leases.SetBus(s.opts.Bus.Server()) {
			s.busMoves.Add(1)
		}
		go s.afterReconnect()
	}))
	s.opts.Leases.SetBus(s.opts.Bus.Server()) // Ready tells the others, before this process takes shards
	// A process that was the only one published nothing: what it wrote meanwhile is behind the positions that are read now.
	if err := s.opts.Leases.WaitUntilKnown(ctx); err != nil {
		s.close()
		return err
	}
	held, err := s.opts.Leases.Read(ctx, "stream/")
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
	// The others give this process its share only now that it can take it.
	// A statement that fails here does not end the process: it is told again with the heartbeat, and the shards are taken
	// by watch.
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

// Started is closed when Start is done: before, this process does not know what the others wrote, and serves nobody.
func (s *Streams) Started() <-chan struct{} { return s.startDone }

// close ends what Start began.
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

// Run writes, keeps the share of shards fair and notices lost messages until ctx ends. Then it writes
// what is queued and hands its shards over.
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
	s.cancel() // what the fleet could not be told of by now is not waited for
	wg.Wait()
	return err
}

// recover reads what may have been lost while the bus was away, and tells the others of this process's rows.
func (s *Streams) afterReconnect() {
	if s.busMoveUntold() {
		go s.markDegraded(s.ctx) // before somebody waits for it
	}
	step, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	_ = s.readHighWaterMarks(step) // watch tries again
	s.announce()
}

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

// dropTaken gives up the shards whose leases are not this process's any more, as the view of the leases tells. A process that slept
// would else believe that it owns them until it writes, and not take them when they are free again. Epochs are not compared: those of a
// standby that takes over may be older, and a giving back that arrives late leaves them.
func (s *Streams) dropTakenOver() {
	self := s.opts.Leases.Self()
	for _, st := range s.opened {
		for i, name := range st.leases {
			h, _ := s.opts.Leases.Holder(name)
			if _, owned := s.leaseEpoch(st, i); owned && (h.Machine != self.ID || h.Incarnation != self.Incarnation) {
				s.giveUp(st, i)
			}
		}
	}
}

// balance gives up shards that belong elsewhere and takes free ones that belong here. When there is nothing
// to do it makes no call.
func (s *Streams) rebalance(ctx context.Context) error {
	self := s.opts.Leases.Self()
	wanted := map[*Stream][]int{} // the owner of each shard
	for _, st := range s.opened {
		machines := s.eligibleMachines(st)
		if last := s.assignments[st]; last.owners == nil || !slices.Equal(last.machines, machines) {
			s.assignments[st] = assignment{machines, assignShards(st.spec.Name, st.spec.Shards, machines)}
		}
		wanted[st] = s.assignments[st].owners
	}
	s.dropTakenOver()
	step, cancel := context.WithTimeout(ctx, 5*time.Second) // what is not decided by then goes the next time
	failed := s.releaseShards(step, func(st *Stream, i int) bool { return wanted[st][i] != self.ID })
	cancel()
	var names, left []string
	where := map[string]shardRef{}
	for _, st := range s.opened {
		for i, name := range st.leases {
			_, owned := s.leaseEpoch(st, i)
			_, held := s.opts.Leases.Holder(name)
			mine := s.opts.Leases.Mine(name)
			switch {
			case owned:
			case wanted[st][i] == self.ID && (!held || mine): // mine: given up after a failure, taken with a new epoch
				names = append(names, name)
				where[name] = shardRef{st, i}
			case wanted[st][i] != self.ID && mine: // giving it back failed
				left = append(left, name)
			}
		}
	}
	failed = errors.Join(failed, s.opts.Leases.Release(ctx, left...))
	got, err := s.opts.Leases.Acquire(ctx, names...)
	heads := map[*Stream][]Row{}
	for _, l := range got {
		p := where[l.Name]
		p.st.raiseTarget(p.shard, l.Pos)
		if l.Pos > 0 {
			heads[p.st] = append(heads[p.st], Row{Shard: p.shard, Pos: l.Pos})
		}
	}
	// A former owner may have died between the commit of its last rows and their publication, and this process
	// acknowledges them to whoever asks for them again: nobody may miss them from then on.
	if !s.publish(heads, 0) && !s.markDegraded(ctx) {
		return errors.Join(failed, err, errNotAnnounced) // the leases are this process's and its shards are not: they are taken anew
	}
	step, cancel = context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, l := range got {
		s.takeOwnership(step, where[l.Name], l)
	}
	return errors.Join(failed, err)
}

// writers are the ids of the live machines that share the shards of a stream. Where all of them stop, they share them to
// their end: requests under way still need owners.
func (s *Streams) eligibleMachines(st *Stream) []int {
	var ids, stopping []int
	for _, m := range s.opts.Leases.Machines() {
		switch {
		case m.Takes(st.spec.Role):
			ids = append(ids, m.ID)
		case m.Draining && !m.Starting && m.Has(st.spec.Role):
			stopping = append(stopping, m.ID)
		}
	}
	if len(ids) == 0 {
		return stopping
	}
	return ids
}

// own opens a shard for entries when the tails have seen what its former owners wrote, so that caches fed
// by tails are current where the shard is written.
func (s *Streams) takeOwnership(ctx context.Context, p shardRef, l lease.Lease) {
	if err := p.st.WaitFor(ctx, p.shard, l.Pos); err != nil {
		s.opts.Log.Warn("a shard is owned before its rows were read", "stream", p.st.spec.Name, "shard", p.shard, "error", err)
	}
	s.mu.Lock()
	sh := p.st.shards[p.shard]
	s.setOwned(sh, true)
	sh.epoch, sh.firstEpoch, sh.next = l.Epoch, l.Epoch, l.Pos+1
	s.mu.Unlock()
}

// release hands over the shards that which names: no new entries, the queued ones written, caches
// dropped, then the leases given back in one statement.
func (s *Streams) releaseShards(ctx context.Context, which func(st *Stream, shard int) bool) error {
	var names []string
	var dropped []func()
	var leaving []*shard
	s.mu.Lock()
	for _, st := range s.opened {
		for i, sh := range st.shards {
			sh.releasing = sh.owned && which(st, i) // also ends a handing over that failed and is not wanted any more
			if sh.releasing {
				leaving = append(leaving, sh)
				names = append(names, st.Lease(i))
				if st.spec.OnLost != nil {
					dropped = append(dropped, func() { st.spec.OnLost(i) })
				}
			}
		}
	}
	s.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	if err := s.waitDecided(ctx, leaving); err != nil {
		return fmt.Errorf("hand over %d shards: %w", len(names), err)
	}
	s.mu.Lock()
	for _, sh := range leaving {
		s.setOwned(sh, false)
	}
	s.mu.Unlock()
	for _, drop := range dropped {
		drop()
	}
	return s.opts.Leases.Release(ctx, names...)
}

// setOwned notes whether this process has the lease of a shard; the caller holds mu.
func (s *Streams) setOwned(sh *shard, owned bool) {
	if owned && !sh.owned {
		s.unowned.Add(-1)
	} else if !owned && sh.owned {
		s.unowned.Add(1)
	}
	sh.owned, sh.releasing = owned, false
}

// only tells that no other process writes or reads rows: this one has all shards.
func (s *Streams) isOnlyMember() bool { return s.unowned.Load() == 0 && s.opts.Leases.IsOnlyMember() }

func (s *Streams) waitDecided(ctx context.Context, shards []*shard) error {
	for {
		s.mu.Lock()
		busy := slices.ContainsFunc(shards, func(sh *shard) bool { return sh.pending > 0 })
		settled := s.decided
		s.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-settled:
		}
	}
}

// assign spreads shards over machines evenly and so that few move when a machine comes or goes:
// rendezvous hashing in which no machine takes more than its share. The result is -1 without machines.
func assignShards(stream string, shards int, machines []int) []int {
	out := make([]int, shards)
	for i := range out {
		out[i] = -1
	}
	if len(machines) == 0 {
		return out
	}
	type bid struct {
		shard, machine int
		weight         uint64
	}
	var bids []bid
	for i := range shards {
		for _, m := range machines {
			bids = append(bids, bid{i, m, xxhash.Sum64String(fmt.Sprintf("%s/%d/%d", stream, i, m))})
		}
	}
	slices.SortFunc(bids, func(a, b bid) int { return cmp.Compare(b.weight, a.weight) })
	load := map[int]int{}
	floor, extra := shards/len(machines), shards%len(machines)
	for _, b := range bids {
		if out[b.shard] >= 0 || load[b.machine] > floor || (load[b.machine] == floor && extra == 0) {
			continue
		}
		if load[b.machine] == floor {
			extra--
		}
		load[b.machine]++
		out[b.shard] = b.machine
	}
	return out
}

// Owner is the machine that owns the shard of a key, as last seen; not ok while it moves.
func (st *Stream) Owner(shard int) (lease.Holder, bool) {
	return st.streams.opts.Leases.Holder(st.Lease(shard))
}
