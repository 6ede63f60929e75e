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
	maxEventAge      = 12 * time.Hour   // nobody is notified of events that are older
	receiversFor     = time.Minute      // how long the receivers of a room are cached
	maxRooms         = 10_000           // rooms whose receivers are cached
	outboxCheckEvery = 30 * time.Second // how often the outbox of a shard is read that seems to be empty
	maxBatch         = 10_000           // notifications that are sent or stored at once
)

// senderState is the state of a process that sends notifications.
type senderState struct {
	mu         sync.Mutex
	receivers  map[string]cachedReceivers // by room
	generation int64                      // how often receivers were removed from the cache

	changed atomic.Int64 // how often this process found that pushers were changed

	tickets     atomic.Int64 // counts the calls of checkPushers
	counting    sync.Mutex
	answered    int64 // the calls up to this ticket are answered by a read that began after them
	changeCount int64 // the number of changes of pushers that was read last

	outboxDue [rooms.Shards]atomic.Int64 // when the outbox of a shard is read next, in ms since 1970
}

type cachedReceivers struct {
	list  []*receiver
	until time.Time
}

func (w *senderState) init() {
	w.receivers = map[string]cachedReceivers{}
}

// eventCame removes the receivers of a room from the cache when its members changed.
func (w *senderState) eventCame(e *rooms.Event) {
	if e.Type == event.TypeMember {
		w.mu.Lock()
		w.generation++
		delete(w.receivers, e.RoomID)
		w.mu.Unlock()
	}
}

// forgetReceivers removes all receivers from the cache, as pushers changed.
func (w *senderState) forgetReceivers() {
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

// setDue notes that a row of a shard's outbox is due at a time, in ms since 1970.
func (w *senderState) setDue(shard int, due int64) {
	next := &w.outboxDue[shard]
	for before := next.Load(); due < before && !next.CompareAndSwap(before, due); before = next.Load() {
	}
}

// sendBatch is the Work function of the consumer: it sends the notifications of a batch of events. Notifications that no gateway took at
// once are written to the outbox, the last of them in the transaction that moves the cursor.
func (p *Push) sendBatch(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
	var deferred []outboxEntry
	sent := false
	for reads := ctx; len(rows) > 0; {
		if sent { // a batch of which a part was sent is finished, also when ctx ends, so that the cursor moves behind all of it
			reads = context.WithoutCancel(ctx)
			if err := p.storeOutbox(reads, shard, deferred); err != nil {
				return nil, err
			}
			deferred = nil
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
			deferred, sent = p.send(ctx, list, seen), true
		}
	}
	if !sent {
		return nil, nil
	}
	return func(w *db.Batch) { // also when the outbox gets nothing: the cursor is stored, so that nothing is sent twice
		if len(deferred) > 0 {
			w.Rows(outboxRows, p.outboxValues(shard, deferred))
		}
	}, nil
}

// collect returns the notifications of the first events of a batch, and the remaining events. It takes so many events that they have
// maxBatch notifications together, and at least one.
func (p *Push) collect(ctx context.Context, shard int, rows []stream.Row) (list []*delivery, remaining []stream.Row, err error) {
	old := 0
	for i, row := range rows {
		e, err := p.Rooms.FromRow(row)
		if err != nil {
			return nil, nil, err
		}
		if p.isTooOld(e) {
			old++
			continue
		}
		of, err := p.notificationsOf(ctx, e)
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
	deferred := make([]outboxEntry, len(list))
	for i, d := range list {
		deferred[i] = p.toOutbox(d)
	}
	return deferred
}

// storeOutbox writes notifications to the outbox before the cursor moves, in parts, as all may be too many for one transaction. When the
// batch comes again, they are there already.
func (p *Push) storeOutbox(ctx context.Context, shard int, deferred []outboxEntry) error {
	for part := range slices.Chunk(deferred, p.maxBatch) {
		values := p.outboxValues(shard, part)
		if err := p.Process.DB.Write(ctx, func(w *db.Batch) error { w.Rows(outboxRows, values); return nil }); err != nil {
			return err
		}
	}
	return nil
}

// outboxValues returns the rows of notifications for the outbox, and notes when they are due.
func (p *Push) outboxValues(shard int, deferred []outboxEntry) [][]any {
	now := p.Now()
	values := make([][]any, len(deferred))
	for i, k := range deferred {
		next := now.Add(k.pause).UnixMilli()
		key := k.slot.key
		values[i] = []any{key.user, key.app, key.pushkey, key.event, shard, now.UnixMilli(), next, k.tries}
		p.sender.setDue(shard, next)
	}
	return values
}
