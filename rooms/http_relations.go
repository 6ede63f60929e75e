package rooms

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

func (r *Rooms) getRelations(req *web.Request) (any, error) {
	ctx, roomID := req.Context(), req.Path("roomID")
	s := eventRange{backward: true}
	switch req.Query1("dir") {
	case "", "b":
	case "f":
		s.backward = false
	default:
		return nil, matrix.InvalidParam("dir: expected b or f")
	}
	recurse, err := req.Bool("recurse", false)
	if err != nil {
		return nil, err
	}
	parent, _, st, err := r.visibleEvent(ctx, req.UserID(), roomID, req.Path("eventID"))
	if err != nil {
		return nil, err
	}
	if err := r.paging(req, roomID, &s, st.head.Pos); err != nil {
		return nil, err
	}
	seen, err := r.visibleRangesOf(ctx, st)
	if err != nil {
		return nil, err
	}
	ids, w, err := r.relations(ctx, s, relationsOf{parent, recurse, req.Path("relType"), req.Path("type"), seen})
	if err != nil {
		return nil, err
	}
	f, err := r.pickVisible(ctx, st, ids, s)
	if err != nil {
		return nil, err
	}
	chunk, err := r.renderPage(ctx, readerOf(req), st, &f)
	if err != nil {
		return nil, err
	}
	reply := map[string]any{"chunk": chunk}
	switch {
	case f.more:
		reply["next_batch"] = PositionToken(f.end)
	case w.truncated:
		reply["next_batch"] = PositionToken(w.end)
	}
	if from := req.Query1("from"); from != "" {
		reply["prev_batch"] = from
	}
	if recurse {
		reply["recursion_depth"] = relationDepth
	}
	return reply, nil
}

// pick reads events by their ids, one more than the limit, as far as a page has room for them, and keeps what the user
// may see.
func (r *Rooms) pickVisible(ctx context.Context, st membershipView, ids []string, s eventRange) (eventPage, error) {
	out := eventPage{end: s.from, start: s.from, backward: s.backward}
	wanted, size := ids[:min(len(ids), s.limit)], 0
	var events []*Event
	err := r.EachEvent(ctx, wanted, func(part []*Event) error {
		for _, e := range part {
			events = append(events, e)
			out.taken += slices.Index(wanted[out.taken:], e.ID) + 1
			out.continueAfter(e)
			if size += e.text(); size >= r.PageBytes {
				return errTooLarge
			}
		}
		return nil
	})
	switch {
	case err == nil:
		out.taken = len(wanted)
	case !errors.Is(err, errTooLarge):
		return out, err
	}
	out.more = len(ids) > out.taken
	visibility, err := r.decideVisibility(ctx, st, events)
	if err != nil {
		return out, err
	}
	ignored, err := r.Accounts.Ignored(ctx, st.user)
	if err != nil {
		return out, err
	}
	for i, e := range events {
		if visibility[i].Visible && !ignored[e.Sender] {
			out.events, out.visibility = append(out.events, e), append(out.visibility, visibility[i])
		}
	}
	return out, nil
}

func (r *Rooms) getThreads(req *web.Request) (any, error) {
	ctx, roomID := req.Context(), req.Path("roomID")
	mine := false
	switch req.Query1("include") {
	case "", "all":
	case "participated":
		mine = true
	default:
		return nil, matrix.InvalidParam("include: expected all or participated")
	}
	v, err := r.roomView(ctx, req.UserID(), roomID)
	if err != nil {
		return nil, err
	}
	s := eventRange{backward: true}
	if err := r.paging(req, roomID, &s, v.upto); err != nil {
		return nil, err
	}
	ids, ends, w, err := r.threadRoots(ctx, v, s, mine)
	if err != nil {
		return nil, err
	}
	f, err := r.pickVisible(ctx, v.membershipView, ids, s)
	if err != nil {
		return nil, err
	}
	whole := len(f.events)
	chunk, err := r.renderPage(ctx, readerOf(req), v.membershipView, &f)
	if err != nil {
		return nil, err
	}
	reply := map[string]any{"chunk": chunk}
	if n := len(f.events); n < whole { // it was cut
		f.taken = slices.Index(ids, f.events[n-1].ID) + 1
	}
	switch {
	case f.more && f.taken > 0:
		reply["next_batch"] = PositionToken(ends[f.taken-1] - 1) // threads are in the order of their newest events
	case w.truncated:
		reply["next_batch"] = PositionToken(w.end)
	}
	return reply, nil
}

// The threads of a window with their newest events, but those that have a newer one, which a page before has given.
const (
	selectRoots = `SELECT n.target, n.pos FROM (SELECT x.target, MAX(x.pos) AS pos` + ofRoomKind + ` AND NOT (x.sender = ANY($6))`
	newestRoots = ` GROUP BY x.target) n CROSS JOIN events t
		WHERE t.event_id = n.target AND t.room_id = $5 AND NOT EXISTS (SELECT 1` + relationsTo + `$4 AND x.pos >= $2 AND NOT (x.sender = ANY($6))`
)

// threadRoots finds the threads whose newest events lie before a place, the newest first, and where those are.
func (r *Rooms) threadRoots(ctx context.Context, v roomView, s eventRange, mine bool) (ids []string, ends []int64, w rangeWindow, err error) {
	horizon, err := r.visibleRangesOf(ctx, v.membershipView)
	if err != nil {
		return nil, nil, w, err
	}
	ignored, err := r.Accounts.Ignored(ctx, v.user)
	if err != nil {
		return nil, nil, w, err
	}
	s.from, s.to = min(s.from, v.upto), 0
	if w, err = r.limitRange(ctx, s, ofRoomKind, relThread, v.head.RoomID); err != nil {
		return nil, nil, w, err
	}
	seen, args := horizon.where("x.pos", []any{w.after, w.before, s.limit + 1, relThread, v.head.RoomID, listOf(ignored)})
	query := selectRoots + seen + newestRoots + seen + ")"
	if mine {
		args = append(args, v.user)
		query += fmt.Sprintf(" AND (t.sender = $%[1]d OR EXISTS (SELECT 1"+relationsTo+"$4 AND x.sender = $%[1]d%[2]s))", len(args), seen)
	}
	err = db.Each(func(row db.Row) error {
		var id string
		var end int64
		err := row.Scan(&id, &end)
		ids, ends = append(ids, id), append(ends, end)
		return err
	})(r.Process.DB.Query(ctx, query+" ORDER BY n.pos DESC LIMIT $3", args...))
	return ids, ends, w, err
}
