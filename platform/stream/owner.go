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
	s.started = true
	self := s.o.Leases.Self()
	var wanted []*Stream
	var needs []string
	for _, st := range s.order {
		for i := range st.shards {
			if self.Has(st.spec.Role) {
				needs = append(needs, st.Lease(i))
			}
		}
		if !st.wantedBy(self) {
			continue // a tail may be started later
		}
		wanted = append(wanted, st)
		st.followMu.Lock()
		st.subscribeToBus()
		st.followMu.Unlock()
	}
	s.o.Leases.SetRequired(needs...)
	s.undo = append(s.undo, s.o.Bus.Subscribe("leases", func(bus.Message) { s.o.Leases.Wake() }))
	s.undo = append(s.undo, s.o.Bus.OnReconnect(func() {
		s.lost.Add(1) // so a Barrier asks the database until the positions were read once
		if s.o.Leases.SetBus(s.o.Bus.Server()) {
			s.moves.Add(1)
		}
		go s.recover()
	}))
	s.o.Leases.SetBus(s.o.Bus.Server()) // Ready tells the others, before this process takes shards
	// A process that was the only one published nothing: what it wrote meanwhile is behind the positions that are read now.
	if err := s.o.Leases.WaitUntilKnown(ctx); err != nil {
		s.close()
		return err
	}
	held, err := s.o.Leases.Read(ctx, "stream/")
	if err != nil {
		s.close()
		return err
	}
	for _, st := range wanted {
		st.followMu.Lock()
		if !st.followed.Load() {
			st.begin(held)
		}
		st.followMu.Unlock()
	}
	// The others give this process its share only now that it can take it.
	// A statement that fails here does not end the process: it is told again with the heartbeat, and the shards are taken
	// by watch.
	if err := errors.Join(s.o.Leases.Ready(ctx), s.balance(ctx)); err != nil {
		if ctx.Err() != nil {
			s.close()
			return err
		}
		s.o.Log.Warn("the first shards could not be taken, trying again", "error", err)
	}
	close(s.begun)
	return nil
}

// Started is closed when Start is done: before, this process does not know what the others wrote, and serves nobody.
func (s *Streams) Started() <-chan struct{} { return s.begun }

