package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"lyceum/platform/lease"
)

// dropTakenOver gives up the shards whose leases another process has, according to the view of the leases. Without it,
// a process that was paused would believe that it owns them until its next write, and would not take them when they
// are free again. Epochs are not compared: a standby database may have older ones after a failover, and a release that
// arrives late does not change them.
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

// rebalance gives up shards that belong to other processes and takes free ones that belong to this one. It makes no
// call when there is nothing to do.
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
	step, cancel := context.WithTimeout(ctx, 5*time.Second) // shards whose entries have no outcome by then go the next time
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
			case wanted[st][i] == self.ID && (!held || mine): // mine: it was given up after a failure, and is taken with a new epoch
				names = append(names, name)
				where[name] = shardRef{st, i}
			case wanted[st][i] != self.ID && mine: // releasing it failed
				left = append(left, name)
			}
		}
	}
	failed = errors.Join(failed, s.opts.Leases.Release(ctx, left...))
	got, err := s.opts.Leases.Acquire(ctx, names...)
	highWaterMarks := map[*Stream][]Row{}
	for _, l := range got {
		p := where[l.Name]
		p.st.raiseTarget(p.shard, l.Pos)
		if l.Pos > 0 {
			highWaterMarks[p.st] = append(highWaterMarks[p.st], Row{Shard: p.shard, Pos: l.Pos})
		}
	}
	// A former owner may have died between the commit of its last rows and their publication. This process acknowledges
	// those rows when a client repeats its request, so all readers must know of them first.
	if !s.publish(highWaterMarks, 0) && !s.markDegraded(ctx) {
		// This process has the leases but does not open the shards: the next rebalance acquires them again.
		return errors.Join(failed, err, errNotAnnounced)
	}
	step, cancel = context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, l := range got {
		s.takeOwnership(step, where[l.Name], l)
	}
	return errors.Join(failed, err)
}

// eligibleMachines are the ids of the live machines that share the shards of a stream. When all of them are stopping,
// they keep sharing them: requests under way still need owners.
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

// takeOwnership opens a shard for entries once the subscriptions have seen the rows of its former owners, so that
// caches fed by subscriptions are current where the shard is written.
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

// releaseShards hands over the shards for which which is true: new entries are refused, the queued ones are written,
// OnLost drops the caches, and then the leases are released in one statement.
func (s *Streams) releaseShards(ctx context.Context, which func(st *Stream, shard int) bool) error {
	var names []string
	var dropped []func()
	var leaving []*shard
	s.mu.Lock()
	for _, st := range s.opened {
		for i, sh := range st.shards {
			sh.releasing = sh.owned && which(st, i) // false ends a failed release that is no longer wanted
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
	if err := s.waitUntilDecided(ctx, leaving); err != nil {
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

// setOwned records whether this process has the lease of a shard; the caller holds mu.
func (s *Streams) setOwned(sh *shard, owned bool) {
	if owned && !sh.owned {
		s.unowned.Add(-1)
	} else if !owned && sh.owned {
		s.unowned.Add(1)
	}
	sh.owned, sh.releasing = owned, false
}

// isOnlyMember reports whether no other process writes or reads rows and this one owns all shards.
func (s *Streams) isOnlyMember() bool { return s.unowned.Load() == 0 && s.opts.Leases.IsOnlyMember() }

func (s *Streams) waitUntilDecided(ctx context.Context, shards []*shard) error {
	for {
		s.mu.Lock()
		busy := slices.ContainsFunc(shards, func(sh *shard) bool { return sh.pending > 0 })
		outcomesKnown := s.outcomesKnown
		s.mu.Unlock()
		if !busy {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-outcomesKnown:
		}
	}
}

// assignShards spreads shards over machines evenly and so that few move when a machine comes or goes:
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

// Owner is the machine that owned a shard when the leases were last read; not ok while the shard moves.
func (st *Stream) Owner(shard int) (lease.Holder, bool) {
	return st.streams.opts.Leases.Holder(st.Lease(shard))
}

// Ownership reports whether this process owns a shard, and under which epoch. What was cached under another epoch is
// stale.
func (st *Stream) Ownership(shard int) (epoch int64, ok bool) {
	st.streams.mu.Lock()
	defer st.streams.mu.Unlock()
	sh := st.shards[shard]
	return sh.epoch, sh.accepts()
}
