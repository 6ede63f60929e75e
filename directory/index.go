package directory

import (
	"context"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

const indexAtOnce = 500 // events in one transaction

// index follows the events stream from where the index ends. One process of the fleet runs it; that two
// may for a moment do no harm, as each step may be done again.
func (d *Directory) index(ctx context.Context) error {
	if err := d.heard.Start(ctx); err != nil {
		return err
	}
	done, err := d.indexed(ctx)
	if err != nil {
		return err
	}
	for {
		more := false
		for shard := range rooms.Shards {
			again, err := d.indexShard(ctx, shard, &done[shard])
			if err != nil {
				return err
			}
			more = more || again
		}
		if more {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.news:
		}
	}
}

// indexed reads how far the index has come in each shard.
func (d *Directory) indexed(ctx context.Context) (done [rooms.Shards]int64, err error) {
	err = db.Each(func(row db.Row) error {
		var shard int
		var pos int64
		if err := row.Scan(&shard, &pos); err != nil {
			return err
		}
		if shard < len(done) {
			done[shard] = pos
		}
		return nil
	})(d.Process.DB.Query(ctx, "SELECT shard, pos FROM search_positions"))
	return done, err
}

// indexShard takes the next events of a shard into the index and moves done on; more tells that it did not
// come to the end.
func (d *Directory) indexShard(ctx context.Context, shard int, done *int64) (more bool, err error) {
	st := d.Rooms.Stream()
	// The stream counts rows as seen when all tails have returned, which is after this one has told of them.
	after, upto := *done, max(st.Position(shard), d.told[shard].Load())
	if after >= upto {
		return false, nil
	}
	rows, err := st.Read(ctx, stream.Range{Shard: shard, After: after, Upto: upto, Limit: indexAtOnce})
	if err != nil {
		return false, err
	}
	var b batch
	for _, row := range rows {
		e, err := d.Rooms.FromRow(row)
		if err != nil {
			return false, err
		}
		b.add(e)
		after = row.Pos
	}
	if len(rows) < indexAtOnce {
		after = upto
	}
	if err := d.Process.DB.Tx(ctx, func(tx *db.Tx) error { return b.write(ctx, tx, shard, after) }); err != nil {
		return false, err
	}
	*done = after
	return after < upto, nil
}

// batch is what some events change in the index.
type batch struct {
	texts [][]any
	gone  []string
	rules []rule
}

// rule is what an event says of who may join or read a room.
type rule struct {
	roomID, column string
	open           bool
}

func (b *batch) add(e *rooms.Event) {
	if e.Type == event.TypeRedaction && e.Redacts != "" {
		b.gone = append(b.gone, e.Redacts)
	}
	switch {
	case e.Is(event.TypeJoinRules, ""):
		join, _ := e.ContentString("join_rule")
		b.rules = append(b.rules, rule{e.RoomID, "joinable", join == "public"})
	case e.Is(event.TypeHistoryVisibility, ""):
		history, _ := e.ContentString("history_visibility")
		b.rules = append(b.rules, rule{e.RoomID, "readable", history == "world_readable"})
	}
	if part, body := textOf(e); body != "" {
		b.texts = append(b.texts, []any{e.ID, e.RoomID, e.OriginServerTS, part, fold(body)})
	}
}

// textOf gives what of an event can be searched.
func textOf(e *rooms.Event) (part, body string) {
	switch {
	case e.Type == event.TypeMessage && !e.IsState():
		content := e.Content
		if edited := matrix.Lookup(content, "m.new_content"); edited != nil {
			content = edited
		}
		body, _ = matrix.LookupString(content, "body")
		return "content.body", body
	case e.Is(event.TypeName, ""):
		body, _ = e.ContentString("name")
		return "content.name", body
	case e.Is(event.TypeTopic, ""):
		body, _ = e.ContentString("topic")
		return "content.topic", body
	}
	return "", ""
}

// clean takes out what PostgreSQL does not take as text.
func clean(s string) string { return strings.ReplaceAll(s, "\x00", "") }

func fold(s string) string { return strings.ToLower(clean(s)) }

func (b *batch) write(ctx context.Context, tx *db.Tx, shard int, pos int64) error {
	if err := tx.Bulk(ctx, `INSERT INTO search_texts (event_id, room_id, ts, part, body) VALUES ? ON CONFLICT (event_id) DO NOTHING`, b.texts); err != nil {
		return err
	}
	if len(b.gone) > 0 {
		if _, err := tx.Exec(ctx, "DELETE FROM search_texts WHERE event_id = ANY($1)", b.gone); err != nil {
			return err
		}
	}
	for _, r := range b.rules {
		_, err := tx.Exec(ctx, "INSERT INTO search_rooms (room_id, joinable, readable) VALUES ($1, $2, $3) ON CONFLICT (room_id) DO UPDATE SET "+
			r.column+" = excluded."+r.column, r.roomID, r.open && r.column == "joinable", r.open && r.column == "readable")
		if err != nil {
			return err
		}
	}
	_, err := tx.Exec(ctx, `INSERT INTO search_positions (shard, pos) VALUES ($1, $2) ON CONFLICT (shard) DO UPDATE
		SET pos = excluded.pos WHERE search_positions.pos < excluded.pos`, shard, pos)
	return err
}
