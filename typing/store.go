package typing

import (
	"context"
	"encoding/json"
	"fmt"

	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// store is the table typing as the table of its stream.
type store struct{}

var typingRows = &db.Table{
	Name: "typing", Columns: db.Columns("room_id text, users text, shard integer, pos integer"),
	Conflict: `ON CONFLICT (room_id) DO UPDATE SET users = excluded.users, shard = excluded.shard, pos = excluded.pos`,
}

// Insert is part of stream.Store.
func (store) Insert(_ context.Context, w *db.Batch, batch []*stream.Entry) error {
	var newest db.Newest[string]
	for _, e := range batch {
		r := e.Value.(*record)
		r.pos = e.Pos
		users, err := json.Marshal(r.Users)
		if err != nil {
			return err
		}
		newest.Put(r.RoomID, r.RoomID, string(users), e.Shard, e.Pos)
	}
	w.Rows(typingRows, newest.Rows())
	return nil
}

// Read is part of stream.Store.
func (store) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	list, err := query(ctx, q, `shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`, r.Shard, r.After, r.Upto, r.Limit)
	if err != nil {
		return nil, err
	}
	return stream.JSONRows(list, func(rec *record) stream.Row { return stream.Row{Shard: r.Shard, Pos: rec.pos, Key: rec.RoomID} })
}

func query(ctx context.Context, q db.Querier, where string, args ...any) ([]*record, error) {
	return db.List(func(row db.Row) (*record, error) {
		r := &record{}
		var users string
		if err := row.Scan(&r.RoomID, &users, &r.pos); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(users), &r.Users); err != nil {
			return nil, fmt.Errorf("typing in %s: %w", r.RoomID, err)
		}
		return r, nil
	})(q.Query(ctx, `SELECT room_id, users, pos FROM typing WHERE `+where, args...))
}
