package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/lease"
)

// Consumer works off the rows of a stream. Each shard has one process at a time, which takes its rows in order and goes on
// where the process before it stopped. A domain declares Name, Role, Batch and Linger; the rest is added when it consumes.
type Consumer struct {
	Name   string // of its leases and cursors; it never changes
	Role   string // the role whose processes share the shards
	Stream *Stream
	Batch  int           // most rows at once (100)
	Linger time.Duration // how long rows may wait to be worked off together with later ones
	// Read reads the rows of a range; nil: the stream's store does. A consumer of a compacted stream needs its own.
	Read func(ctx context.Context, q db.Querier, r Range) ([]Row, error)
	// Work does the part of the work that is outside the database, which may happen again after a crash, and returns the
	// writes that are stored together with the cursor; nil for none. When it fails, the rows are tried again one by one.
	// A row that fails again is parked, with the later rows of its key, and tried again until it succeeds. When ctx ends,
	// Work returns soon; without an error, what it did is stored.
	Work func(ctx context.Context, shard int, rows []Row) (commit func(w *db.Batch), err error)
	// OnAssigned runs when this process gets a shard, before Work and Periodic. May be nil.
	OnAssigned func(shard int)
	// Periodic runs from time to time in the process that has the shard, and returns the pause until the next call; nil:
	// nothing runs.
	Periodic func(ctx context.Context, shard int) (time.Duration, error)
}

const (
	maxBuffered       = 1000 // rows of a shard in memory; what does not fit is read from the store
	firstRetry        = time.Second
	longestRetry      = 5 * time.Minute
	cursorInterval    = time.Second            // how often a cursor is stored when the rows write nothing; at full seconds
	rebalanceInterval = time.Second            // how often the distribution of shards is checked
	maxParkedBatch    = 100                    // parked rows read by one statement
	parkedTurn        = 200 * time.Millisecond // how long parked rows are tried before it is the turn of new ones
	maxReason         = 1000                   // bytes of a stored reason
)

// consumer runs a Consumer in this process.
type consumer struct {
	Consumer
	streams      *Streams
	subscription *Subscription
	updates      chan *cursorUpdate
	customRead   bool // Read gives other rows than the stream's store

	mu       sync.Mutex
	workers  map[int]*worker
	failures map[int]connectionFailures // by shard
}

// Consume adds a consumer; it works while Run runs. Wiring time only.
func (s *Streams) Consume(spec Consumer) {
	if spec.Batch == 0 {
		spec.Batch = 100
	}
	c := &consumer{
		Consumer: spec, streams: s, workers: map[int]*worker{}, failures: map[int]connectionFailures{},
		updates: make(chan *cursorUpdate), customRead: spec.Read != nil,
	}
	if spec.Read == nil {
		c.Read = spec.Stream.spec.Store.Read
	}
	c.subscription = spec.Stream.Subscribe(c.receive, spec.Role)
	s.consumers = append(s.consumers, c)
}

func (c *consumer) leaseName(shard int) string { return c.Lease(shard) }

// Lease is the name of the lease of a shard.
func (c *Consumer) Lease(shard int) string { return fmt.Sprintf("consumer/%s/%04d", c.Name, shard) }

// Consumes tells that this process has a shard of the stream of a consumer.
func (s *Streams) Consumes(consumer string, shard int) bool {
	return s.opts.Leases.Mine((&Consumer{Name: consumer}).Lease(shard))
}

