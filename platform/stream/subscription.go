package stream

import (
	"context"
	"slices"
	"sync/atomic"

	"lyceum/platform/bus"
	"lyceum/platform/lease"
)

// OnDemand, as the role of a subscription, means that no process needs it from its start on.
const OnDemand = "-"

// Subscription is one reader of a stream in this process.
type Subscription struct {
	st      *Stream
	roles   []string
	onStart func(start []int64)
	onRows  func(rows []Row)
	active  atomic.Bool
}

// Subscribe adds a reader of all shards. Wiring time only. The rules for rows:
//
//   - It gets every row once, in the order of each shard, from the time the subscription is active. Earlier rows are
//     not given.
//   - It runs while rows are dispatched, so it must not block. Subscriptions run in the order in which they were
//     added.
//   - The slice is valid during the call only, and all subscriptions get the same one. One may set Value of a row that
//     came without it, for the subscriptions after it.
//
// The subscription is active from the start of processes that have one of roles, or of all processes when none are
// given. Elsewhere Start activates it; until then the process need not even receive the stream, so what is cached from
// it must not be used.
func (st *Stream) Subscribe(rows func(rows []Row), roles ...string) *Subscription {
	t := &Subscription{st: st, roles: roles, onRows: rows}
	st.subscriptions = append(st.subscriptions, t)
	return t
}

// OnStart adds a function that gets the positions behind which the rows begin, before the first row. It must not
// block. Wiring time only.
func (t *Subscription) OnStart(begin func(start []int64)) *Subscription {
	t.onStart = begin
	return t
}

// IsActive tells whether rows are given to the subscription.
func (t *Subscription) IsActive() bool { return t.active.Load() }

// Start activates the subscription, if it is not active yet. When it returns, the subscription gets all rows behind
// those that were acknowledged before the call: what is read from the database afterwards is current and stays so.
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

// activate runs between two dispatches: the caller holds dispatchMu.
func (t *Subscription) activate() {
	if t.onStart != nil { // before active is true
		t.st.mu.Lock()
		start := make([]int64, len(t.st.shards))
		for i, sh := range t.st.shards {
			start[i] = sh.delivered
		}
		t.st.mu.Unlock()
		t.onStart(start)
	}
	t.active.Store(true)
	t.st.active = t.st.active[:0:0] // in the order of wiring: a subscription may rely on those before it
	for _, other := range t.st.subscriptions {
		if other.active.Load() {
			t.st.active = append(t.st.active, other)
		}
	}
}

// isNeededBy tells whether a process needs the subscription from its start on.
func (t *Subscription) isNeededBy(self lease.Machine) bool {
	return len(t.roles) == 0 || slices.ContainsFunc(t.roles, self.Has)
}

// isNeededBy tells whether a process needs the rows from its start on: to own shards, or for a subscription.
func (st *Stream) isNeededBy(self lease.Machine) bool {
	return self.Has(st.spec.Role) || slices.ContainsFunc(st.subscriptions, func(t *Subscription) bool { return t.isNeededBy(self) })
}

// IsReceived tells whether this process receives the rows of the stream.
func (st *Stream) IsReceived() bool { return st.receiving.Load() }

// subscribeToBus makes the bus bring the rows; the caller holds receiveMu.
func (st *Stream) subscribeToBus() {
	if st.unsubscribe == nil {
		st.unsubscribe = st.streams.opts.Bus.Subscribe(st.topic(), st.receive)
	}
}

// startReceiving makes this process receive the rows. Rows that were acknowledged before the call lie behind the
// stored positions at which it begins. Later rows come by the bus, or their gap is noticed.
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

// startAt sets the positions from which on the subscriptions see every row. Of rows that came by the bus before, only
// the positions were recorded.
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
