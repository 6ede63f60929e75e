package devices

import (
	"context"

	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// toDeviceStore stores the stream "to_device" in the tables to_device and key_count_changes.
type toDeviceStore struct{}

var (
	txnRows = &db.Table{
		Name: "to_device_txns",
		Columns: db.Columns(
			"sender text, device_id text, type text, txn_id text, shard integer, created_ms integer, done bool, upto_user text, upto_device text",
		),
	}
	messageRows = &db.Table{
		Name: "to_device",
		Columns: db.Columns(
			"shard integer, pos integer, user_id text, device_id text, sender text, type text, content text, content_pos integer",
		),
	}
	contentRows = &db.Table{Name: "to_device_contents", Columns: db.Columns("shard integer, pos integer, content text")}
	countRows   = &db.Table{
		Name: "key_count_changes", Columns: db.Columns("user_id text, device_id text, shard integer, pos integer"),
		Conflict: `ON CONFLICT (user_id, device_id) DO UPDATE SET shard = excluded.shard, pos = excluded.pos`,
	}
)

// Insert is part of stream.Store.
func (toDeviceStore) Insert(ctx context.Context, w *db.Batch, batch []*stream.Entry) error {
	type receiver struct{ userID, deviceID string }
	var messages, contents, txns [][]any
	var taken *takenKeys
	written := map[int][2]int64{} // the first and the last position of messages, by shard
	flush := func() {
		w.Rows(txnRows, txns)
		w.Rows(contentRows, contents)
		w.Rows(messageRows, messages)
		// The device may have been removed since the message was made. Its clean-up is a row of the same shard, so it runs before or after.
		for shard, r := range written {
			w.Do(`DELETE FROM to_device WHERE shard = $1 AND pos >= $2 AND pos <= $3
				AND NOT EXISTS (SELECT 1 FROM user_devices d WHERE d.user_id = to_device.user_id
					AND d.device_id = to_device.device_id)`, shard, r[0], r[1])
		}
		clear(written)
		messages, contents, txns = nil, nil, nil
		if taken != nil {
			w.Rows(takenRows, taken.rows)
			taken = nil // a clean-up may delete them
		}
	}
	var changed db.Newest[receiver]
	for _, e := range batch {
		switch v := e.Value.(type) {
		case *message:
			switch {
			case v.txn == nil:
			case v.txn.stored == nil:
				txns = append(txns, v.txn.row())
			default:
				v.txn.advance(w)
			}
			v.pos = e.Pos
			row := []any{e.Shard, e.Pos, e.Key, v.deviceID, v.sender, v.typ, v.content, int64(0)}
			switch { // content is empty, not JSON, when it is shared: a reader of a version without shared contents fails and loses nothing
			case v.shared:
				contents = append(contents, []any{e.Shard, e.Pos, v.content})
				row[6], row[7] = "", e.Pos
			case v.first != nil:
				row[7] = v.first.pos
			}
			messages = append(messages, row)
			if r, ok := written[e.Shard]; ok {
				written[e.Shard] = [2]int64{r[0], e.Pos}
			} else {
				written[e.Shard] = [2]int64{e.Pos, e.Pos}
			}
		case keyOperation:
			tx, err := w.Tx()
			if err != nil {
				return err
			}
			if _, gone := v.(*deviceCleanup); gone { // it also deletes the messages before it
				flush()
			}
			if c, ok := v.(*claimOperation); ok {
				if taken == nil {
					if taken, err = loadTaken(ctx, tx, batch); err != nil {
						return err
					}
				}
				c.taken = taken
			}
			counted, err := v.apply(ctx, tx, e.Key)
			if err != nil {
				return err
			}
			if counted {
				changed.Put(receiver{e.Key, v.device()}, e.Key, v.device(), e.Shard, e.Pos)
			}
		}
	}
	flush()
	w.Rows(countRows, changed.Rows())
	return nil
}

// Read is part of stream.Store.
func (toDeviceStore) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	return scanRows(r.Shard)(q.Query(ctx, `SELECT user_id, pos, 'm' || device_id FROM to_device WHERE shard = $1 AND pos > $2 AND pos <= $3
		UNION ALL SELECT user_id, pos, 'k' || device_id FROM key_count_changes WHERE shard = $1 AND pos > $2 AND pos <= $3
		ORDER BY pos LIMIT $4`, r.Shard, r.After, r.Upto, r.Limit))
}
