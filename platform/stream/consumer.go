package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/lease"
)

// Consumer works off the rows of a stream, each of them by one process of the fleet, in the order of each shard, from where
// the process before it stopped: what was begun is finished by whoever is alive. A domain declares Name, Role, Batch and
// Linger; the rest is added when it consumes.
type Consumer struct {
	Name   string // of its leases and cursors; it never changes
	Role   string // the role whose processes share the shards
	Stream *Stream
	Batch  int           // most rows at once (100)
	Linger time.Duration // how long rows may wait for more of them
	// Read gives the rows of a range; nil for the stream's store. A compacted stream that is consumed needs it.
	Read func(ctx context.Context, q db.Querier, r Range) ([]Row, error)
	// Work does what is outside the database, which may happen again after a crash, and returns what is written together
	// with the cursor; nil for nothing. Rows whose work fails are tried again one by one; those that fail again are
	// parked, and the others of their key behind them, and tried again for as long as it takes. When ctx ends it returns soon: what
	// it did by then is stored if it returns no error.
	Work func(ctx context.Context, shard int, rows []Row) (commit func(w *db.Batch), err error)
	// OnAssigned is called when this process gets a shard, before Work and Periodic; nil for nothing.
	OnAssigned func(shard int)
	// Periodic is called now and then in the process that has the shard, with the time until the next call; nil for nothing.
	Periodic func(ctx context.Context, shard int) (time.Duration, error)
}

