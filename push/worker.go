package push

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

const (
	sendAtOnce  = 32               // requests of a shard to gateways
	tooOld      = 12 * time.Hour   // events older than this are no news
	knownFor    = time.Minute      // how long the receivers of a room are remembered
	roomsKnown  = 10_000           // rooms whose receivers are remembered
	restGate    = 30 * time.Second // how long a gateway that failed gets nothing at once
	outboxEvery = 30 * time.Second // how often the outbox of a shard is looked at that seems to be empty
)

// workers is what a process remembers that sends notifications.
type workers struct {
	mu        sync.Mutex
	receivers map[string]receivers // by room
	gen       int64                // how often receivers were forgotten
	resting   map[string]time.Time // gateways that failed, by URL

	outbox [rooms.Shards]atomic.Int64 // when the outbox of a shard is looked at next, in ms
}

type receivers struct {
	list  []*pusher
	until time.Time
}

func (w *workers) init() {
	w.receivers, w.resting = map[string]receivers{}, map[string]time.Time{}
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

// work is the Work of the consumer: it sends the notifications of events. What no gateway takes goes into the outbox in the
// transaction that moves the cursor.
func (p *Push) work(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
	events := make([]*rooms.Event, 0, len(rows))
	for _, row := range rows {
		e, err := p.Rooms.FromRow(row)
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	failed, sent, err := p.notify(ctx, events)
	if err != nil || !sent {
		return nil, err
	}
	return func(w *db.Batch) {
		if len(failed) == 0 {
			return // the cursor is stored: nothing that was sent is sent again
		}
		now := p.Now().UnixMilli()
		next := now + firstPause.Milliseconds()
		values := make([][]any, len(failed))
		for i, n := range failed {
			values[i] = []any{n.pusher.UserID, n.pusher.AppID, n.pusher.Pushkey, n.event.ID, shard, now, next, 1}
		}
		p.workers.outbox[shard].Store(next)
		w.Rows(outboxRows, values)
	}, nil
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
