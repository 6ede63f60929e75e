package rooms

import (
	"context"
	"encoding/json"
	"io"
	"strconv"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/web"
	"lyceum/rooms/state"
)

const (
	pageDefault = 10
	pageMax     = 1000
)

func readerOf(q *web.Request) Reader { return Reader{UserID: q.UserID(), Device: q.Sender()} }

// paging reads from, to, limit and filter. Without from, or when it does not say where it is, a stretch starts at the end
// that its direction leaves.
func (r *Rooms) paging(q *web.Request, roomID string, s *stretch, newest int64) error {
	var err error
	if s.limit, err = q.Int("limit", pageDefault, pageMax); err != nil {
		return err
	}
	if s.filter, err = ParseFilter(q.Query1("filter")); err != nil {
		return err
	}
	if s.filter.Limit != nil && q.Query1("limit") == "" {
		s.limit = min(*s.filter.Limit, pageMax)
	}
	if s.backward {
		s.from = newest
	}
	if from := q.Query1("from"); from != "" {
		pos, known, err := r.PositionOf(from, roomID)
		if err != nil {
			return err
		}
		if known {
			s.from = pos
		}
	}
	if to := q.Query1("to"); to != "" {
		s.to, _, err = r.PositionOf(to, roomID)
	}
	return err
}

func (r *Rooms) getMessages(q *web.Request) (any, error) {
	ctx, roomID := q.Context(), q.Path("roomID")
	v, err := r.view(ctx, q.UserID(), roomID)
	if err != nil {
		return nil, err
	}
	var s stretch
	switch q.Query1("dir") {
	case "b":
		s.backward = true
	case "f":
	case "":
		return nil, matrix.MissingParam("dir is missing: expected b or f")
	default:
		return nil, matrix.InvalidParam("dir: expected b or f")
	}
	if err := r.paging(q, roomID, &s, v.upto); err != nil {
		return nil, err
	}
	f, err := r.read(ctx, v, s)
	if err != nil {
		return nil, err
	}
	chunk, err := r.render(ctx, readerOf(q), v.standing, &f)
	if err != nil {
		return nil, err
	}
	reply := map[string]any{"chunk": chunk, "start": PositionToken(s.from)}
	if f.more || f.mayGoOn() && q.Query1("to") == "" {
		reply["end"] = PositionToken(f.end)
	}
	if s.filter.LazyMembers && len(f.events) > 0 {
		members, err := r.sendersAt(ctx, f.events[0].Root, f.events)
		if err != nil {
			return nil, err
		}
		if members, err = r.VisibleState(ctx, v.audience(f.events[0].Root, f.sights[0].Membership != event.MembershipJoin), members); err != nil {
			return nil, err
		}
		reply["state"] = renderState(members)
	}
	return reply, nil
}

// visibleEvent reads an event that the user may see. The error is M_NOT_FOUND for all others; with it comes an event of the room that
// the user may not see.
func (r *Rooms) visibleEvent(ctx context.Context, userID, roomID, eventID string) (*Event, Visibility, standing, error) {
	missing := matrix.NotFound("There is no such event in this room, or you may not see it")
	e, err := r.Event(ctx, eventID)
	if err != nil {
		return nil, Visibility{}, standing{}, err
	}
	if e == nil || e.RoomID != roomID {
		return nil, Visibility{}, standing{}, missing
	}
	s, ok, err := r.standing(ctx, userID, roomID)
	if err != nil {
		return nil, Visibility{}, s, err
	}
	if !ok {
		return nil, Visibility{}, s, missing
	}
	sights, err := r.sights(ctx, s, []*Event{e})
	if err != nil {
		return nil, Visibility{}, s, err
	}
	if !sights[0].Visible {
		return e, Visibility{}, s, missing
	}
	return e, sights[0], s, nil
}