const (
	maxBuffered       = 1000 // rows of a shard in memory; what does not fit is read from the store
	firstRetry        = time.Second
	longestRetry      = 5 * time.Minute
	cursorInterval    = time.Second            // how often the cursor of rows without work in the database is stored: at full seconds
	rebalanceInterval = time.Second            // how often the shares are looked at
	maxParkedBatch    = 100                    // most parked rows that are listed at once
	parkedTurn        = 200 * time.Millisecond // how long parked rows are tried until new ones have their turn
	maxReason         = 1000                   // bytes of a reason that are stored
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

// worker consumes one shard.
type worker struct {
	c     *consumer
	shard int
	lease lease.Lease // Pos is the stored cursor
	stop  context.CancelFunc
	done  chan struct{}
	wake  chan struct{}

	pos       int64            // up to which rows are worked off
	stored    int64            // the stored cursor
	parked    map[string]int64 // keys with parked rows, and how many
	lastTried int64            // the parked row behind which to go on; 0 for the first

	mu    sync.Mutex
	queue []Row // that follow each other, as they were written
}

// Consume adds a consumer; it works while Run runs. Wiring time only.
func (s *Streams) Consume(spec Consumer) {
	if spec.Batch == 0 {
		spec.Batch = 100
	}
	c := &consumer{Consumer: spec, streams: s, workers: map[int]*worker{}, failures: map[int]connectionFailures{}, updates: make(chan *cursorUpdate), customRead: spec.Read != nil}
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

// hear takes rows of the tail. Those that it has from the stream's store may not be what Read gives.
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

// balance takes the shards that belong here and gives up the others.
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
		if wanted[shard] != self.ID || !leases.Mine(c.leaseName(shard)) { // taken while this process stood still
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
		case wanted[shard] != self.ID && mine: // giving it back failed
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

// run works off what comes until ctx ends or the lease is lost.
func (w *worker) run(ctx context.Context) error {
	if w.c.OnAssigned != nil {
		w.c.OnAssigned(w.shard)
	}
	if err := w.loadParked(ctx); err != nil {
		return err
	}
	err := w.loop(ctx)
	if ctx.Err() != nil && !isUnconfirmed(err) { // else the stored cursor may be further
		return w.storeCursor(context.WithoutCancel(ctx), w.pos, nil, false)
	}
	return err
}

// turns works off new rows, tries parked ones and calls Periodic, by turns: none of them waits until there is nothing else to do.
func (w *worker) loop(ctx context.Context) error {
	stored := time.Now()
	var retry, every time.Time // when parked rows and Periodic have their turn
	for ctx.Err() == nil {
		rows, upto, err := w.nextRows(ctx, w.pos)
		if err != nil {
			return err
		}
		idle := upto == w.pos
		if !idle {
			wrote, err := w.process(ctx, rows, upto, time.Now().Truncate(cursorInterval).After(stored))
			if err != nil {
				return err
			}
			if wrote {
				stored = time.Now()
			}
		}
		if !time.Now().Before(retry) {
			if idle && w.pos > w.stored {
				if err := w.storeCursor(ctx, w.pos, nil, false); err != nil {
					return err
				}
			}
			pause, err := w.retryParked(ctx)
			if err != nil {
				return err
			}
			retry = time.Now().Add(pause)
		}
		if w.c.Periodic != nil && !time.Now().Before(every) {
			pause, err := w.c.Periodic(ctx, w.shard)
			if err != nil {
				return err
			}
			every = time.Now().Add(pause)
		}
		var wake chan struct{}
		now, until := time.Now(), retry
		switch {
		case idle:
			if wake = w.wake; w.c.Periodic != nil && every.Before(retry) {
				until = every
			}
		case len(rows) < w.c.Batch && w.c.Linger > 0:
			until = now.Truncate(w.c.Linger).Add(w.c.Linger) // all shards wait for the same moment, and commit together
		default:
			continue
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-time.After(until.Sub(now)):
		}
	}
	return nil
}

// next gives the rows after a position, and the position that they reach: from memory if it has them.
func (w *worker) nextRows(ctx context.Context, pos int64) (rows []Row, upto int64, err error) {
	head := w.c.Stream.Position(w.shard)
	w.mu.Lock()
	i := slices.IndexFunc(w.queue, func(r Row) bool { return r.Pos > pos })
	if i < 0 {
		i = len(w.queue)
	}
	w.queue = w.queue[i:]
	if len(w.queue) > 0 && w.queue[0].Pos == pos+1 {
		n := min(w.c.Batch, len(w.queue))
		rows = slices.Clone(w.queue[:n])
		w.queue = w.queue[n:]
		w.mu.Unlock()
		return rows, rows[n-1].Pos, nil
	}
	w.mu.Unlock()
	if head <= pos {
		return nil, pos, nil
	}
	rows, err = w.c.Read(ctx, w.c.streams.opts.DB, Range{Shard: w.shard, After: pos, Upto: head, Limit: w.c.Batch})
	if err != nil {
		return nil, pos, err
	}
	if len(rows) == w.c.Batch {
		head = rows[len(rows)-1].Pos
	}
	return rows, head, nil
}

// work works rows off and moves the cursor; due says that it is to be stored though there is nothing to do in the database.
// What fails is found row by row.
func (w *worker) process(ctx context.Context, rows []Row, upto int64, due bool) (wrote bool, err error) {
	var free []Row
	var park []parkedRow
	for _, r := range rows {
		if w.parked[r.Key] > 0 {
			park = append(park, parkedRow{r, behindOther})
		} else {
			free = append(free, r)
		}
	}
	if b := w.c.failuresOf(w.shard); len(rows) == 0 || w.pos >= b.upto {
		if wrote, err = w.attempt(ctx, attempt{rows: free, park: park, upto: upto, due: due}); err == nil {
			return wrote, nil
		}
		if w.endsWorker(ctx, err) {
			w.noteFailure(ctx, err, upto)
			return wrote, err
		}
	}
	for i, r := range rows {
		to := r.Pos
		if i == len(rows)-1 {
			to = upto
		}
		reason := ""
		switch b := w.c.failuresOf(w.shard); {
		case w.parked[r.Key] > 0:
			reason = behindOther
		case b.cursor == w.pos && b.count >= maxConnectionFailures:
			reason = breaksConnection
		}
		if reason == "" {
			if _, err = w.attempt(ctx, attempt{rows: []Row{r}, upto: to, due: true, alone: true}); err != nil && !w.endsWorker(ctx, err) {
				reason = err.Error()
			}
		}
		if reason != "" {
			_, err = w.attempt(ctx, attempt{park: []parkedRow{{r, reason}}, upto: to, due: true})
		}
		if err != nil {
			w.noteFailure(ctx, err, upto)
			return true, err
		}
	}
	return true, nil
}

// do does the Work of rows: what this process knows by other streams is no older than they are.
func (w *worker) doWork(ctx context.Context, rows []Row) (commit func(w *db.Batch), err error) {
	if err := w.c.streams.Barrier(ctx); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotCurrent, err)
	}
	if commit, err = w.c.Work(ctx, w.shard, rows); err != nil {
		err = &workError{err}
	}
	return commit, err
}

// workError is an error of Work. It says nothing of the database: Work may ask others, and whether the database answers is told by
// what is written next.
type workError struct{ error }

func (e *workError) Unwrap() error { return e.error }

// errBehind says that this process does not know whether it has heard of all that was acknowledged.
var errNotCurrent = errors.New("the newest rows are not known")

// over tells that an error is not of the rows: the worker ends, and starts again or elsewhere.
func (w *worker) endsWorker(ctx context.Context, err error) bool {
	var work *workError
	switch {
	case ctx.Err() != nil:
		return true
	case errors.As(err, &work):
		return false
	}
	return errors.Is(err, errNotCurrent) || errors.Is(err, lease.ErrLost) || db.IsUnavailable(err) || isUnconfirmed(err)
}

// attempt is what is done at once: rows to work off and rows to park, up to a position.
type attempt struct {
	rows  []Row
	park  []parkedRow
	upto  int64
	due   bool
	alone bool // as in step
}

func (w *worker) attempt(ctx context.Context, a attempt) (wrote bool, err error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	var commit func(w *db.Batch)
	if len(a.rows) > 0 {
		if commit, err = w.doWork(ctx, a.rows); err != nil {
			return false, errors.Join(err, ctx.Err())
		}
	}
	if commit == nil && len(a.park) == 0 && !a.due {
		w.pos = a.upto
		return false, nil
	}
	err = w.storeCursor(context.WithoutCancel(ctx), a.upto, func(b *db.Batch) { // what is done is stored, also when ctx ended meanwhile
		if commit != nil {
			commit(b)
		}
		w.park(b, a.park)
	}, a.alone)
	if err == nil {
		for _, r := range a.park {
			w.parked[r.Key]++
			w.c.streams.opts.Log.Warn("a row could not be worked off, it is tried again", "consumer", w.c.Name, "shard", w.shard, "position", r.Pos, "error", r.reason)
		}
	}
	return true, err
}

// move stores the cursor together with what more writes; it fails when the lease is lost.
func (w *worker) storeCursor(ctx context.Context, pos int64, more func(b *db.Batch), alone bool) error {
	s := &cursorUpdate{lease.Lease{Name: w.lease.Name, Epoch: w.lease.Epoch, Pos: pos}, more, alone, make(chan error, 1)}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case w.c.updates <- s:
	}
	select {
	case <-ctx.Done(): // it may be stored yet; whoever goes on reads the cursor
		return ctx.Err()
	case err := <-s.done:
		if err == nil {
			w.pos, w.stored = pos, pos
		}
		return err
	}
}

