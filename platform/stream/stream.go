package stream

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"

	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/lease"
)

// Row is one entry of a shard as readers see it.
type Row struct {
	Shard int
	Pos   int64
	Key   string
	Data  []byte // travels on the bus; nil when the readers must read it from the store
	Value any    // the Value of the Entry, in the process that wrote it; nil elsewhere
}

// Entry is a row to be written.
type Entry struct {
	Stream *Stream
	Row
	Bytes int // approximate size of the write, when it is larger than Data
	// Seal computes what the store needs but the place in the queue does not depend on, such as a signature. It runs
	// after Enqueue, in Ticket.Seal, without the locks under which the entry was queued. May be nil.
	Seal func()

	epoch int64 // of the ownership under which it was queued
}

// Range asks for the rows with After < Pos <= Upto of a shard, at most Limit.
type Range struct {
	Shard       int
	After, Upto int64
	Limit       int
}

// Store keeps the rows of a stream in tables of its domain.
type Store interface {
	// Insert adds its writes to the group commit, which is sent in one piece after all streams have added theirs; a store
	// that must read inside it asks for its transaction. The batch holds all entries of the stream in this transaction,
	// in order, with Shard and Pos set. Insert may run again with other positions.
	Insert(ctx context.Context, w *db.Batch, batch []*Entry) error
	// Read gives the rows of a range in order. A compacted store leaves out rows that newer ones replaced.
	Read(ctx context.Context, q db.Querier, r Range) ([]Row, error)
}

// MaxNumber is the highest number of a stream.
const MaxNumber = 63

// Spec describes a stream. A domain declares it without Store and OnLost, which With adds when it is opened.
type Spec struct {
	Name string
	// Number identifies the stream in tokens and is never reused. 1 to MaxNumber; 0 in tests.
	Number int
	Role   string // the role whose processes share its shards
	Shards int
	// Generation counts the changes of Shards: positions of another generation mean nothing (design/016).
	Generation int
	Store      Store
	// Lane groups streams that are written together: streams of different lanes do not wait for each other. "" is a lane too.
	Lane string
	// PositionKey is the name of the unique key of shard and position in the stream's table.
	PositionKey string
	// OnLost runs when this process no longer owns a shard, to drop what is cached for it. May be nil.
	OnLost func(shard int)
}

// With completes a declared Spec.
func (s Spec) With(store Store, lost func(shard int)) Spec {
	s.Store, s.OnLost = store, lost
	return s
}

// Stream is one log, open in this process.
type Stream struct {
	spec    Spec
	streams *Streams
	lane    *lane
	leases  []string // names of the leases of the shards

	delivery prometheus.Observer

	subscriptions []*Subscription
	receiving     atomic.Bool // rows are received and dispatched to the active subscriptions
	receiveMu     sync.Mutex
	unsubscribe   func() // from the bus

	dispatchMu sync.Mutex      // held while rows are dispatched
	fromStore  bool            // the rows being dispatched come from the store, which may keep less of them than was written
	active     []*Subscription // the active subscriptions, in the order of wiring
	scratch    []Row           // memory of the rows being dispatched

	mu         sync.Mutex
	shards     []*shard
	advanced   chan struct{} // closed when a position moved; nil while nobody waits
	positioned bool          // the positions are known; before that, no row is dispatched
}

// shard is this process's view of one shard.
type shard struct {
	// Reader, under Stream.mu.
	delivered int64 // the last position dispatched to the subscriptions, which may still run
	seen      int64 // the last position that all subscriptions have seen
	target    int64 // the highest position known to exist
	reading   bool  // a goroutine reads rows that were missed

	// Writer, under Streams.mu.
	owned         bool
	releasing     bool   // is being handed over
	inCommit      bool   // some of its entries are in a commit
	skippedInTake uint64 // the number of the takeBatch call that skipped a ticket of this shard; later tickets wait too
	epoch         int64
	firstEpoch    int64 // the epoch at which this ownership began; it was not interrupted since
	next          int64 // the position that the next entry takes
	pending       int   // entries queued whose outcome is not known yet
}

// accepts reports whether new entries are queued; the caller holds Streams.mu.
func (sh *shard) accepts() bool { return sh.owned && !sh.releasing }

// heldSince reports whether the shard has been owned without interruption since an epoch; the caller holds Streams.mu.
func (sh *shard) heldSince(epoch int64) bool { return sh.owned && epoch >= sh.firstEpoch }

// Options wires the streams of a process.
type Options struct {
	DB     *db.DB
	Bus    bus.Bus
	Leases *lease.Leases
	Log    *slog.Logger
	// Registry takes the metrics; may be nil.
	Registry *prometheus.Registry
	// Limits; 0 means the default in parentheses. Tests make them small, to reach them in a few steps.
	Queue     int // tickets that may wait (20,000)
	Batch     int // entries of one transaction (1,000)
	ReadLimit int // missed rows that one statement reads (500)
}

// Streams are all streams of a process with their one writer.
type Streams struct {
	opts    Options
	opened  []*Stream
	byName  map[string]*Stream
	metrics metrics
	wired   bool

	startDone chan struct{} // closed at the end of Start
	consumers []*consumer
	lanes     []*lane
	byLease   map[string]shardRef

	mu            sync.Mutex
	queued        int // tickets whose outcome is not known yet
	queuedBytes   int
	takeCount     uint64
	outcomesKnown chan struct{} // closed, and made anew, when outcomes become known

	incarnation int64        // of this process
	unowned     atomic.Int64 // shards that this process does not own, written under mu

	highWaterMarks bus.Coalesced[struct{}]                // readHighWaterMarks
	leaseReads     bus.Coalesced[map[string]lease.Holder] // the holders of all shards, for Basis.Confirm
	lostMessages   atomic.Int64                           // how often messages to this process were lost
	lossesRead     atomic.Int64                           // lossCount at the last full read of the stored positions

	degradedMu          sync.Mutex
	degraded            bool         // the fleet knows that rows of this process may not be on the bus
	recoveryUnconfirmed bool         // this process tried to announce its recovery and got no answer
	busMoves            atomic.Int64 // how often this process came to another server of the bus
	announcedBusMoves   atomic.Int64 // how many of busMoves all processes know of

	assignments map[*Stream]assignment // only for rebalance
	ctx         context.Context        // ends with Run
	cancel      context.CancelFunc
	unsubscribe []func() // from the bus
}

