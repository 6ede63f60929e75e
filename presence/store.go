package presence

import (
	"context"

	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// store is the table presence as the table of its stream.
type store struct{}

var presenceRows = &db.Table{
	Name: "presence", Columns: db.Columns("user_id text, presence text, status_msg text, last_active integer, shard integer, pos integer"),
	Conflict: `ON CONFLICT (user_id) DO UPDATE SET presence = excluded.presence, status_msg = excluded.status_msg,
		last_active = excluded.last_active, shard = excluded.shard, pos = excluded.pos`,
}

// Insert is part of stream.Store.
func (store) Insert(_ context.Context, w *db.Batch, batch []*stream.Entry) error {
	var newest db.Newest[string]
	for _, e := range batch {
		s := e.Value.(*Status)
		s.Pos = e.Pos
		newest.Put(s.UserID, s.UserID, s.Presence, s.StatusMsg, s.LastActive, e.Shard, e.Pos)
	}
	w.Rows(presenceRows, newest.Rows())
	return nil
}

// Read is part of stream.Store.
func (store) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	list, err := query(ctx, q, `shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`, r.Shard, r.After, r.Upto, r.Limit)
	if err != nil {
		return nil, err
	}
	return stream.JSONRows(list, func(s *Status) stream.Row { return stream.Row{Shard: r.Shard, Pos: s.Pos, Key: s.UserID} })
}

// ForUsers reads the status of users; those who were never seen are left out.
func (p *Presence) ForUsers(ctx context.Context, userIDs []string) ([]*Status, error) {
	return query(ctx, p.Process.DB, `user_id = ANY($1) ORDER BY user_id`, userIDs)
}

func query(ctx context.Context, q db.Querier, where string, args ...any) ([]*Status, error) {
	return db.List(func(row db.Row) (*Status, error) {
		s := &Status{}
		err := row.Scan(&s.UserID, &s.Presence, &s.StatusMsg, &s.LastActive, &s.Pos)
		s.CurrentlyActive = s.Presence == Online
		return s, err
	})(q.Query(ctx, `SELECT user_id, presence, status_msg, last_active, pos FROM presence WHERE `+where, args...))
}
