package accounts

import (
	"context"
	"encoding/json"
	"slices"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// dataStore stores the stream "account_data" in the table of that name, which keeps the newest row of each piece.
type dataStore struct{}

var dataRows = &db.Table{
	Name: "account_data", Columns: db.Columns("user_id text, room_id text, type text, content text, shard integer, pos integer"),
	Conflict: `ON CONFLICT (user_id, room_id, type) DO UPDATE SET content = excluded.content, shard = excluded.shard, pos = excluded.pos`,
}

// Insert is part of stream.Store.
func (dataStore) Insert(_ context.Context, w *db.Batch, batch []*stream.Entry) error {
	type key struct{ user, room, typ string }
	var newest db.Newest[key]
	var users []string
	for _, e := range batch {
		datum := e.Value.(*AccountDatum)
		if !datum.erased && !slices.Contains(users, e.Key) {
			users = append(users, e.Key)
		}
		newest.Put(key{e.Key, datum.RoomID, datum.Type}, e.Key, datum.RoomID, datum.Type, string(datum.Content), e.Shard, e.Pos)
	}
	if len(users) > 0 { // rows that erase come after the deactivation, and are let through
		w.Require(matrix.UnknownToken(false), 0, `SELECT 1 FROM users WHERE user_id = ANY($1) AND deactivated_ms <> 0`, users)
	}
	w.Rows(dataRows, newest.Rows())
	return nil
}

// Read is part of stream.Store.
func (dataStore) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	return db.List(func(row db.Row) (stream.Row, error) {
		out := stream.Row{Shard: r.Shard}
		var datum AccountDatum
		var content string
		if err := row.Scan(&out.Key, &datum.RoomID, &datum.Type, &content, &out.Pos); err != nil {
			return out, err
		}
		datum.Content = json.RawMessage(content)
		var err error
		out.Data, err = json.Marshal(datum)
		return out, err
	})(q.Query(ctx, `SELECT user_id, room_id, type, content, pos FROM account_data WHERE shard = $1 AND pos > $2 AND pos <= $3
		ORDER BY pos LIMIT $4`,
		r.Shard, r.After, r.Upto, r.Limit))
}

func loadData(ctx context.Context, q db.Querier, userID string) ([]*AccountDatum, error) {
	return db.List(func(row db.Row) (*AccountDatum, error) {
		datum := &AccountDatum{}
		var content string
		err := row.Scan(&datum.RoomID, &datum.Type, &content, &datum.Pos)
		datum.Content = json.RawMessage(content)
		return datum, err
	})(q.Query(ctx, `SELECT room_id, type, content, pos FROM account_data WHERE user_id = $1`, userID))
}
