package receipts

import (
	"context"
	"encoding/json"
	"errors"
	"sync"

	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// mark names a receipt that newer ones replace.
type mark struct{ room, user, typ, thread string }

// marks are the events at which the receipts of a shard stand, in the owner's memory. They come before the
// database: what is queued counts. Two maps bound them and keep what is newest.
type marks struct {
	mu       sync.Mutex
	dropped  int64 // how often they were dropped: what was read before may be stale
	new, old map[mark]int64
}

const marksKept = 20_000

func (m *marks) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dropped++
	m.new, m.old = nil, nil
}

func (m *marks) get(k mark) (int64, bool) {
	pos, ok := m.new[k]
	if !ok {
		pos, ok = m.old[k]
	}
	return pos, ok
}

func (m *marks) put(k mark, pos int64) {
	if len(m.new) >= marksKept {
		m.old, m.new = m.new, nil
	}
	if m.new == nil {
		m.new = map[mark]int64{}
	}
	m.new[k] = pos
}

// setHere runs on the owner of the room's shard.
func (r *Receipts) setHere(ctx context.Context, roomID string, list []Receipt) (struct{}, error) {
	m := &r.marks[r.stream.Shard(roomID)]
	for _, rc := range list {
		if err := r.warm(ctx, m, rc.mark()); err != nil {
			return struct{}{}, err
		}
	}
	var entries []*stream.Entry
	m.mu.Lock()
	for _, rc := range list {
		at, known := m.get(rc.mark())
		if !known { // dropped since it was read: the shard moves
			m.mu.Unlock()
			return struct{}{}, stream.ErrNotOwner
		}
		if at >= rc.EventPos {
			continue
		}
		data, err := json.Marshal(rc)
		if err != nil {
			m.mu.Unlock()
			return struct{}{}, err
		}
		m.put(rc.mark(), rc.EventPos)
		entries = append(entries, &stream.Entry{Stream: r.stream, Row: stream.Row{Key: roomID, Data: data, Value: &rc}})
	}
	if len(entries) == 0 {
		m.mu.Unlock()
		return struct{}{}, nil
	}
	// Queued under the lock: when a write fails, drop waits for it, and nothing is built on what failed.
	ticket := r.Process.Streams.Enqueue(entries...)
	m.mu.Unlock()
	err := ticket.Wait(ctx)
	if errors.Is(err, stream.ErrNotOwner) || errors.Is(err, stream.ErrAborted) || errors.Is(err, stream.ErrBusy) {
		m.drop() // put was for nothing
	}
	return struct{}{}, err
}

func (rc *Receipt) mark() mark { return mark{rc.RoomID, rc.UserID, rc.Type, rc.ThreadID} }

// warm makes sure that it is known where a receipt stands, -1 for nowhere.
func (r *Receipts) warm(ctx context.Context, m *marks, k mark) error {
	m.mu.Lock()
	_, known := m.get(k)
	dropped := m.dropped
	m.mu.Unlock()
	if known {
		return nil
	}
	pos := int64(-1)
	err := r.Process.DB.QueryRow(ctx, `SELECT event_pos FROM receipts WHERE room_id = $1 AND user_id = $2 AND type = $3 AND thread_id = $4`,
		k.room, k.user, k.typ, k.thread).Scan(&pos)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.get(k); !known && m.dropped == dropped {
		m.put(k, pos)
	}
	return nil
}
