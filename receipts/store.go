package receipts

import (
	"context"

	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// store is the table receipts as the table of its stream.
type store struct{}

var receiptRows = &db.Table{
	Name: "receipts", Columns: db.Columns("room_id text, user_id text, type text, thread_id text, event_id text, event_pos integer, ts " +
		"integer, shard integer, pos integer"),
	Conflict: `ON CONFLICT (room_id, user_id, type, thread_id) DO UPDATE SET event_id = excluded.event_id, event_pos = excluded.event_pos,
		ts = excluded.ts, shard = excluded.shard, pos = excluded.pos`,
}

// Insert is part of stream.Store.
func (store) Insert(_ context.Context, w *db.Batch, batch []*stream.Entry) error {
	var newest db.Newest[receiptKey]
	for _, e := range batch {
		rc := e.Value.(*Receipt)
		rc.Pos = e.Pos
		newest.Put(rc.key(), rc.RoomID, rc.UserID, rc.Type, rc.ThreadID, rc.EventID, rc.EventPos, rc.TS, e.Shard, e.Pos)
	}
	w.Rows(receiptRows, newest.Rows())
	return nil
}

// Read is part of stream.Store.
func (store) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	list, err := query(ctx, q, `shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`, r.Shard, r.After, r.Upto, r.Limit)
	if err != nil {
		return nil, err
	}
	return stream.JSONRows(list, func(rc *Receipt) stream.Row { return stream.Row{Shard: r.Shard, Pos: rc.Pos, Key: rc.RoomID} })
}

// ForRooms reads all receipts of rooms, by room id and in the order of their positions.
func (r *Receipts) ForRooms(ctx context.Context, roomIDs []string) (map[string][]*Receipt, error) {
	list, err := query(ctx, r.Process.DB, `room_id = ANY($1) ORDER BY room_id, pos`, roomIDs)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]*Receipt, len(roomIDs))
	for _, rc := range list {
		out[rc.RoomID] = append(out[rc.RoomID], rc)
	}
	return out, nil
}

// Since reads the receipts of a room with after < Pos <= upto, in order.
func (r *Receipts) Since(ctx context.Context, roomID string, after, upto int64) ([]*Receipt, error) {
	return query(ctx, r.Process.DB, `room_id = $1 AND pos > $2 AND pos <= $3 ORDER BY pos`, roomID, after, upto)
}

// ReadUpTo tells how far a user has read in a room by public and private receipts: positions in the events
// stream by thread id, "" for unthreaded receipts.
func (r *Receipts) ReadUpTo(ctx context.Context, userID, roomID string) (map[string]int64, error) {
	list, err := query(ctx, r.Process.DB, `room_id = $1 AND user_id = $2`, roomID, userID)
	if err != nil {
		return nil, err
	}
	out := make(map[string]int64, len(list))
	for _, rc := range list {
		out[rc.ThreadID] = max(out[rc.ThreadID], rc.EventPos)
	}
	return out, nil
}

func query(ctx context.Context, q db.Querier, where string, args ...any) ([]*Receipt, error) {
	return db.List(func(row db.Row) (*Receipt, error) {
		rc := &Receipt{}
		err := row.Scan(&rc.RoomID, &rc.UserID, &rc.Type, &rc.ThreadID, &rc.EventID, &rc.EventPos, &rc.TS, &rc.Pos)
		return rc, err
	})(q.Query(ctx, `SELECT room_id, user_id, type, thread_id, event_id, event_pos, ts, pos FROM receipts WHERE `+where, args...))
}
