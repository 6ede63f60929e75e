package push

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

const (
	maxEventAge      = 12 * time.Hour   // events older than this are no news
	receiversFor     = time.Minute      // how long the receivers of a room are remembered
	maxRooms         = 10_000           // rooms whose receivers are remembered
	outboxCheckEvery = 30 * time.Second // how often the outbox of a shard is looked at that seems to be empty
	maxBatch         = 10_000           // notifications that are sent, or stored, at once
)

// workers is what a process remembers that sends notifications.
type senderState struct {
	mu         sync.Mutex
	receivers  map[string]receivers // by room
	generation int64                // how often receivers were forgotten

	changed atomic.Int64 // how often pushers were found to be changed

	tickets     atomic.Int64 // of shards that ask how often pushers were changed
	counting    sync.Mutex
	answered    int64 // up to which turn
	changeCount int64 // what was read last

	outboxDue [rooms.Shards]atomic.Int64 // when the outbox of a shard is looked at next, in ms
}

type receivers struct {
	list  []*receiver
	until time.Time
}

func (w *senderState) init() {
	w.receivers = map[string]receivers{}
}

// take forgets the receivers of a room whose members changed.
func (w *senderState) eventCame(e *rooms.Event) {
	if e.Type == event.TypeMember {
		w.mu.Lock()
		w.generation++
		delete(w.receivers, e.RoomID)
		w.mu.Unlock()
	}
}

// forget forgets all receivers, as pushers changed.
func (w *senderState) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.generation++
	w.changed.Add(1)
	clear(w.receivers)
}

var outboxRows = &db.Table{
	Name: "push_outbox",
	Columns: db.Columns(
		"user_id text, app_id text, pushkey text, event_id text, shard integer, made_ms integer, next_ms integer, tries integer",
	),
	Conflict: "ON CONFLICT (user_id, app_id, pushkey, event_id) DO NOTHING",
}

// lookAt notes that a row of the outbox of a shard is due at a time, in ms.
func (w *senderState) setDue(shard int, due int64) {
	next := &w.outboxDue[shard]
	for before := next.Load(); due < before && !next.CompareAndSwap(before, due); before = next.Load() {
	}
}

// work is the Work of the consumer: it sends the notifications of events. What no gateway took at once goes into the outbox, what
// is left at the end in the transaction that moves the cursor.
func (p *Push) sendBatch(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
	var kept []outboxEntry
	sent := false
	for reads := ctx; len(rows) > 0; {
		if sent { // the cursor moves behind all: what was begun is done to its end, also when ctx ends
			reads = context.WithoutCancel(ctx)
			if err := p.storeOutbox(reads, shard, kept); err != nil {
				return nil, err
			}
			kept = nil
		}
		if err := p.checkPushers(reads); err != nil {
			return nil, err
		}
		seen := p.sender.changed.Load()
		list, rest, err := p.collect(reads, shard, rows)
		if err != nil {
			return nil, err
		}
		if rows = rest; len(list) > p.maxBatch {
			if err := p.storeOutbox(reads, shard, p.toOutboxAll(list)); err != nil {
				return nil, err
			}
		} else if len(list) > 0 {
			kept, sent = p.send(ctx, list, seen), true
		}
	}
	if !sent {
		return nil, nil
	}
	return func(w *db.Batch) { // also when nothing is kept: the cursor is stored, so that nothing is sent again
		if len(kept) > 0 {
			w.Rows(outboxRows, p.outboxValues(shard, kept))
		}
	}, nil
}

// gather gives what the first events of a batch are to tell, as many as tell stepMost together and one at least, and the events behind.
func (p *Push) collect(ctx context.Context, shard int, rows []stream.Row) (list []*delivery, remaining []stream.Row, err error) {
	old := 0
	for i, row := range rows {
		e, err := p.Rooms.FromRow(row)
		if err != nil {
			return nil, nil, err
		}
		if p.isOld(e) {
			old++
			continue
		}
		of, err := p.notifications(ctx, e)
		if err != nil {
			return nil, nil, err
		}
		if len(list) > 0 && len(list)+len(of) > p.maxBatch {
			remaining = rows[i:]
			break
		}
		for _, n := range of {
			list = append(list, deliveryOf(n, shard))
		}
	}
	if old > 0 {
		p.Process.Log.Info("nobody is told of events that are too old", "shard", shard, "events", old, "older_than", maxEventAge)
	}
	return list, remaining, nil
}

func (p *Push) toOutboxAll(list []*delivery) []outboxEntry {
	kept := make([]outboxEntry, len(list))
	for i, d := range list {
		kept[i] = p.toOutbox(d)
	}
	return kept
}

// keep puts notifications into the outbox before the cursor moves, in parts: with it they may be too much for one write. When the
// batch comes again they are there already.
func (p *Push) storeOutbox(ctx context.Context, shard int, kept []outboxEntry) error {
	for part := range slices.Chunk(kept, p.maxBatch) {
		values := p.outboxValues(shard, part)
		if err := p.Process.DB.Write(ctx, func(w *db.Batch) error { w.Rows(outboxRows, values); return nil }); err != nil {
			return err
		}
	}
	return nil
}

// outboxValues are rows for the outbox, at which it is looked when they are due.
func (p *Push) outboxValues(shard int, kept []outboxEntry) [][]any {
	now := p.Now()
	values := make([][]any, len(kept))
	for i, k := range kept {
		next := now.Add(k.pause).UnixMilli()
		key := k.place.key
		values[i] = []any{key.user, key.app, key.pushkey, key.event, shard, now.UnixMilli(), next, k.tries}
		p.sender.setDue(shard, next)
	}
	return values
}
