package stream

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"lyceum/platform/bus"
	"lyceum/platform/lease"
)

// Start reads the positions, subscribes and takes the shards that are this process's share.
func (s *Streams) Start(ctx context.Context) error {
	s.started = true
	for _, st := range s.order {
		s.o.Bus.Subscribe(st.topic(), st.receive)
	}
	s.o.Bus.Subscribe("leases", func(bus.Message) { s.o.Leases.Poke() })
	s.o.Bus.OnReconnect(func() {
		s.missed.Store(true) // so a Barrier asks the database until the positions were read once
		go s.recover(ctx)
	})
	held, err := s.o.Leases.Read(ctx, "stream/")
	if err != nil {
		return err
	}
	for _, st := range s.order {
		st.mu.Lock()
		for i, sh := range st.shards {
			sh.delivered = max(sh.delivered, held[st.Lease(i)].Pos)
			sh.target = max(sh.target, sh.delivered)
			st.start[i] = sh.delivered
		}
		st.mu.Unlock()
	}
	return s.balance(ctx)
}

// Run writes, keeps the share of shards fair and notices lost messages until ctx ends. Then it writes
// what is queued and hands its shards over.
func (s *Streams) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	wg.Go(func() { s.runWriter(writing) })
	s.watch(ctx)
	// The writer still runs, so that what is queued is written before the shards go.
	end, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer done()
	err := s.release(end, func(*Stream, int) bool { return true })
	stopWriting()
	wg.Wait()
	return err
}

// recover reads what may have been lost while the bus was away, and tells the others of this process's rows.
func (s *Streams) recover(ctx context.Context) {
	step, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := s.syncHeads(step); err == nil {
		s.missed.Store(false)
	}
	s.announce(step)
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
		if !s.o.Bus.Connected() || s.missed.Load() {
			if err := s.syncHeads(step); err != nil && ctx.Err() == nil {
				s.o.Log.Warn("neither the bus nor the database answers", "error", err)
			} else if err == nil && s.o.Bus.Connected() {
				s.missed.Store(false)
			}
		} else if n%4 == 0 {
			s.announce(step)
		}
		cancel()
	}
}

// balance gives up shards that belong elsewhere and takes free ones that belong here.
func (s *Streams) balance(ctx context.Context) error {
	self := s.o.Leases.Self()
	wanted := map[*Stream]map[int]bool{}
	for _, st := range s.order {
		wanted[st] = map[int]bool{}
		for i, id := range assign(st.spec.Name, st.spec.Shards, s.writers(st)) {
			if id == self.ID {
				wanted[st][i] = true
			}
		}
	}
	if err := s.release(ctx, func(st *Stream, i int) bool { return !wanted[st][i] }); err != nil {
		return err
	}
	var names []string
	where := map[string]func(lease.Lease){}
	for _, st := range s.order {
		for i := range st.shards {
			_, owned := st.Claim(i)
			h, held := s.o.Leases.Holder(st.Lease(i))
			mine := held && h.Machine == self.ID && h.Incarnation == self.Incarnation
			if wanted[st][i] && !owned && (!held || mine) {
				names = append(names, st.Lease(i))
				where[st.Lease(i)] = func(l lease.Lease) { s.own(st, i, l) }
				if mine { // granted before, given up after a failure: take it with a new epoch
					if err := s.o.Leases.Release(ctx, st.Lease(i)); err != nil {
						return err
					}
				}
			}
		}
	}
	got, err := s.o.Leases.Acquire(ctx, names...)
	for _, l := range got {
		where[l.Name](l)
	}
	return err
}

// writers are the ids of the live machines that share the shards of a stream.
func (s *Streams) writers(st *Stream) []int {
	var ids []int
	for _, m := range s.o.Leases.Machines() {
		if m.Has(st.spec.Role) && !m.Draining {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

func (s *Streams) own(st *Stream, i int, l lease.Lease) {
	if st.spec.Acquired != nil {
		st.spec.Acquired(i)
	}
	st.expect(i, l.Pos)
	s.mu.Lock()
	sh := st.shards[i]
	sh.owned, sh.closing, sh.leaving, sh.epoch, sh.next = true, false, false, l.Epoch, l.Pos+1
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
			if sh.owned && which(st, i) {
				sh.closing, sh.leaving = true, true
				leaving = append(leaving, sh)
				names = append(names, st.Lease(i))
				if st.spec.Lost != nil {
					dropped = append(dropped, func() { st.spec.Lost(i) })
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
		sh.owned = false
	}
	s.mu.Unlock()
	for _, drop := range dropped {
		drop()
	}
	return s.o.Leases.Release(ctx, names...)
}

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
