package receipts

import (
	"context"
	"encoding/json"
	"errors"

	"lyceum/platform/db"
	"lyceum/platform/owned"
	"lyceum/platform/stream"
)

// receiptKey names a receipt of a room that newer ones replace.
type receiptKey struct{ room, user, typ, thread string }

// receiptPositions holds the event positions of the receipts of a room that were asked for; -1 when there is no such receipt.
type receiptPositions map[receiptKey]int64

func (m receiptPositions) bytes() int64 {
	n := int64(0)
	for k := range m {
		n += int64(len(k.user)+len(k.thread)) + 120
	}
	return n
}

// setAtOwner runs on the owner of the room's shard.
func (r *Receipts) setAtOwner(ctx context.Context, roomID string, list []Receipt) (struct{}, error) {
	return struct{}{}, r.owned.Do(ctx, roomID, func(c *owned.Change[receiptPositions]) error {
		at := *c.State()
		for _, rc := range list {
			if _, known := at[rc.key()]; !known {
				return c.Need(func(ctx context.Context) (func(*receiptPositions), error) { return r.loadPositions(ctx, list) })
			}
		}
		moved := receiptPositions{}
		for _, rc := range list {
			k := rc.key()
			if at[k] >= rc.EventPos || moved[k] >= rc.EventPos {
				continue
			}
			moved[k] = rc.EventPos
			data, err := json.Marshal(rc)
			if err != nil {
				return err
			}
			c.Append(func(m *receiptPositions, _ *stream.Ticket) { (*m)[k] = rc.EventPos },
				&stream.Entry{Stream: r.stream, Row: stream.Row{Key: roomID, Data: data, Value: &rc}})
		}
		return nil
	})
}

// loadPositions reads the stored positions of the receipts in list.
func (r *Receipts) loadPositions(ctx context.Context, list []Receipt) (func(*receiptPositions), error) {
	found := receiptPositions{}
	for _, rc := range list {
		k, pos := rc.key(), int64(-1)
		err := r.Process.DB.QueryRow(ctx, `SELECT event_pos FROM receipts WHERE room_id = $1 AND user_id = $2 AND type = $3 AND thread_id = $4`,
			k.room, k.user, k.typ, k.thread).Scan(&pos)
		if err != nil && !errors.Is(err, db.ErrNoRows) {
			return nil, err
		}
		found[k] = pos
	}
	return func(m *receiptPositions) {
		for k, pos := range found {
			if _, known := (*m)[k]; !known {
				(*m)[k] = pos
			}
		}
	}, nil
}

func (rc *Receipt) key() receiptKey { return receiptKey{rc.RoomID, rc.UserID, rc.Type, rc.ThreadID} }
