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
	st    *Stream
	roles []string
	begin func(start []int64)
	rows  func(rows []Row)
	on    atomic.Bool
}

// Subscribe adds a reader: while it is on, rows gets every row of every shard, in the order of each shard, once, and
// must not block. Tails run in the order in which they were added. The slice is valid during the call only, and all
// tails get the same: one may set Value of a row that came without it, for those after it. Rows from before it was on are not given. Wiring time only.
//
// It is on from the start of processes that have one of roles, or of all when none are given. Elsewhere
// Start turns it on; until then the process need not even receive the stream, so what is cached from it must not be used.
func (st *Stream) Subscribe(rows func(rows []Row), roles ...string) *Subscription {
	t := &Subscription{st: st, roles: roles, rows: rows}
	st.tails = append(st.tails, t)
	return t
}

// OnStart adds a function that is told, before the first row, behind which positions the rows begin. It must not
// block. Wiring time only.
func (t *Subscription) OnStart(begin func(start []int64)) *Subscription {
	t.begin = begin
	return t
}

// IsActive tells whether the rows are given.
func (t *Subscription) IsActive() bool { return t.on.Load() }

// Start turns the tail on, if it is not. When it returns, the tail gets all rows behind those that were acknowledged
// to anybody before the call: what is read from the database afterwards is current and stays so.
func (t *Subscription) Start(ctx context.Context) error {
	if t.on.Load() {
		return nil
	}
	if err := t.st.follow(ctx); err != nil {
		return err
	}
	t.st.tailMu.Lock()
	defer t.st.tailMu.Unlock()
	if !t.on.Load() {
		t.turnOn()
	}
	return nil
}

// turnOn runs between two deliveries: the caller holds tailMu.
func (t *Subscription) turnOn() {
	if t.begin != nil { // before on is true for others
		t.st.mu.Lock()
		start := make([]int64, len(t.st.shards))
		for i, sh := range t.st.shards {
			start[i] = sh.delivered
		}
		t.st.mu.Unlock()
		t.begin(start)
	}
	t.on.Store(true)
	t.st.active = t.st.active[:0:0] // in the order of wiring: a tail may count on those before it
	for _, other := range t.st.tails {
		if other.on.Load() {
			t.st.active = append(t.st.active, other)
		}
	}
}

// wantedBy tells whether a process needs the tail from its start on.
func (t *Subscription) wantedBy(self lease.Machine) bool {
	return len(t.roles) == 0 || slices.ContainsFunc(t.roles, self.Has)
}

// wantedBy tells whether a process needs the rows from its start on: to own shards, or for a tail.
func (st *Stream) wantedBy(self lease.Machine) bool {
	return self.Has(st.spec.Role) || slices.ContainsFunc(st.tails, func(t *Subscription) bool { return t.wantedBy(self) })
}

// IsReceived tells whether this process receives the rows of the stream.
func (st *Stream) IsReceived() bool { return st.followed.Load() }

// subscribe makes the bus bring the rows; the caller holds followMu.
func (st *Stream) subscribeToBus() {
	if st.undo == nil {
		st.undo = st.set.o.Bus.Subscribe(st.topic(), st.receive)
	}
}

// follow makes this process receive the rows. What was acknowledged before the call is behind the stored positions
// that it begins at, and what comes later the bus brings, or the gap is noticed.
func (st *Stream) follow(ctx context.Context) error {
	if st.followed.Load() {
		return nil
	}
	st.followMu.Lock()
	defer st.followMu.Unlock()
	if st.followed.Load() {
		return nil
	}
	if err := st.set.ctx.Err(); err != nil {
		return bus.ErrClosed
	}
	st.subscribeToBus()
	held, err := st.set.o.Leases.Read(ctx, "stream/"+st.spec.Name+"/")
	if err != nil {
		return err
	}
	st.begin(held)
	return nil
}

// begin sets the positions from which on the tails see every row. What came over the bus before was only
// noted.
func (st *Stream) begin(held map[string]lease.Holder) {
	st.tailMu.Lock()
	defer st.tailMu.Unlock()
	st.mu.Lock()
	for i, sh := range st.shards {
		sh.delivered = held[st.Lease(i)].Pos
		sh.seen = sh.delivered
	}
	st.mu.Unlock()
	self := st.set.o.Leases.Self()
	for _, t := range st.tails {
		if t.wantedBy(self) {
			t.turnOn()
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.begun = true
	st.followed.Store(true)
	for i, sh := range st.shards {
		if sh.target = max(sh.target, sh.delivered); sh.delivered < sh.target {
			st.catchUp(i)
		}
	}
}
