package directory

import (
	"context"
	"strings"
	"time"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

const (
	indexAtOnce = 500                    // events in one transaction
	indexAfter  = 200 * time.Millisecond // how long events wait for more: a commit for each would compete with what is sent
)

// indexRows is the Work of the consumer that keeps the index.
func (d *Directory) indexRows(_ context.Context, _ int, rows []stream.Row) (func(w *db.Batch), error) {
	var b indexBatch
	for _, row := range rows {
		e, err := d.Rooms.FromRow(row)
		if err != nil {
			return nil, err
		}
		b.add(e)
	}
	if len(b.texts)+len(b.gone)+len(b.rules) == 0 {
		return nil, nil
	}
	return b.write, nil
}

// indexBatch is what some events change in the index.
type indexBatch struct {
	texts [][]any
	gone  []string
	rules []roomRule
}

// roomRule is a join rule or a history visibility, as an event sets it.
type roomRule struct {
	roomID, column string
	open           bool
}

func (b *indexBatch) add(e *rooms.Event) {
	if e.Type == event.TypeRedaction && e.Redacts != "" {
		b.gone = append(b.gone, e.Redacts)
	}
	switch {
	case e.Is(event.TypeJoinRules, ""):
		join, _ := e.ContentString("join_rule")
		b.rules = append(b.rules, roomRule{e.RoomID, "joinable", join == "public"})
	case e.Is(event.TypeHistoryVisibility, ""):
		history, _ := e.ContentString("history_visibility")
		b.rules = append(b.rules, roomRule{e.RoomID, "readable", history == "world_readable"})
	}
	if part, body := textOf(e); body != "" {
		b.texts = append(b.texts, []any{e.ID, e.RoomID, e.OriginServerTS, part, lowerCase(body)})
	}
}

// textOf returns the searchable text of an event, and the part of the event that it is from.
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

// dropNUL removes NUL, which PostgreSQL does not store in text.
func dropNUL(s string) string { return strings.ReplaceAll(s, "\x00", "") }

func lowerCase(s string) string { return strings.ToLower(dropNUL(s)) }

var textRows = &db.Table{
	Name: "search_texts", Columns: db.Columns("event_id text, room_id text, ts integer, part text, body text"),
	Conflict: "ON CONFLICT (event_id) DO NOTHING",
}

func (b *indexBatch) write(w *db.Batch) {
	w.Rows(textRows, b.texts)
	if len(b.gone) > 0 {
		w.Do("DELETE FROM search_texts WHERE event_id = ANY($1)", b.gone)
	}
	for _, r := range b.rules {
		w.Do("INSERT INTO search_rooms (room_id, joinable, readable) VALUES ($1, $2, $3) ON CONFLICT (room_id) DO UPDATE SET "+
			r.column+" = excluded."+r.column, r.roomID, r.open && r.column == "joinable", r.open && r.column == "readable")
	}
}
