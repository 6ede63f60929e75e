package push

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

const (
	queueKept  = 1000             // events of a shard in memory; what does not fit is read from the store
	batchMost  = 100              // events between two stored positions
	sendAtOnce = 32               // requests of a shard to gateways
	storeAfter = time.Second      // how often the position of a shard without notifications is stored
	tooOld     = 12 * time.Hour   // events older than this are no news
	knownFor   = time.Minute      // how long the receivers of a room are remembered
	roomsKnown = 10_000           // rooms whose receivers are remembered
	restGate   = 30 * time.Second // how long a gateway that failed gets nothing at once
)

// workers are the shards of the events stream for which this process sends notifications.
type workers struct {
	mu        sync.Mutex
	shards    [rooms.Shards]*worker
	receivers map[string]receivers // by room
	gen       int64                // how often receivers were forgotten
	resting   map[string]time.Time // gateways that failed, by URL
}

type receivers struct {
	list  []*pusher
	until time.Time
}

// worker sends the notifications of one shard.
type worker struct {
	shard int
	lease lease.Lease
	stop  context.CancelFunc
	done  chan struct{}
	wake  chan struct{}

	mu    sync.Mutex
	queue []*rooms.Event
}

func (w *workers) init() {
	w.receivers, w.resting = map[string]receivers{}, map[string]time.Time{}
}

// wants tells whether this process sends for a shard.
func (w *workers) wants(shard int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shards[shard] != nil
}

// take gives an event to the worker of its shard.
func (w *workers) take(shard int, e *rooms.Event) {
	w.mu.Lock()
	x := w.shards[shard]
	if x != nil && e.Type == event.TypeMember {
		w.gen++
		delete(w.receivers, e.RoomID)
	}
	w.mu.Unlock()
	if x == nil {
		return
	}
	x.mu.Lock()
	if len(x.queue) >= queueKept {
		x.queue = nil // the store has them
	}
	x.queue = append(x.queue, e)
	x.mu.Unlock()
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

func (w *workers) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gen++
	clear(w.receivers)
}

func leaseName(shard int) string { return fmt.Sprintf("push/%02d", shard) }

