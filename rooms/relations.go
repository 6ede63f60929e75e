package rooms

import (
	"context"
	"fmt"

	"lyceum/platform/db"
)

// bounds returns the positions between which a range lies, both excluded.
func (s eventRange) bounds() (after, before int64) {
	switch {
	case s.backward:
		return s.to, s.from + 1
	case s.to > 0:
		return s.from, s.to + 1
	}
	return s.from, 1 << 62
}

// order ends a statement that reads a page in the order of a direction.
func order(backward bool, limit string) string {
	if backward {
		return " DESC LIMIT " + limit
	}
	return " LIMIT " + limit
}

// rangeWindow is the part of a range that one request looks at.
type rangeWindow struct {
	after, before int64 // positions, both excluded
	truncated     bool  // there are more rows behind it
	end           int64 // the place to go on from then
}

// Statements of a window begin with the same arguments: its two ends and how many rows.
const (
	inWindow = ` AND x.pos > $1 AND x.pos < $2`

	ofTarget     = ` FROM relations x WHERE x.target = $4 AND x.room_id = $5` + inWindow
	ofTargetKind = ` FROM relations x WHERE x.target = $4 AND x.room_id = $5 AND x.rel_type = $6` + inWindow
	ofRoomKind   = ` FROM relations x WHERE x.rel_type = $4 AND x.room_id = $5` + inWindow
	ofRoom       = ` FROM events x WHERE x.room_id = $4` + inWindow

	byPlace = ` ORDER BY x.pos`
)

// limitRange finds how far Deps.ScanLimit rows reach. from is ofTarget, ofTargetKind, ofRoomKind or ofRoom.
func (r *Rooms) limitRange(ctx context.Context, s eventRange, from string, args ...any) (w rangeWindow, err error) {
	w.after, w.before = s.bounds()
	args = append([]any{w.after, w.before, r.ScanLimit}, args...)
	next, err := db.List(func(row db.Row) (pos int64, err error) {
		err = row.Scan(&pos)
		return pos, err
	})(r.Process.DB.Query(ctx, "SELECT x.pos"+from+byPlace+order(s.backward, "1 OFFSET $3"), args...))
	if err != nil || len(next) == 0 {
		return w, err
	}
	if w.truncated = true; s.backward {
		w.after, w.end = next[0], next[0]
	} else {
		w.before, w.end = next[0], next[0]-1
	}
	return w, nil
}

// relationDepth is how far relations of relations are followed.
const relationDepth = 3

// relationsOf says which relations of an event are wanted.
type relationsOf struct {
	parent       *Event
	recursive    bool   // also relations of relations, down to relationDepth
	relType, typ string // "" for all
	visible      visibleRanges
}

// where is a condition on relations of a name, with the arguments before it and those that it adds.
func (of relationsOf) where(name string, args []any) (string, []any) {
	query := ""
	for _, c := range []struct{ column, value string }{{"rel_type", of.relType}, {"type", of.typ}} {
		if c.value != "" {
			args = append(args, c.value)
			query += fmt.Sprintf(" AND %s.%s = $%d", name, c.column, len(args))
		}
	}
	seen, args := of.visible.where(name+".pos", args)
	return query + seen, args
}

// relations gives the ids of the relations of an event that lie in a range, one more than its limit when there are so many.
func (r *Rooms) relations(ctx context.Context, s eventRange, of relationsOf) (ids []string, w rangeWindow, err error) {
	if of.recursive {
		w.after, w.before = s.bounds()
		if ids, all, err := r.below(ctx, s, of); err != nil || all {
			return ids, w, err
		}
		return r.above(ctx, s, of)
	}
	from, args := ofTarget, []any{of.parent.ID, of.parent.RoomID}
	if of.relType != "" {
		from, args = ofTargetKind, append(args, of.relType)
	}
	if w.after, w.before = s.bounds(); of.typ != "" || !of.visible.all {
		if w, err = r.limitRange(ctx, s, from, args...); err != nil {
			return nil, w, err
		}
	}
	of.relType = ""
	where, args := of.where("x", append([]any{w.after, w.before, s.limit + 1}, args...))
	ids, err = db.Texts(r.Process.DB.Query(ctx, "SELECT x.event_id"+from+where+byPlace+order(s.backward, "$3"), args...))
	return ids, w, err
}

// tree is what relates to an event, to that, and so on.
const (
	tree = `WITH RECURSIVE tree (event_id, pos, rel_type, type, depth) AS (
	SELECT x.event_id, x.pos, x.rel_type, x.type, 1 FROM relations x WHERE x.target = $1 AND x.room_id = $2
	UNION ALL
	SELECT x.event_id, x.pos, x.rel_type, x.type, t.depth + 1 FROM tree t CROSS JOIN relations x
		WHERE x.target = t.event_id AND x.room_id = $2 AND t.depth < $3
	) `
	countTree  = tree + `SELECT COUNT(*) FROM (SELECT 1 FROM tree LIMIT $4) looked`
	selectTree = tree + `SELECT event_id FROM tree WHERE pos > $4 AND pos < $5`
)

// below finds relations of an event by going down from it, but not when there are more below the event than a request looks at.
func (r *Rooms) below(ctx context.Context, s eventRange, of relationsOf) (ids []string, all bool, err error) {
	n := 0
	args := []any{of.parent.ID, of.parent.RoomID, relationDepth}
	if err := r.Process.DB.QueryRow(ctx, countTree, append(args, r.ScanLimit+1)...).Scan(&n); err != nil || n > r.ScanLimit {
		return nil, false, err
	}
	after, before := s.bounds()
	where, args := of.where("tree", append(args, after, before))
	args = append(args, s.limit+1)
	ids, err = db.Texts(r.Process.DB.Query(ctx, selectTree+where+" ORDER BY pos"+order(s.backward, fmt.Sprintf("$%d", len(args))), args...))
	return ids, true, err
}

// What leads up to an event within relationDepth steps.
const (
	aboveKind = `SELECT x.event_id FROM relations x` + stepsAbove + ` WHERE x.room_id = $4 AND x.rel_type = $6` + inWindow + leadsUp
	aboveAll  = `SELECT x.event_id FROM events e CROSS JOIN relations x` + stepsAbove + `
		WHERE x.event_id = e.event_id AND e.room_id = $4 AND e.pos > $1 AND e.pos < $2` + leadsUp

	stepsAbove = ` LEFT JOIN relations y ON y.event_id = x.target AND y.room_id = x.room_id
		LEFT JOIN relations z ON z.event_id = y.target AND z.room_id = y.room_id`
	leadsUp = ` AND (x.target = $5 OR y.target = $5 OR z.target = $5)`
)

// above finds relations of an event by going through the room, and up from what is there: what is below the event is in no order, and too
// much to be read for each page.
func (r *Rooms) above(ctx context.Context, s eventRange, of relationsOf) (ids []string, w rangeWindow, err error) {
	room, kind := of.parent.RoomID, of.relType
	if of.relType = ""; kind == "" {
		w, err = r.limitRange(ctx, s, ofRoom, room)
	} else {
		w, err = r.limitRange(ctx, s, ofRoomKind, kind, room)
	}
	if err != nil {
		return nil, w, err
	}
	query, by, args := aboveAll, " ORDER BY e.pos", []any{w.after, w.before, s.limit + 1, room, of.parent.ID}
	if kind != "" {
		query, by, args = aboveKind, byPlace, append(args, kind)
	}
	where, args := of.where("x", args)
	ids, err = db.Texts(r.Process.DB.Query(ctx, query+where+by+order(s.backward, "$3"), args...))
	return ids, w, err
}