// shardRef names a shard of a stream.
type shardRef struct {
	st    *Stream
	shard int
}

// assignment is the last result of assignShards for a stream.
type assignment struct{ machines, owners []int }

// New makes an empty set. Streams are opened while the process is wired, then Start runs them.
func New(o Options) *Streams {
	o.Queue, o.Batch, o.ReadLimit = cmp.Or(o.Queue, 20_000), cmp.Or(o.Batch, 1_000), cmp.Or(o.ReadLimit, 500)
	s := &Streams{
		opts: o, incarnation: o.Leases.Self().Incarnation, byName: map[string]*Stream{}, byLease: map[string]shardRef{},
		outcomesKnown: make(chan struct{}), startDone: make(chan struct{}), assignments: map[*Stream]assignment{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.highWaterMarks.Run = func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return struct{}{}, s.readHighWaterMarks(ctx)
	}
	s.leaseReads.Run = func() (map[string]lease.Holder, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return o.Leases.Read(ctx, "stream/")
	}
	s.metrics = newMetrics(o.Registry)
	if b, ok := o.Bus.(interface{ ObserveRoundTrips(fn func(time.Duration)) }); ok {
		b.ObserveRoundTrips(s.metrics.roundTrip)
	}
	if o.Registry != nil {
		o.Registry.MustRegister(s)
	}
	return s
}

// Open adds a stream. It panics when the name or number is taken, which is a mistake in the wiring.
func (s *Streams) Open(spec Spec) *Stream {
	if s.byName[spec.Name] != nil || s.wired {
		panic("stream " + spec.Name + ": opened twice or too late")
	}
	if spec.Number < 0 || spec.Number > MaxNumber {
		panic(fmt.Sprintf("stream %s: its number is %d, expected one up to %d", spec.Name, spec.Number, MaxNumber))
	}
	for _, other := range s.opened {
		if spec.Number != 0 && other.spec.Number == spec.Number {
			panic(fmt.Sprintf("stream %s: number %d is that of stream %s", spec.Name, spec.Number, other.spec.Name))
		}
	}
	st := &Stream{spec: spec, streams: s, lane: s.laneOf(spec.Lane), delivery: s.metrics.delivery.WithLabelValues(spec.Name)}
	for range spec.Shards {
		name := fmt.Sprintf("stream/%s/%04d", spec.Name, len(st.shards))
		s.byLease[name] = shardRef{st, len(st.shards)}
		st.leases = append(st.leases, name)
		st.shards = append(st.shards, &shard{})
		s.unowned.Add(1)
	}
	s.byName[spec.Name] = st
	s.opened = append(s.opened, st)
	return st
}

// All are the streams in the order in which they were opened.
func (s *Streams) All() []*Stream { return s.opened }

// Consumers are the consumers of this process.
func (s *Streams) Consumers() []Consumer {
	out := make([]Consumer, len(s.consumers))
	for i, c := range s.consumers {
		out[i] = c.Consumer
	}
	return out
}

// Spec is the specification with which the stream was opened.
func (st *Stream) Spec() Spec { return st.spec }

// Name is the stream's name.
func (st *Stream) Name() string { return st.spec.Name }

// Number is the number that identifies the stream in tokens.
func (st *Stream) Number() int { return st.spec.Number }

// Role is the role whose processes own the shards.
func (st *Stream) Role() string { return st.spec.Role }

// Shards is the number of shards.
func (st *Stream) Shards() int { return st.spec.Shards }

// Shard is the shard of a key.
func (st *Stream) Shard(key string) int { return int(xxhash.Sum64String(key) % uint64(st.spec.Shards)) }

// Lease is the name of the lease that guards a shard.
func (st *Stream) Lease(shard int) string { return st.leases[shard] }

// Position is the last position of a shard that the subscriptions have seen; 0 in a process that does not receive the
// stream.
func (st *Stream) Position(shard int) int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.shards[shard].seen
}

// Positions are the last positions of all shards that the subscriptions have seen.
func (st *Stream) Positions() []int64 {
	out := make([]int64, len(st.shards))
	st.mu.Lock()
	defer st.mu.Unlock()
	for i, sh := range st.shards {
		out[i] = sh.seen
	}
	return out
}

// Owns tells whether this process may write to a shard.
func (st *Stream) Owns(shard int) bool {
	st.streams.mu.Lock()
	defer st.streams.mu.Unlock()
	sh := st.shards[shard]
	return sh.accepts()
}

// WaitFor returns when the subscriptions have seen a position.
func (st *Stream) WaitFor(ctx context.Context, shard int, pos int64) error {
	for {
		st.mu.Lock()
		ok := st.shards[shard].seen >= pos
		if !ok && st.advanced == nil {
			st.advanced = make(chan struct{})
		}
		moved := st.advanced
		st.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
	}
}

// Read reads rows of a range from the store.
func (st *Stream) Read(ctx context.Context, r Range) ([]Row, error) {
	return st.spec.Store.Read(ctx, st.streams.opts.DB, r)
}
