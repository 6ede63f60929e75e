package rooms

import (
	"io"
	"strconv"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

const (
	pageDefault = 10
	pageMax     = 1000
)

func readerOf(req *web.Request) Reader {
	return Reader{UserID: req.UserID(), Device: req.TransactionScope()}
}

// paging reads from, to, limit and filter. Without from, or when it does not say where it is, the range starts at the end
// of the room from which its direction leads away.
func (r *Rooms) paging(req *web.Request, roomID string, s *eventRange, newest int64) error {
	var err error
	if s.limit, err = req.Int("limit", pageDefault, pageMax); err != nil {
		return err
	}
	if s.filter, err = event.ParseFilter(req.QueryParam("filter")); err != nil {
		return err
	}
	if s.filter.Limit != nil && req.QueryParam("limit") == "" {
		s.limit = min(*s.filter.Limit, pageMax)
	}
	if s.backward {
		s.from = newest
	}
	if from := req.QueryParam("from"); from != "" {
		pos, known, err := r.PositionOf(from, roomID)
		if err != nil {
			return err
		}
		if known {
			s.from = pos
		}
	}
	if to := req.QueryParam("to"); to != "" {
		s.to, _, err = r.PositionOf(to, roomID)
	}
	return err
}

func (r *Rooms) getMessages(req *web.Request) (any, error) {
	ctx, roomID := req.Context(), req.Path("roomID")
	v, err := r.findRoomView(ctx, req.UserID(), roomID)
	if err != nil {
		return nil, err
	}
	var s eventRange
	switch req.QueryParam("dir") {
	case "b":
		s.backward = true
	case "f":
	case "":
		return nil, matrix.MissingParam("dir is missing: expected b or f")
	default:
		return nil, matrix.InvalidParam("dir: expected b or f")
	}
	if err := r.paging(req, roomID, &s, v.upto); err != nil {
		return nil, err
	}
	f, err := r.readRange(ctx, v, s)
	if err != nil {
		return nil, err
	}
	chunk, err := r.renderPage(ctx, readerOf(req), v.membershipView, &f)
	if err != nil {
		return nil, err
	}
	reply := map[string]any{"chunk": chunk, "start": PositionToken(s.from)}
	if f.more || f.mayContinue() && req.QueryParam("to") == "" {
		reply["end"] = PositionToken(f.end)
	}
	if s.filter.LazyMembers && len(f.events) > 0 {
		members, err := r.sendersAt(ctx, f.events[0].Root, f.events)
		if err != nil {
			return nil, err
		}
		past := f.visibility[0].Membership != event.MembershipJoin
		if members, err = r.VisibleState(ctx, v.audience(f.events[0].Root, past), members); err != nil {
			return nil, err
		}
		reply["state"] = renderState(members)
	}
	return reply, nil
}

func (r *Rooms) getEvent(req *web.Request) (any, error) {
	e, shown, s, err := r.visibleEvent(req.Context(), req.UserID(), req.Path("roomID"), req.Path("eventID"))
	if err != nil {
		return nil, err
	}
	list, err := r.Render(req.Context(), readerOf(req).withView(s), []*Event{e}, []Visibility{shown})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

func (r *Rooms) getContext(req *web.Request) (any, error) {
	limit, err := req.Int("limit", pageDefault, pageMax)
	if err != nil {
		return nil, err
	}
	filter, err := event.ParseFilter(req.QueryParam("filter"))
	if err != nil {
		return nil, err
	}
	e, shown, s, err := r.visibleEvent(req.Context(), req.UserID(), req.Path("roomID"), req.Path("eventID"))
	if matrix.HasCode(err, matrix.CodeNotFound) && e != nil && s.joined() { // a member may know that it is there
		return nil, matrix.Forbidden("You may not see this event: it was sent when you were not in the room")
	}
	if err != nil {
		return nil, err
	}
	v := roomView{membershipView: s, upto: s.head.Pos}
	a, err := r.eventContext(req.Context(), readerOf(req), v, contextWindow{
		event: e, shown: shown, before: (limit + 1) / 2, after: limit / 2, filter: filter,
	})
	if err != nil {
		return nil, err
	}
	head := encodeJSON(map[string]any{"event": a.Event, "events_before": a.Before, "events_after": a.After, "start": a.Start, "end": a.End})
	return &web.Pieces{Write: func(w io.Writer) error {
		out := newArray(w, string(head[:len(head)-1])+`,"state":[`)
		write := func(events []*Event) error { return r.writeState(req.Context(), out, a.audience, events) }
		if filter.LazyMembers {
			return out.end(write(a.State), "]}")
		}
		return out.end(r.eachState(req.Context(), a.root, nil, write), "]}")
	}}, nil
}

func (r *Rooms) getTimestampToEvent(req *web.Request) (any, error) {
	ctx, roomID := req.Context(), req.Path("roomID")
	if req.QueryParam("ts") == "" {
		return nil, matrix.MissingParam("ts is missing: expected milliseconds")
	}
	ts, err := strconv.ParseInt(req.QueryParam("ts"), 10, 64)
	if err != nil {
		return nil, matrix.InvalidParam("ts: expected milliseconds")
	}
	where := "e.room_id = $1 AND e.ts >= $2 ORDER BY e.ts, e.pos LIMIT 50"
	switch req.QueryParam("dir") {
	case "f":
	case "b":
		where = "e.room_id = $1 AND e.ts <= $2 ORDER BY e.ts DESC, e.pos DESC LIMIT 50"
	default:
		return nil, matrix.InvalidParam("dir: expected b or f")
	}
	v, err := r.findRoomView(ctx, req.UserID(), roomID)
	if err != nil {
		return nil, err
	}
	ids, err := db.Texts(r.Process.DB.Query(ctx, "SELECT e.event_id FROM events e WHERE "+where, roomID, ts))
	if err != nil {
		return nil, err
	}
	var found *Event
	err = r.EachEvent(ctx, ids, func(events []*Event) error {
		visibility, err := r.decideVisibility(ctx, v.membershipView, events)
		if err != nil {
			return err
		}
		for i, e := range events {
			if visibility[i].Visible && e.Pos <= v.upto {
				found = e
				return errTooLarge
			}
		}
		return nil
	})
	switch {
	case found != nil:
		return map[string]any{"event_id": found.ID, "origin_server_ts": found.OriginServerTS}, nil
	case err != nil:
		return nil, err
	}
	return nil, matrix.NotFound("There is no event on that side of the time that you may see")
}