// receive takes rows of the subscription. When Read is not the stream's own, rows that come from the store are not
// queued: Read may give others.
func (c *consumer) receive(rows []Row) {
	keep := !c.customRead || !c.Stream.fromStore
	for _, row := range rows {
		c.mu.Lock()
		w := c.workers[row.Shard]
		c.mu.Unlock()
		if w == nil {
			continue
		}
		w.mu.Lock()
		if n := len(w.queue); n >= maxBuffered || n > 0 && w.queue[n-1].Pos+1 != row.Pos {
			w.queue = nil // the store has them
		}
		if keep {
			w.queue = append(w.queue, row)
		}
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// run holds this process's share of the shards until ctx ends.
func (c *consumer) run(ctx context.Context) {
	if !c.streams.opts.Leases.Self().Has(c.Role) {
		return
	}
	tick := time.NewTicker(rebalanceInterval)
	defer tick.Stop()
	var committing sync.WaitGroup
	committing.Go(c.commitAll)
	defer committing.Wait()
	defer close(c.updates)
	defer c.giveUp(ctx, func(int) bool { return true })
	for {
		changed := c.streams.opts.Leases.Changed()
		if err := c.rebalance(ctx); err != nil && ctx.Err() == nil {
			c.streams.opts.Log.Warn("the shards of a consumer could not be shared", "consumer", c.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// rebalance takes the shards that belong to this process and gives up the others.
func (c *consumer) rebalance(ctx context.Context) error {
	leases := c.streams.opts.Leases
	var machines []int
	for _, m := range leases.Machines() {
		if m.Takes(c.Role) {
			machines = append(machines, m.ID)
		}
	}
	wanted := assignShards("consumer/"+c.Name, c.Stream.Shards(), machines)
	self := leases.Self()
	c.giveUp(ctx, func(shard int) bool {
		if wanted[shard] != self.ID || !leases.Mine(c.leaseName(shard)) { // taken over while this process was paused
			return true
		}
		select {
		case <-c.workerOf(shard).done: // it failed
			return true
		default:
			return false
		}
	})
	var names, left []string
	where := map[string]int{}
	for shard := range c.Stream.Shards() {
		name := c.leaseName(shard)
		_, held := leases.Holder(name)
		mine := leases.Mine(name)
		switch {
		case c.workerOf(shard) != nil:
		case wanted[shard] == self.ID && (!held || mine):
			names = append(names, name)
			where[name] = shard
		case wanted[shard] != self.ID && mine: // releasing it failed
			left = append(left, name)
		}
	}
	failed := leases.Release(ctx, left...)
	got, err := leases.Acquire(ctx, names...)
	for _, l := range got {
		c.start(ctx, where[l.Name], l)
	}
	return errors.Join(failed, err)
}

func (c *consumer) workerOf(shard int) *worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.workers[shard]
}

func (c *consumer) start(ctx context.Context, shard int, l lease.Lease) {
	run, stop := context.WithCancel(ctx)
	w := &worker{c: c, shard: shard, lease: l, stop: stop, done: make(chan struct{}), wake: make(chan struct{}, 1), pos: l.Pos, stored: l.Pos}
	c.mu.Lock()
	c.workers[shard] = w
	c.mu.Unlock()
	go func() {
		defer close(w.done)
		if err := w.run(run); err != nil && run.Err() == nil {
			c.streams.opts.Log.Warn("a consumer stopped, it starts again", "consumer", c.Name, "shard", shard, "error", err)
		}
	}()
}

// giveUp stops workers and gives their leases back, also at the end of ctx.
func (c *consumer) giveUp(ctx context.Context, which func(shard int) bool) {
	var names []string
	for shard := range c.Stream.Shards() {
		w := c.workerOf(shard)
		if w == nil || !which(shard) {
			continue
		}
		w.stop()
		<-w.done
		c.mu.Lock()
		delete(c.workers, shard)
		c.mu.Unlock()
		names = append(names, c.leaseName(shard))
	}
	if len(names) == 0 {
		return
	}
	step, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := c.streams.opts.Leases.Release(step, names...); err != nil {
		c.streams.opts.Log.Warn("the leases of a consumer were not given back", "consumer", c.Name, "error", err)
	}
}

// ConsumedBy returns the stored position of one consumer for each shard: the consumer is done with the rows up to there,
// except for parked ones.
func (st *Stream) ConsumedBy(ctx context.Context, name string) ([]int64, error) {
	c := &consumer{Consumer: Consumer{Name: name}}
	held, err := st.streams.opts.Leases.Read(ctx, "consumer/"+name+"/")
	out := make([]int64, st.spec.Shards)
	for shard := range out {
		out[shard] = held[c.leaseName(shard)].Pos
	}
	return out, err
}

// Consumed gives, for each shard of a stream, the position up to which all its consumers are done: what is before may be
// deleted where nobody else reads it.
func (st *Stream) Consumed(ctx context.Context) ([]int64, error) {
	held, err := st.streams.opts.Leases.Read(ctx, "consumer/")
	if err != nil {
		return nil, err
	}
	out := st.Positions()
	for _, c := range st.streams.consumers {
		if c.Stream != st {
			continue
		}
		parked, err := db.Map[int, int64](st.streams.opts.DB.Query(ctx, `SELECT shard, MIN(pos) FROM parked_rows WHERE consumer = $1
				GROUP BY shard`, c.Name))
		if err != nil {
			return nil, err
		}
		for shard := range out {
			out[shard] = min(out[shard], held[c.leaseName(shard)].Pos)
			if pos, some := parked[shard]; some {
				out[shard] = min(out[shard], pos-1)
			}
		}
	}
	return out, nil
}
