package stream

import (
	"cmp"
	"context"
	"errors"
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

// ErrNotOwner says that this process does not own the shard: ask the owner.
var ErrNotOwner = errors.New("another process owns this shard of the stream")

// ErrAborted says that an entry queued before this one for the same shard failed, so this one was not
// written either: build it anew and try again.
var ErrAborted = errors.New("an earlier entry of the same shard failed")

// ErrBusy says that the queue of this process is full.
var ErrBusy = errors.New("too many writes are waiting")

// Row is one entry of a shard as readers see it.
type Row struct {
	Shard int
	Pos   int64
	Key   string
	Data  []byte // travels on the bus; nil when the readers must read it from the store
	Value any    // what the writer gave, in the process that wrote it; nil elsewhere
}

// Entry is a row to be written.
type Entry struct {
	Stream *Stream
	Row

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
	// Insert is part of the group commit. The batch holds all entries of the stream in this transaction,
	// in order, with Shard and Pos set. It may run again with other positions.
	Insert(ctx context.Context, tx *db.Tx, batch []*Entry) error
	// Read gives the rows of a range in order. A compacted store leaves out rows that newer ones replaced.
	Read(ctx context.Context, q db.Querier, r Range) ([]Row, error)
}

// Spec describes a stream.
type Spec struct {
	Name   string
	Role   string // the role whose processes share its shards
	Shards int
	Store  Store
	// Acquired runs when this process becomes the owner of a shard, before any write. Lost runs when it is
	// not any more, or when a write failed: what is cached for the shard must be dropped, and what a
	// goroutine builds upon it at this moment must not be queued. Both may be nil.
	Acquired, Lost func(shard int)
}

// Stream is one log, open in this process.
type Stream struct {
	spec   Spec
	set    *Streams
	leases []string // names of the leases of the shards

	delivery prometheus.Observer

	tails    []*Tail
	followed atomic.Bool // rows are received and handed to the tails that are on
	followMu sync.Mutex
	undo     func() // ends the subscription

	tailMu  sync.Mutex // serializes the tails of this stream
	active  []*Tail    // those that are on
	scratch []Row      // memory of the rows that are handed over

	mu     sync.Mutex
	shards []*shard
	moved  chan struct{} // closed when a position moved; nil while nobody waits
	begun  bool          // the positions are known: before, no row is handed over
}

// shard is this process's view of one shard.
type shard struct {
	// Reader, under Stream.mu.
	delivered int64 // the last position given to the tails, which may still run
	seen      int64 // the last position that all tails have seen
	target    int64 // the highest position known to exist
	reading   bool  // a goroutine reads rows that were missed

	// Writer, under Streams.mu.
	owned   bool
	closing bool // its caches are being dropped
	leaving bool // is being handed over
	epoch   int64
	next    int64 // the position that the next entry takes
	pending int   // entries queued and not yet decided
}

// open tells whether entries are taken; the caller holds Streams.mu.
func (sh *shard) open() bool { return sh.owned && !sh.closing && !sh.leaving }

// Options wires the streams of a process.
type Options struct {
	DB     *db.DB
	Bus    bus.Bus
	Leases *lease.Leases
	Log    *slog.Logger
	// Registry takes the metrics; may be nil.
	Registry *prometheus.Registry
	// Limits; 0 for the defaults in parentheses. Tests make them small, so that they are reached in a few steps.
	Queue     int // tickets that may wait (20,000)
	Batch     int // entries of one transaction (1,000)
	ReadLimit int // missed rows that one statement reads (500)
}

// Streams are all streams of a process with their one writer.
type Streams struct {
	o       Options
	order   []*Stream
	byName  map[string]*Stream
	metrics metrics
	started bool

	mu      sync.Mutex
	queue   []*Ticket
	wake    chan struct{}
	settled chan struct{} // closed when entries were decided

	incarnation int64 // of this process

	heads barrier
	lost  atomic.Int64 // times that messages were lost on their way to this process
	read  atomic.Int64 // what losses was when the stored positions were read last

	muteMu sync.Mutex
	mute   bool // the fleet was told that rows of this process may not be on the bus

	shares map[*Stream]share // only for balance
	ctx    context.Context   // ends with Run
	end    context.CancelFunc
	undo   []func() // subscriptions
}

// share is the last result of assign.
type share struct{ machines, owners []int }

// New makes an empty set. Streams are opened while the process is wired, then Start runs them.
func New(o Options) *Streams {
	o.Queue, o.Batch, o.ReadLimit = cmp.Or(o.Queue, 20_000), cmp.Or(o.Batch, 1_000), cmp.Or(o.ReadLimit, 500)
	s := &Streams{o: o, incarnation: o.Leases.Self().Incarnation, byName: map[string]*Stream{}, wake: make(chan struct{}, 1), settled: make(chan struct{}), shares: map[*Stream]share{}}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.metrics = newMetrics(o.Registry)
	if b, ok := o.Bus.(interface{ ObserveRoundTrips(fn func(time.Duration)) }); ok {
		b.ObserveRoundTrips(s.metrics.roundTrip)
	}
	if o.Registry != nil {
		o.Registry.MustRegister(s)
	}
	return s
}

// Open adds a stream. It panics on a name that is taken: that is a mistake in the wiring.
func (s *Streams) Open(spec Spec) *Stream {
	if s.byName[spec.Name] != nil || s.started {
		panic("stream " + spec.Name + ": opened twice or too late")
	}
	st := &Stream{spec: spec, set: s, delivery: s.metrics.delivery.WithLabelValues(spec.Name)}
	for range spec.Shards {
		st.leases = append(st.leases, fmt.Sprintf("stream/%s/%04d", spec.Name, len(st.shards)))
		st.shards = append(st.shards, &shard{})
	}
	s.byName[spec.Name] = st
	s.order = append(s.order, st)
	return st
}

// All are the streams in the order in which they were opened.
func (s *Streams) All() []*Stream { return s.order }

// Name is the stream's name.
func (st *Stream) Name() string { return st.spec.Name }

// Role is the role whose processes own the shards.
func (st *Stream) Role() string { return st.spec.Role }

// Shards is the number of shards.
func (st *Stream) Shards() int { return st.spec.Shards }

// Shard is the shard of a key.
func (st *Stream) Shard(key string) int { return int(xxhash.Sum64String(key) % uint64(st.spec.Shards)) }

// Lease is the name of the lease that guards a shard.
func (st *Stream) Lease(shard int) string { return st.leases[shard] }

// Position is the last position of a shard that the tails have seen; 0 in a process that does not receive the
// stream.
func (st *Stream) Position(shard int) int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.shards[shard].seen
}

// Positions are the last positions of all shards that the tails have seen.
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
	st.set.mu.Lock()
	defer st.set.mu.Unlock()
	sh := st.shards[shard]
	return sh.open()
}

// WaitFor returns when the tails have seen a position.
func (st *Stream) WaitFor(ctx context.Context, shard int, pos int64) error {
	for {
		st.mu.Lock()
		ok := st.shards[shard].seen >= pos
		if !ok && st.moved == nil {
			st.moved = make(chan struct{})
		}
		moved := st.moved
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

// Read gives rows of a range from the store.
func (st *Stream) Read(ctx context.Context, r Range) ([]Row, error) {
	return st.spec.Store.Read(ctx, st.set.o.DB, r)
}