// close ends what Start began.
func (s *Streams) close() {
	s.end()
	for _, undo := range s.undo {
		undo()
	}
	for _, st := range s.order {
		st.followMu.Lock()
		if st.undo != nil {
			st.undo()
		}
		st.followMu.Unlock()
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
	s.watch(ctx)
	consuming.Wait()
	// The writer still runs, so that what is queued is written before the shards go.
	end, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer done()
	err := s.release(end, func(*Stream, int) bool { return true })
	stopWriting()
	s.end() // what the fleet could not be told of by now is not waited for
	wg.Wait()
	return err
}

// recover reads what may have been lost while the bus was away, and tells the others of this process's rows.
func (s *Streams) recover() {
	if s.strayed() {
		go s.hush(s.ctx) // before somebody waits for it
	}
	step, cancel := context.WithTimeout(s.ctx, 10*time.Second)
	defer cancel()
	_ = s.syncHeads(step) // watch tries again
	s.announce()
}

func (s *Streams) watch(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		changed := s.o.Leases.Changed()
		if err := s.balance(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Warn("the shards could not be balanced", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			continue
		case <-tick.C:
		}
		step, cancel := context.WithTimeout(ctx, 5*time.Second)
		if !s.trusted() {
			if err := s.syncHeads(step); err != nil && ctx.Err() == nil {
				s.o.Log.Warn("neither the bus nor the database answers", "error", err)
			}
		}
		if n%4 == 0 {
			s.announce()
		}
		s.speak(step)
		cancel()
	}
}

// dropTaken gives up the shards whose leases are not this process's any more, as the view of the leases tells. A process that slept
// would else believe that it owns them until it writes, and not take them when they are free again. Epochs are not compared: those of a
// standby that takes over may be older, and a giving back that arrives late leaves them.
func (s *Streams) dropTaken() {
	self := s.o.Leases.Self()
	for _, st := range s.order {
		for i, name := range st.leases {
			h, _ := s.o.Leases.Holder(name)
			if _, owned := s.holds(st, i); owned && (h.Machine != self.ID || h.Incarnation != self.Incarnation) {
				s.giveUp(st, i)
			}
		}
	}
}

// balance gives up shards that belong elsewhere and takes free ones that belong here. When there is nothing
// to do it makes no call.
func (s *Streams) balance(ctx context.Context) error {
	self := s.o.Leases.Self()
	wanted := map[*Stream][]int{} // the owner of each shard
	for _, st := range s.order {
		machines := s.writers(st)
		if last := s.shares[st]; last.owners == nil || !slices.Equal(last.machines, machines) {
			s.shares[st] = share{machines, assign(st.spec.Name, st.spec.Shards, machines)}
		}
		wanted[st] = s.shares[st].owners
	}
	s.dropTaken()
	step, cancel := context.WithTimeout(ctx, 5*time.Second) // what is not decided by then goes the next time
	failed := s.release(step, func(st *Stream, i int) bool { return wanted[st][i] != self.ID })
	cancel()
	var names, left []string
	where := map[string]place{}
	for _, st := range s.order {
		for i, name := range st.leases {
			_, owned := s.holds(st, i)
			_, held := s.o.Leases.Holder(name)
			mine := s.o.Leases.Mine(name)
			switch {
			case owned:
			case wanted[st][i] == self.ID && (!held || mine): // mine: given up after a failure, taken with a new epoch
				names = append(names, name)
				where[name] = place{st, i}
			case wanted[st][i] != self.ID && mine: // giving it back failed
				left = append(left, name)
			}
		}
	}
	failed = errors.Join(failed, s.o.Leases.Release(ctx, left...))
	got, err := s.o.Leases.Acquire(ctx, names...)
	heads := map[*Stream][]Row{}
	for _, l := range got {
		p := where[l.Name]
		p.st.expect(p.shard, l.Pos)
		if l.Pos > 0 {
			heads[p.st] = append(heads[p.st], Row{Shard: p.shard, Pos: l.Pos})
		}
	}
	// A former owner may have died between the commit of its last rows and their publication, and this process
	// acknowledges them to whoever asks for them again: nobody may miss them from then on.
	if !s.publish(heads, 0) && !s.hush(ctx) {
		return errors.Join(failed, err, errUntold) // the leases are this process's and its shards are not: they are taken anew
	}
	step, cancel = context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, l := range got {
		s.own(step, where[l.Name], l)
	}
	return errors.Join(failed, err)
}

// writers are the ids of the live machines that share the shards of a stream. Where all of them stop, they share them to
// their end: requests under way still need owners.
func (s *Streams) writers(st *Stream) []int {
	var ids, stopping []int
	for _, m := range s.o.Leases.Machines() {
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
func (s *Streams) own(ctx context.Context, p place, l lease.Lease) {
	if err := p.st.WaitFor(ctx, p.shard, l.Pos); err != nil {
		s.o.Log.Warn("a shard is owned before its rows were read", "stream", p.st.spec.Name, "shard", p.shard, "error", err)
	}
	s.mu.Lock()
	sh := p.st.shards[p.shard]
	s.setOwned(sh, true)
	sh.epoch, sh.since, sh.next = l.Epoch, l.Epoch, l.Pos+1
	s.mu.Unlock()
}

// release hands over the shards that which names: no new entries, the queued ones written, caches
// dropped, then the leases given back in one statement.
func (s *Streams) release(ctx context.Context, which func(st *Stream, shard int) bool) error {
	var names []string
	var dropped []func()
	var leaving []*shard
	s.mu.Lock()
	for _, st := range s.order {
		for i, sh := range st.shards {
			sh.leaving = sh.owned && which(st, i) // also ends a handing over that failed and is not wanted any more
			if sh.leaving {
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
	return s.o.Leases.Release(ctx, names...)
}

// setOwned notes whether this process has the lease of a shard; the caller holds mu.
func (s *Streams) setOwned(sh *shard, owned bool) {
	if owned && !sh.owned {
		s.lacking.Add(-1)
	} else if !owned && sh.owned {
		s.lacking.Add(1)
	}
	sh.owned, sh.leaving = owned, false
}

// only tells that no other process writes or reads rows: this one has all shards.
func (s *Streams) only() bool { return s.lacking.Load() == 0 && s.o.Leases.IsOnlyMember() }

func (s *Streams) waitDecided(ctx context.Context, shards []*shard) error {
	for {
		s.mu.Lock()
		busy := slices.ContainsFunc(shards, func(sh *shard) bool { return sh.pending > 0 })
		settled := s.settled
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
func assign(stream string, shards int, machines []int) []int {
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
	return st.set.o.Leases.Holder(st.Lease(shard))
}
