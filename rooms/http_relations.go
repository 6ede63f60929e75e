package rooms

import (
	"slices"

	"lyceum/matrix"
	"lyceum/platform/web"
)

func (r *Rooms) getRelations(req *web.Request) (any, error) {
	ctx, roomID := req.Context(), req.Path("roomID")
	s := eventRange{backward: true}
	switch req.QueryParam("dir") {
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
	if from := req.QueryParam("from"); from != "" {
		reply["prev_batch"] = from
	}
	if recurse {
		reply["recursion_depth"] = relationDepth
	}
	return reply, nil
}

func (r *Rooms) getThreads(req *web.Request) (any, error) {
	ctx, roomID := req.Context(), req.Path("roomID")
	mine := false
	switch req.QueryParam("include") {
	case "", "all":
	case "participated":
		mine = true
	default:
		return nil, matrix.InvalidParam("include: expected all or participated")
	}
	v, err := r.findRoomView(ctx, req.UserID(), roomID)
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
