package push

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

const (
	tooOld      = 12 * time.Hour   // events older than this are no news
	knownFor    = time.Minute      // how long the receivers of a room are remembered
	roomsKnown  = 10_000           // rooms whose receivers are remembered
	outboxEvery = 30 * time.Second // how often the outbox of a shard is looked at that seems to be empty
)

// workers is what a process remembers that sends notifications.
type workers struct {
	mu        sync.Mutex
	receivers map[string]receivers // by room
	gen       int64                // how often receivers were forgotten

	turns    atomic.Int64 // of shards that ask how often pushers were changed
	reading  sync.Mutex
	answered int64 // up to which turn
	changes  int64 // what was read last

	outbox [rooms.Shards]atomic.Int64 // when the outbox of a shard is looked at next, in ms
}

type receivers struct {
	list  []*receiver
	until time.Time
}

func (w *workers) init() {
	w.receivers = map[string]receivers{}
}

// take forgets the receivers of a room whose members changed.
func (w *workers) take(e *rooms.Event) {
	if e.Type == event.TypeMember {
		w.mu.Lock()
		w.gen++
		delete(w.receivers, e.RoomID)
		w.mu.Unlock()
	}
}

func (w *workers) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gen++
	clear(w.receivers)
}

var outboxRows = &db.Table{
	Name:     "push_outbox",
	Columns:  db.Columns("user_id text, app_id text, pushkey text, event_id text, shard integer, made_ms integer, next_ms integer, tries integer"),
	Conflict: "ON CONFLICT (user_id, app_id, pushkey, event_id) DO NOTHING",
}

// work is the Work of the consumer: it sends the notifications of events. What no gateway took at once goes into the outbox in
// the transaction that moves the cursor.
func (p *Push) work(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
	if err := p.pushersNow(ctx); err != nil {
		return nil, err
	}
	var list []notification
	old := 0
	for _, row := range rows {
		e, err := p.Rooms.FromRow(row)
		if err != nil {
			return nil, err
		}
		if p.isOld(e) {
			old++
			continue
		}
		of, err := p.notifications(ctx, e)
		if err != nil {
			return nil, err
		}
		list = append(list, of...)
	}
	if old > 0 {
		p.Process.Log.Info("nobody is told of events that are too old", "shard", shard, "events", old, "older_than", tooOld)
	}
	if len(list) == 0 {
		return nil, nil
	}
	kept, err := p.send(ctx, list)
	if err != nil {
		return nil, err
	}
	return func(w *db.Batch) { // also when nothing is kept: the cursor is stored, so that nothing is sent again
		if len(kept) == 0 {
			return
		}
		now := p.Now()
		values := make([][]any, len(kept))
		for i, k := range kept {
			next := now.Add(k.pause).UnixMilli()
			values[i] = []any{k.pusher.UserID, k.pusher.AppID, k.pusher.Pushkey, k.event.ID, shard, now.UnixMilli(), next, k.tries}
			if before := p.workers.outbox[shard].Load(); next < before {
				p.workers.outbox[shard].Store(next)
			}
		}
		w.Rows(outboxRows, values)
	}, nil
}

// keptBack is a notification for the outbox.
type keptBack struct {
	notification
	pause time.Duration // until it is tried
	tries int
}

// send sends what there are places for, waits a moment for the gateways, and gives the rest.
func (p *Push) send(ctx context.Context, list []notification) (kept []keptBack, err error) {
	moment := time.NewTimer(promptly)
	defer moment.Stop()
	over := false
	wait := func(for_ <-chan struct{}) error {
		select {
		case <-for_:
		case <-moment.C:
			over = true
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	}
	var under []*sending
	for {
		freed := p.sends.next()
		var left []notification
		for _, n := range list {
			at := placeOf(n.key(), n.pusher.url())
			switch err := p.sends.begin(&at, false, p.Now()); {
			case err == nil:
				under = append(under, p.start(n, at))
			case errors.Is(err, errNoPlace) && !over:
				left = append(left, n)
			case errors.Is(err, errUnderWay): // the batch was begun before
				kept = append(kept, keptBack{n, underWay, 1})
			default:
				kept = append(kept, keptBack{n, 0, 0})
			}
		}
		if list = left; len(list) == 0 {
			break
		}
		if err := wait(freed); err != nil {
			return nil, err
		}
	}
	for _, s := range under {
		if over {
			break
		}
		if err := wait(s.done); err != nil {
			return nil, err
		}
	}
	for _, s := range under {
		switch ended, err := s.outcome(); {
		case !ended:
			p.sends.doubt(s.place, p.Now())
			kept = append(kept, keptBack{s.notification, underWay, 1})
		case err != nil:
			kept = append(kept, keptBack{s.notification, firstPause, 1})
		}
	}
	return kept, nil
}
