package stream

import (
	"context"
	"slices"
	"sync/atomic"

	"lyceum/platform/bus"
	"lyceum/platform/lease"
)

// OnDemand is for tails that no process needs from its start on.
const OnDemand = "-"

// Subscription is a reader of a stream in this process.
type Subscription struct {
	st      *Stream
	roles   []string
	onStart func(start []int64)
	onRows  func(rows []Row)
	active  atomic.Bool
}

// Subscribe adds a reader: while it is on, rows gets every row of every shard, in the order of each shard, once, and
// must not block. Tails run in the order in which they were added. The slice is valid during the call only, and all
// tails get the same: one may set Value of a row that came without it, for those after it. Rows from before it was on are not given. Wiring time only.
//
// It is on from the start of processes that have one of roles, or of all when none are given. Elsewhere
// Start turns it on; until then the process need not even receive the stream, so what is cached from it must not be used.
func (st *Stream) Subscribe(rows func(rows []Row), roles ...string) *Subscription {
	t := &Subscription{st: st, roles: roles, onRows: rows}
	st.subscriptions = append(st.subscriptions, t)
	return t
}

// OnStart adds a function that is told, before the first row, behind which positions the rows begin. It must not
// block. Wiring time only.
func (t *Subscription) OnStart(begin func(start []int64)) *Subscription {
	t.onStart = begin
	return t
}

// IsActive tells whether the rows are given.
func (t *Subscription) IsActive() bool { return t.active.Load() }

// Start turns the tail on, if it is not. When it returns, the tail gets all rows behind those that were acknowledged
// to anybody before the call: what is read from the database afterwards is current and stays so.
func (t *Subscription) Start(ctx context.Context) error {
	if t.active.Load() {
		return nil
	}
	if err := t.st.startReceiving(ctx); err != nil {
		return err
	}
	t.st.dispatchMu.Lock()
	defer t.st.dispatchMu.Unlock()
	if !t.active.Load() {
		t.activate()
	}
	return nil
}

// turnOn runs between two deliveries: the caller holds tailMu.
func (t *Subscription) activate() {
	if t.onStart != nil { // before on is true for others
		t.st.mu.Lock()
		start := make([]int64, len(t.st.shards))
		for i, sh := range t.st.shards {
			start[i] = sh.delivered
		}
		t.st.mu.Unlock()
		t.onStart(start)
	}
	t.active.Store(true)
	t.st.active = t.st.active[:0:0] // in the order of wiring: a tail may count on those before it
	for _, other := range t.st.subscriptions {
		if other.active.Load() {
			t.st.active = append(t.st.active, other)
		}
	}
}

// wantedBy tells whether a process needs the tail from its start on.
func (t *Subscription) isNeededBy(self lease.Machine) bool {
	return len(t.roles) == 0 || slices.ContainsFunc(t.roles, self.Has)
}

// wantedBy tells whether a process needs the rows from its start on: to own shards, or for a tail.
func (st *Stream) isNeededBy(self lease.Machine) bool {
	return self.Has(st.spec.Role) || slices.ContainsFunc(st.subscriptions, func(t *Subscription) bool { return t.isNeededBy(self) })
}

// IsReceived tells whether this process receives the rows of the stream.
func (st *Stream) IsReceived() bool { return st.receiving.Load() }

// subscribe makes the bus bring the rows; the caller holds followMu.
func (st *Stream) subscribeToBus() {
	if st.unsubscribe == nil {
		st.unsubscribe = st.streams.opts.Bus.Subscribe(st.topic(), st.receive)
	}
}

// follow makes this process receive the rows. What was acknowledged before the call is behind the stored positions
// that it begins at, and what comes later the bus brings, or the gap is noticed.
func (st *Stream) startReceiving(ctx context.Context) error {
	if st.receiving.Load() {
		return nil
	}
	st.receiveMu.Lock()
	defer st.receiveMu.Unlock()
	if st.receiving.Load() {
		return nil
	}
	if err := st.streams.ctx.Err(); err != nil {
		return bus.ErrClosed
	}
	st.subscribeToBus()
	held, err := st.streams.opts.Leases.Read(ctx, "stream/"+st.spec.Name+"/")
	if err != nil {
		return err
	}
	st.startAt(held)
	return nil
}

// begin sets the positions from which on the tails see every row. What came over the bus before was only
// noted.
func (st *Stream) startAt(held map[string]lease.Holder) {
	st.dispatchMu.Lock()
	defer st.dispatchMu.Unlock()
	st.mu.Lock()
	for i, sh := range st.shards {
		sh.delivered = held[st.Lease(i)].Pos
		sh.seen = sh.delivered
	}
	st.mu.Unlock()
	self := st.streams.opts.Leases.Self()
	for _, t := range st.subscriptions {
		if t.isNeededBy(self) {
			t.activate()
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.positioned = true
	st.receiving.Store(true)
	for i, sh := range st.shards {
		if sh.target = max(sh.target, sh.delivered); sh.delivered < sh.target {
			st.catchUp(i)
		}
	}
}