func (r *Rooms) getEvent(q *web.Request) (any, error) {
	e, sight, s, err := r.visibleEvent(q.Context(), q.UserID(), q.Path("roomID"), q.Path("eventID"))
	if err != nil {
		return nil, err
	}
	list, err := r.Render(q.Context(), readerOf(q).at(s), []*Event{e}, []Visibility{sight})
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// EventContext is an event with what came before it, the newest first, and after it, as a client gets them.
type EventContext struct {
	Event         json.RawMessage
	Before, After []json.RawMessage
	Start, End    string   // tokens of /messages
	State         []*Event // behind the last event, of those who wrote

	root state.ID // of the whole state there
	who  *Audience
}

// EventContext gives an event, which the user may see, with at most so many others before and after it.
func (r *Rooms) EventContext(ctx context.Context, who Reader, e *Event, before, after int) (*EventContext, error) {
	s, ok, err := r.standing(ctx, who.UserID, e.RoomID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notMember()
	}
	sights, err := r.sights(ctx, s, []*Event{e})
	if err != nil {
		return nil, err
	}
	if !sights[0].Visible {
		return nil, notMember()
	}
	// The memberships of those who wrote, not the whole state: a search asks for many of these.
	return r.around(ctx, who, view{standing: s, upto: s.head.Pos}, e, sights[0], span{before, after, &Filter{LazyMembers: true}})
}

func (r *Rooms) getContext(q *web.Request) (any, error) {
	limit, err := q.Int("limit", pageDefault, pageMax)
	if err != nil {
		return nil, err
	}
	filter, err := ParseFilter(q.Query1("filter"))
	if err != nil {
		return nil, err
	}
	e, sight, s, err := r.visibleEvent(q.Context(), q.UserID(), q.Path("roomID"), q.Path("eventID"))
	if matrix.HasCode(err, matrix.CodeNotFound) && e != nil && s.joined() { // a member may know that it is there
		return nil, matrix.Forbidden("You may not see this event: it was sent when you were not in the room")
	}
	if err != nil {
		return nil, err
	}
	v := view{standing: s, upto: s.head.Pos}
	a, err := r.around(q.Context(), readerOf(q), v, e, sight, span{(limit + 1) / 2, limit / 2, filter})
	if err != nil {
		return nil, err
	}
	head := encoded(map[string]any{"event": a.Event, "events_before": a.Before, "events_after": a.After, "start": a.Start, "end": a.End})
	return &web.Pieces{Write: func(w io.Writer) error {
		out := newArray(w, string(head[:len(head)-1])+`,"state":[`)
		write := func(events []*Event) error { return r.writeState(q.Context(), out, a.who, events) }
		if filter.LazyMembers {
			return out.end(write(a.State), "]}")
		}
		return out.end(r.eachState(q.Context(), a.root, nil, write), "]}")
	}}, nil
}

// span says how much of a timeline to give around an event.
type span struct {
	before, after int
	filter        *Filter
}

func (r *Rooms) around(ctx context.Context, who Reader, v view, e *Event, sight Visibility, s span) (*EventContext, error) {
	half := max(r.PageBytes/2, 1)
	before, err := r.read(ctx, v, stretch{from: e.Pos - 1, backward: true, limit: s.before, bytes: half, filter: s.filter})
	if err != nil {
		return nil, err
	}
	after, err := r.read(ctx, v, stretch{from: e.Pos, limit: s.after, bytes: half, filter: s.filter})
	if err != nil {
		return nil, err
	}
	// One before, one after, and so on: where there is no room for all of them the nearest are given.
	size := 1 + len(before.events) + len(after.events)
	all := found{events: append(make([]*Event, 0, size), e), sights: append(make([]Visibility, 0, size), sight)}
	for i := range max(len(before.events), len(after.events)) {
		for _, side := range [...]*found{&before, &after} {
			if i < len(side.events) {
				all.events, all.sights = append(all.events, side.events[i]), append(all.sights, side.sights[i])
			}
		}
	}
	list, err := r.render(ctx, who, v.standing, &all)
	if err != nil {
		return nil, err
	}
	texts := [...][]json.RawMessage{make([]json.RawMessage, 0, len(before.events)), make([]json.RawMessage, 0, len(after.events))}
	next := 1
	for i := range max(len(before.events), len(after.events)) {
		for k, side := range [...]*found{&before, &after} {
			if i < len(side.events) && next < len(list) {
				texts[k] = append(texts[k], list[next])
				next++
			}
		}
	}
	before.cut(len(texts[0]))
	after.cut(len(texts[1]))
	last, past := e, sight.Membership != event.MembershipJoin
	if n := len(after.events); n > 0 {
		last, past = after.events[n-1], after.sights[n-1].Membership != event.MembershipJoin
	}
	a := &EventContext{
		Event: list[0], Before: texts[0], After: texts[1], Start: PositionToken(before.end), End: PositionToken(after.end),
		root: last.Root, who: v.audience(last.Root, past),
	}
	if !s.filter.LazyMembers {
		return a, nil
	}
	if a.State, err = r.sendersAt(ctx, last.Root, []*Event{e}, before.events, after.events); err != nil {
		return nil, err
	}
	a.State, err = r.VisibleState(ctx, a.who, a.State)
	return a, err
}

func (r *Rooms) getTimestampToEvent(q *web.Request) (any, error) {
	ctx, roomID := q.Context(), q.Path("roomID")
	if q.Query1("ts") == "" {
		return nil, matrix.MissingParam("ts is missing: expected milliseconds")
	}
	ts, err := strconv.ParseInt(q.Query1("ts"), 10, 64)
	if err != nil {
		return nil, matrix.InvalidParam("ts: expected milliseconds")
	}
	where := "e.room_id = $1 AND e.ts >= $2 ORDER BY e.ts, e.pos LIMIT 50"
	switch q.Query1("dir") {
	case "f":
	case "b":
		where = "e.room_id = $1 AND e.ts <= $2 ORDER BY e.ts DESC, e.pos DESC LIMIT 50"
	default:
		return nil, matrix.InvalidParam("dir: expected b or f")
	}
	v, err := r.view(ctx, q.UserID(), roomID)
	if err != nil {
		return nil, err
	}
	ids, err := db.Texts(r.Process.DB.Query(ctx, "SELECT e.event_id FROM events e WHERE "+where, roomID, ts))
	if err != nil {
		return nil, err
	}
	var found *Event
	err = r.EachEvent(ctx, ids, func(events []*Event) error {
		sights, err := r.sights(ctx, v.standing, events)
		if err != nil {
			return err
		}
		for i, e := range events {
			if sights[i].Visible && e.Pos <= v.upto {
				found = e
				return errMuch
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
