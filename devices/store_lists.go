package devices

import (
	"context"

	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// listStore stores the stream "device_lists": the newest change of each user, and the newest one that only a certain viewer can
// see.
type listStore struct{}

var (
	listRows = &db.Table{
		Name: "device_lists", Columns: db.Columns("user_id text, shard integer, pos integer"),
		Conflict: `ON CONFLICT (user_id) DO UPDATE SET shard = excluded.shard, pos = excluded.pos`,
	}
	privateRows = &db.Table{
		Name: "device_list_private", Columns: db.Columns("viewer text, user_id text, shard integer, pos integer"),
		Conflict: `ON CONFLICT (viewer, user_id) DO UPDATE SET shard = excluded.shard, pos = excluded.pos`,
	}
)

// Insert is part of stream.Store.
func (listStore) Insert(ctx context.Context, w *db.Batch, batch []*stream.Entry) error {
	var newest db.Newest[string]
	var private db.Newest[ListChange]
	for _, e := range batch {
		if p, ok := e.Value.(*pendingChange); ok {
			tx, err := w.Tx()
			if err != nil {
				return err
			}
			if err := p.apply(ctx, tx, e.Key); err != nil {
				return err
			}
			if p.result.LeaseLost || p.result.Refused {
				continue
			}
		}
		if c := DecodeDeviceList(e.Row); c.Viewer != "" {
			private.Put(c, c.Viewer, c.UserID, e.Shard, e.Pos)
		} else {
			newest.Put(e.Key, e.Key, e.Shard, e.Pos)
		}
	}
	w.Rows(listRows, newest.Rows())
	w.Rows(privateRows, private.Rows())
	return nil
}

// Read is part of stream.Store.
func (listStore) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	return scanRows(r.Shard)(q.Query(ctx, `SELECT user_id, pos, '{}' FROM device_lists WHERE shard = $1 AND pos > $2 AND pos <= $3
		UNION ALL SELECT user_id, pos, viewer FROM device_list_private WHERE shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`,
		r.Shard, r.After, r.Upto, r.Limit))
}

// scanRows reads rows of user id, position and data.
func scanRows(shard int) func(*db.Rows, error) ([]stream.Row, error) {
	return db.List(func(row db.Row) (stream.Row, error) {
		out := stream.Row{Shard: shard}
		var data string
		err := row.Scan(&out.Key, &out.Pos, &data)
		out.Data = []byte(data)
		return out, err
	})
}