// step is a cursor that moves, and what is written with it.
type cursorUpdate struct {
	lease lease.Lease
	extra func(b *db.Batch) // nil for nothing
	alone bool              // not in one transaction with others, which would fail with it
	done  chan error
}

// commitAll writes the steps of all workers until there are none: what came during a commit in one transaction, or one by one
// when that fails.
func (c *consumer) commitAll() {
	for first := range c.updates {
		steps := []*cursorUpdate{first}
		runtime.Gosched() // the others are ready at the same moment
		for more := true; more; {
			select {
			case s, ok := <-c.updates:
				if more = ok; ok {
					steps = append(steps, s)
				}
			default:
				more = false
			}
		}
		c.commitUpdates(steps)
	}
}

func (c *consumer) commitUpdates(steps []*cursorUpdate) {
	var group, single []*cursorUpdate
	for _, s := range steps {
		if s.alone {
			single = append(single, s)
		} else {
			group = append(group, s)
		}
	}
	if len(group) > 0 {
		if err := c.commit(group); err == nil || len(group) == 1 || isUnconfirmed(err) || db.IsUnavailable(err) {
			for _, s := range group {
				s.done <- err
			}
		} else {
			single = append(single, group...)
		}
	}
	for _, s := range single {
		s.done <- c.commit([]*cursorUpdate{s})
	}
}

func (c *consumer) commit(group []*cursorUpdate) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	slices.SortFunc(group, func(a, b *cursorUpdate) int { return strings.Compare(a.lease.Name, b.lease.Name) }) // one order of row locks
	return c.streams.opts.DB.Write(ctx, func(b *db.Batch) error {
		marks := make([]lease.Lease, len(group))
		for i, s := range group {
			marks[i] = s.lease
		}
		c.streams.opts.Leases.Advance(b, marks)
		for _, s := range group {
			if s.extra != nil {
				s.extra(b)
			}
		}
		return nil
	})
}

// ConsumedBy gives, for each shard of a stream, the stored position of one consumer: it is done with what is up to there, but for
// what is parked.
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
		parked, err := db.Map[int, int64](st.streams.opts.DB.Query(ctx, `SELECT shard, MIN(pos) FROM parked_rows WHERE consumer = $1 GROUP BY shard`, c.Name))
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
