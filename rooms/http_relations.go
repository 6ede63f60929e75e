package rooms

import (
	"context"
	"fmt"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// relationDepth is how far relations of relations are followed.
const relationDepth = 3

// selectRelations goes by the target. The empty text keeps SQLite from the index by room, through which it would read all relations of
// the room for each event.
const selectRelations = `WITH RECURSIVE tree (event_id, pos, rel_type, type, depth) AS (
	SELECT x.event_id, x.pos, x.rel_type, x.type, 1 FROM relations x WHERE x.target = $1 AND x.room_id || '' = $2
	UNION ALL
	SELECT x.event_id, x.pos, x.rel_type, x.type, t.depth + 1 FROM relations x JOIN tree t ON x.target = t.event_id
	WHERE t.depth < $3 AND x.room_id || '' = $2
	) SELECT event_id FROM tree WHERE pos > $4 AND pos < $5`

// relationsOf says which relations of an event are wanted.
type relationsOf struct {
	parent       *Event
	depth        int
	relType, typ string // "" for all
	seen         horizon
}

func (r *Rooms) getRelations(q *web.Request) (any, error) {
	ctx, roomID := q.Context(), q.Path("roomID")
	s := stretch{backward: true}
	switch q.Query1("dir") {
	case "", "b":
	case "f":
		s.backward = false
	default:
		return nil, matrix.InvalidParam("dir: expected b or f")
	}
	recurse, err := q.Bool("recurse", false)
	if err != nil {
		return nil, err
	}
	parent, _, st, err := r.visibleEvent(ctx, q.UserID(), roomID, q.Path("eventID"))
	if err != nil {
		return nil, err
	}
	if err := r.paging(q, roomID, &s, st.head.Pos); err != nil {
		return nil, err
	}
	depth := 1
	if recurse {
		depth = relationDepth
	}
	seen, err := r.horizonOf(ctx, st)
	if err != nil {
		return nil, err
	}
	ids, err := r.relationIDs(ctx, s, relationsOf{parent, depth, q.Path("relType"), q.Path("type"), seen})
	if err != nil {
		return nil, err
	}
	f, err := r.pick(ctx, st, ids, s)
	if err != nil {
		return nil, err
	}
	chunk, err := r.render(ctx, readerOf(q), st, f)
	if err != nil {
		return nil, err
	}
	reply := map[string]any{"chunk": chunk}
	if f.more {
		reply["next_batch"] = PositionToken(f.end)
	}
	if from := q.Query1("from"); from != "" {
		reply["prev_batch"] = from
	}
	if recurse {
		reply["recursion_depth"] = relationDepth
	}
	return reply, nil
}

func (r *Rooms) relationIDs(ctx context.Context, s stretch, of relationsOf) ([]string, error) {
	query := selectRelations
	after, before, order := s.to, s.from+1, " DESC"
	if !s.backward {
		after, before, order = s.from, int64(1)<<62, ""
		if s.to > 0 {
			before = s.to + 1
		}
	}
	args := []any{of.parent.ID, of.parent.RoomID, of.depth, after, before}
	for _, c := range []struct{ column, value string }{{"rel_type", of.relType}, {"type", of.typ}} {
		if c.value != "" {
			args = append(args, c.value)
			query += fmt.Sprintf(" AND %s = $%d", c.column, len(args))
		}
	}
	seen, args := of.seen.where("pos", args)
	query += seen
	args = append(args, s.limit+1)
	return db.Texts(r.Process.DB.Query(ctx, query+fmt.Sprintf(" ORDER BY pos%s LIMIT $%d", order, len(args)), args...))
}

// pick reads events by their ids, one more than the limit, as far as a page has room for them, and keeps what the user
// may see.
func (r *Rooms) pick(ctx context.Context, st standing, ids []string, s stretch) (found, error) {
	out := found{end: s.from}
	wanted, size := ids[:min(len(ids), s.limit)], 0
	var events []*Event
	for out.taken < len(wanted) && size < pageBytes {
		part := wanted[out.taken:min(len(wanted), out.taken+readAtOnce)]
		byID, err := r.Events(ctx, part)
		if err != nil {
			return out, err
		}
		for _, id := range part {
			if out.taken++; byID[id] != nil {
				e := byID[id]
				events = append(events, e)
				if out.end = e.Pos; s.backward {
					out.end--
				}
				if size += len(e.JSON); size >= pageBytes {
					break
				}
			}
		}
	}
	out.more = len(ids) > out.taken
	sights, err := r.sights(ctx, st, events)
	if err != nil {
		return out, err
	}
	ignored, err := r.Accounts.Ignored(ctx, st.user)
	if err != nil {
		return out, err
	}
	for i, e := range events {
		if sights[i].Visible && !ignored[e.Sender] {
			out.events, out.sights = append(out.events, e), append(out.sights, sights[i])
		}
	}
	return out, nil
}

func (r *Rooms) getThreads(q *web.Request) (any, error) {
	ctx, roomID := q.Context(), q.Path("roomID")
	mine := false
	switch q.Query1("include") {
	case "", "all":
	case "participated":
		mine = true
	default:
		return nil, matrix.InvalidParam("include: expected all or participated")
	}
	v, err := r.view(ctx, q.UserID(), roomID)
	if err != nil {
		return nil, err
	}
	s := stretch{backward: true}
	if err := r.paging(q, roomID, &s, v.upto); err != nil {
		return nil, err
	}
	ids, ends, err := r.threadRoots(ctx, v, s, mine)
	if err != nil {
		return nil, err
	}
	f, err := r.pick(ctx, v.standing, ids, s)
	if err != nil {
		return nil, err
	}
	chunk, err := r.render(ctx, readerOf(q), v.standing, f)
	if err != nil {
		return nil, err
	}
	reply := map[string]any{"chunk": chunk}
	if f.more && f.taken > 0 {
		reply["next_batch"] = PositionToken(ends[f.taken-1] - 1) // threads are in the order of their newest events
	}
	return reply, nil
}

// threadRoots finds the threads whose newest events lie before a place, the newest first.
func (r *Rooms) threadRoots(ctx context.Context, v view, s stretch, mine bool) (ids []string, ends []int64, err error) {
	horizon, err := r.horizonOf(ctx, v.standing)
	if err != nil {
		return nil, nil, err
	}
	ignored, err := r.Accounts.Ignored(ctx, v.user)
	if err != nil {
		return nil, nil, err
	}
	seen, args := horizon.where("x.pos", []any{v.head.RoomID, min(s.from, v.upto), s.limit + 1, listOf(ignored)})
	query := `SELECT x.target, MAX(x.pos) FROM relations x JOIN events t ON t.event_id = x.target
		WHERE x.room_id = $1 AND t.room_id = $1 AND x.rel_type = 'm.thread' AND NOT (x.sender = ANY($4))` + seen + ` GROUP BY x.target, t.sender HAVING MAX(x.pos) <= $2`
	if mine {
		args = append(args, v.user)
		query += fmt.Sprintf(" AND (t.sender = $%[1]d OR MAX(CASE WHEN x.sender = $%[1]d THEN 1 ELSE 0 END) = 1)", len(args))
	}
	err = db.Each(func(row db.Row) error {
		var id string
		var end int64
		err := row.Scan(&id, &end)
		ids, ends = append(ids, id), append(ends, end)
		return err
	})(r.Process.DB.Query(ctx, strings.TrimSpace(query)+" ORDER BY MAX(x.pos) DESC LIMIT $3", args...))
	return ids, ends, err
}
