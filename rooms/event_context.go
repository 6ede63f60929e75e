package rooms

import (
	"context"
	"encoding/json"

	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// EventContext is an event with what came before it, the newest first, and after it, as a client gets them.
type EventContext struct {
	Event         json.RawMessage
	Before, After []json.RawMessage
	Start, End    string   // tokens of /messages
	State         []*Event // behind the last event, of those who wrote

	root     state.ID // of the whole state there
	audience *Audience
}

// EventContext gives an event, which the user may see, with at most so many others before and after it.
func (r *Rooms) EventContext(ctx context.Context, who Reader, e *Event, before, after int) (*EventContext, error) {
	s, ok, err := r.findMembershipView(ctx, who.UserID, e.RoomID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notMember()
	}
	visibility, err := r.decideVisibility(ctx, s, []*Event{e})
	if err != nil {
		return nil, err
	}
	if !visibility[0].Visible {
		return nil, notMember()
	}
	// The memberships of those who wrote, not the whole state: a search asks for many of these.
	return r.eventContext(ctx, who, roomView{membershipView: s, upto: s.head.Pos}, contextWindow{
		event: e, shown: visibility[0], before: before, after: after, filter: &event.Filter{LazyMembers: true},
	})
}

// contextWindow says how much of a timeline to give around an event.
type contextWindow struct {
	event         *Event
	shown         Visibility // of event
	before, after int
	filter        *event.Filter
}

// eventContext is EventContext for one who sees the room by v.
func (r *Rooms) eventContext(ctx context.Context, who Reader, v roomView, s contextWindow) (*EventContext, error) {
	e, shown := s.event, s.shown
	half := max(r.PageBytes/2, 1)
	before, err := r.readRange(ctx, v, eventRange{from: e.Pos - 1, backward: true, limit: s.before, bytes: half, filter: s.filter})
	if err != nil {
		return nil, err
	}
	after, err := r.readRange(ctx, v, eventRange{from: e.Pos, limit: s.after, bytes: half, filter: s.filter})
	if err != nil {
		return nil, err
	}
	// One before, one after, and so on: where there is no room for all of them the nearest are given.
	size := 1 + len(before.events) + len(after.events)
	all := eventPage{events: append(make([]*Event, 0, size), e), visibility: append(make([]Visibility, 0, size), shown)}
	for i := range max(len(before.events), len(after.events)) {
		for _, side := range [...]*eventPage{&before, &after} {
			if i < len(side.events) {
				all.events, all.visibility = append(all.events, side.events[i]), append(all.visibility, side.visibility[i])
			}
		}
	}
	list, err := r.renderPage(ctx, who, v.membershipView, &all)
	if err != nil {
		return nil, err
	}
	texts := [...][]json.RawMessage{make([]json.RawMessage, 0, len(before.events)), make([]json.RawMessage, 0, len(after.events))}
	next := 1
	for i := range max(len(before.events), len(after.events)) {
		for k, side := range [...]*eventPage{&before, &after} {
			if i < len(side.events) && next < len(list) {
				texts[k] = append(texts[k], list[next])
				next++
			}
		}
	}
	before.truncate(len(texts[0]))
	after.truncate(len(texts[1]))
	last, past := e, shown.Membership != event.MembershipJoin
	if n := len(after.events); n > 0 {
		last, past = after.events[n-1], after.visibility[n-1].Membership != event.MembershipJoin
	}
	a := &EventContext{
		Event: list[0], Before: texts[0], After: texts[1], Start: PositionToken(before.end), End: PositionToken(after.end),
		root: last.Root, audience: v.audience(last.Root, past),
	}
	if !s.filter.LazyMembers {
		return a, nil
	}
	if a.State, err = r.sendersAt(ctx, last.Root, []*Event{e}, before.events, after.events); err != nil {
		return nil, err
	}
	a.State, err = r.VisibleState(ctx, a.audience, a.State)
	return a, err
}