// work holds this process's share of the shards until ctx ends.
func (p *Push) work(ctx context.Context) error {
	if !p.Process.Leases.Self().Has("push") {
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	defer p.giveUp(context.WithoutCancel(ctx), func(int) bool { return true })
	for {
		changed := p.Process.Leases.Changed()
		if err := p.share(ctx); err != nil && ctx.Err() == nil {
			p.Process.Log.Warn("the shards of the notifications could not be shared", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

// share takes the shards that belong here and gives up the others.
func (p *Push) share(ctx context.Context) error {
	var ids []int
	for _, m := range p.Process.Leases.Machines() {
		if m.Takes("push") {
			ids = append(ids, m.ID)
		}
	}
	slices.Sort(ids)
	mine := func(shard int) bool { return len(ids) > 0 && ids[shard%len(ids)] == p.Process.Machine() }
	p.giveUp(ctx, func(shard int) bool {
		if !mine(shard) {
			return true
		}
		w := p.workers.at(shard)
		select {
		case <-w.done: // it failed, or another process took the lease
			return true
		default:
			return false
		}
	})
	var names []string
	where := map[string]int{}
	for shard := range rooms.Shards {
		if h, held := p.Process.Leases.Holder(leaseName(shard)); !mine(shard) || p.workers.at(shard) != nil || held && h.Machine != p.Process.Machine() {
			continue
		}
		names = append(names, leaseName(shard))
		where[leaseName(shard)] = shard
	}
	if len(names) == 0 {
		return nil
	}
	got, err := p.Process.Leases.Acquire(ctx, names...)
	for _, l := range got {
		p.start(ctx, where[l.Name], l)
	}
	return err
}

func (w *workers) at(shard int) *worker {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.shards[shard]
}

func (p *Push) start(ctx context.Context, shard int, l lease.Lease) {
	run, stop := context.WithCancel(ctx)
	w := &worker{shard: shard, lease: l, stop: stop, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	p.workers.mu.Lock()
	p.workers.shards[shard] = w
	p.workers.mu.Unlock()
	go func() {
		defer close(w.done)
		if err := p.runShard(run, w); err != nil && run.Err() == nil {
			p.Process.Log.Warn("the notifications of a shard stopped, they start again", "shard", shard, "error", err)
		}
	}()
}

// giveUp stops workers and gives their leases back.
func (p *Push) giveUp(ctx context.Context, which func(shard int) bool) {
	var names []string
	for shard := range rooms.Shards {
		w := p.workers.at(shard)
		if w == nil || !which(shard) {
			continue
		}
		w.stop()
		<-w.done
		p.workers.mu.Lock()
		p.workers.shards[shard] = nil
		p.workers.mu.Unlock()
		names = append(names, leaseName(shard))
	}
	if len(names) == 0 {
		return
	}
	step, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := p.Process.Leases.Release(step, names...); err != nil {
		p.Process.Log.Warn("the leases of notifications were not given back", "error", err)
	}
}

// runShard sends what comes, and again what was not taken, until ctx ends or the lease is lost.
func (p *Push) runShard(ctx context.Context, w *worker) error {
	pos, stored := w.lease.Pos, p.Now()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		events, err := p.next(ctx, w, pos)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			failed, sent, err := p.notify(ctx, events)
			if err != nil || ctx.Err() != nil { // they are sent again
				return err
			}
			pos = events[len(events)-1].Pos
			if sent || len(failed) > 0 || p.Now().Sub(stored) > storeAfter {
				if err := p.store(ctx, w, pos, failed); err != nil {
					return err
				}
				stored = p.Now()
			}
			if len(failed) > 0 {
				retry.Reset(firstPause)
			}
			continue
		}
		select {
		case <-ctx.Done():
			return p.store(context.WithoutCancel(ctx), w, pos, nil)
		case <-w.wake:
		case <-retry.C:
			pause, err := p.retry(ctx, w)
			if err != nil {
				return err
			}
			retry.Reset(pause)
		}
	}
}

// next gives the events after a position, from memory if it has them.
func (p *Push) next(ctx context.Context, w *worker, pos int64) ([]*rooms.Event, error) {
	head := p.events.Position(w.shard)
	w.mu.Lock()
	i := slices.IndexFunc(w.queue, func(e *rooms.Event) bool { return e.Pos > pos })
	if i < 0 {
		i = len(w.queue)
	}
	w.queue = w.queue[i:]
	if len(w.queue) > 0 && w.queue[0].Pos == pos+1 {
		n := min(batchMost, len(w.queue))
		out := slices.Clone(w.queue[:n])
		w.queue = w.queue[n:]
		w.mu.Unlock()
		return out, nil
	}
	w.mu.Unlock()
	if head <= pos {
		return nil, nil
	}
	rows, err := p.events.Read(ctx, stream.Range{Shard: w.shard, After: pos, Upto: head, Limit: batchMost})
	if err != nil {
		return nil, err
	}
	out := make([]*rooms.Event, 0, len(rows))
	for _, row := range rows {
		e, err := p.Rooms.FromRow(row)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// store stores the position of a shard together with what no gateway took; it fails when the lease is lost.
func (p *Push) store(ctx context.Context, w *worker, pos int64, failed []notification) error {
	now := p.Now().UnixMilli()
	rows := make([][]any, len(failed))
	for i, n := range failed {
		rows[i] = []any{n.pusher.UserID, n.pusher.AppID, n.pusher.Pushkey, n.event.ID, w.shard, now, now + firstPause.Milliseconds(), 1}
	}
	step, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return p.Process.DB.Tx(step, func(tx *db.Tx) error {
		mark := lease.Lease{Name: w.lease.Name, Epoch: w.lease.Epoch, Pos: pos}
		if err := p.Process.Leases.Advance(step, tx, []lease.Lease{mark}); err != nil {
			return err
		}
		return tx.Bulk(step, `INSERT INTO push_outbox (user_id, app_id, pushkey, event_id, shard, made_ms, next_ms, tries) VALUES ?
			ON CONFLICT (user_id, app_id, pushkey, event_id) DO NOTHING`, rows)
	})
}

// notify sends the notifications of events and returns those that no gateway took.
func (p *Push) notify(ctx context.Context, events []*rooms.Event) (failed []notification, sent bool, err error) {
	var g errgroup.Group
	var mu sync.Mutex
	g.SetLimit(sendAtOnce)
	for _, e := range events {
		list, err := p.notifications(ctx, e)
		if err != nil {
			_ = g.Wait()
			return nil, false, err
		}
		for _, n := range list {
			g.Go(func() error {
				err := p.deliver(ctx, n)
				mu.Lock()
				defer mu.Unlock()
				sent = true
				if err != nil {
					failed = append(failed, n)
				}
				return nil
			})
		}
	}
	_ = g.Wait() // failures are in failed
	return failed, sent, nil
}

var errResting = errors.New("the push gateway failed lately")

// rest tells whether a gateway failed so lately that it is not asked at once.
func (w *workers) rest(url string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	until, ok := w.resting[url]
	if ok && now.After(until) {
		delete(w.resting, url)
		return false
	}
	return ok
}

func (w *workers) failed(url string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.resting) < roomsKnown {
		w.resting[url] = now.Add(restGate)
	}
}
