package rooms

import (
	"context"
	"encoding/json"
	"slices"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
	"lyceum/rooms/state"
)

func (r *Rooms) getFullState(q *web.Request) (any, error) {
	return r.StateFor(q.Context(), q.UserID(), q.Path("roomID"))
}

// StateFor gives the state of a room as a user gets it: the newest, or that of the user's leave. Error:
// M_FORBIDDEN.
func (r *Rooms) StateFor(ctx context.Context, userID, roomID string) ([]json.RawMessage, error) {
	v, err := r.view(ctx, userID, roomID)
	if err != nil {
		return nil, err
	}
	events, err := r.FullState(ctx, v.root)
	if err != nil {
		return nil, err
	}
	events, err = r.HideState(ctx, events, false)
	return renderState(events), err
}

func (r *Rooms) getState(q *web.Request) (any, error) {
	v, err := r.view(q.Context(), q.UserID(), q.Path("roomID"))
	if err != nil {
		return nil, err
	}
	k := state.Key{Type: q.Path("type"), StateKey: q.Path("stateKey")}
	found, err := r.StateEvents(q.Context(), v.root, k)
	if err != nil {
		return nil, err
	}
	e := found[k]
	if e == nil {
		return nil, matrix.NotFound("The room has no such state")
	}
	switch q.Query1("format") {
	case "", "content":
		return json.RawMessage(e.Content), nil
	case "event":
		shown, err := r.HideState(q.Context(), []*Event{e}, false)
		if err != nil {
			return nil, err
		}
		return renderState(shown)[0], nil
	}
	return nil, matrix.InvalidParam("format: expected content or event")
}

// membersAt reads all m.room.member events of a state.
func (r *Rooms) membersAt(ctx context.Context, root state.ID) ([]*Event, error) {
	entries, err := r.Tree(root).All(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.Type == event.TypeMember {
			ids = append(ids, e.EventID)
		}
	}
	events, err := r.Events(ctx, ids)
	out := make([]*Event, 0, len(ids))
	for _, id := range ids {
		if e := events[id]; e != nil {
			out = append(out, e)
		}
	}
	return out, err
}

var memberships = []string{
	event.MembershipJoin, event.MembershipInvite, event.MembershipLeave, event.MembershipBan, event.MembershipKnock,
}

func (r *Rooms) getMembers(q *web.Request) (any, error) {
	ctx, roomID := q.Context(), q.Path("roomID")
	only, not := q.Query1("membership"), q.Query1("not_membership")
	for _, m := range []string{only, not} {
		if m != "" && !slices.Contains(memberships, m) {
			return nil, matrix.InvalidParam("membership: expected join, invite, knock, leave or ban")
		}
	}
	v, err := r.view(ctx, q.UserID(), roomID)
	if err != nil {
		return nil, err
	}
	root, past := v.root, false
	if at := q.Query1("at"); at != "" {
		pos, known, err := r.PositionOf(at, roomID)
		if err != nil {
			return nil, err
		}
		if known && pos < v.upto {
			if root, err = r.rootAt(ctx, roomID, pos); err != nil {
				return nil, err
			}
			then, err := r.momentOf(ctx, root, v.user)
			if err != nil {
				return nil, err
			}
			past = then.membership != event.MembershipJoin
		}
	}
	all, err := r.membersAt(ctx, root)
	if err != nil {
		return nil, err
	}
	chunk := make([]*Event, 0, len(all))
	for _, e := range all {
		if m := e.Membership(); (only == "" || m == only) && (not == "" || m != not) {
			chunk = append(chunk, e)
		}
	}
	chunk, err = r.HideState(ctx, chunk, past)
	return map[string]any{"chunk": renderState(chunk)}, err
}

// rootAt is the state behind the last event up to a position; the empty state before the first.
func (r *Rooms) rootAt(ctx context.Context, roomID string, pos int64) (state.ID, error) {
	events, err := r.Timeline(ctx, Page{RoomID: roomID, From: pos + 1, Backward: true, Limit: 1})
	if err != nil || len(events) == 0 {
		return state.ID{}, err
	}
	return events[0].Root, nil
}

type joinedMember struct {
	DisplayName *string `json:"display_name,omitempty"`
	AvatarURL   *string `json:"avatar_url,omitempty"`
}

func (r *Rooms) getJoinedMembers(q *web.Request) (any, error) {
	v, err := r.joinedView(q.Context(), q.UserID(), q.Path("roomID"))
	if err != nil {
		return nil, err
	}
	all, err := r.membersAt(q.Context(), v.root)
	joined := map[string]joinedMember{}
	for _, e := range all {
		if e.Membership() != event.MembershipJoin {
			continue
		}
		var m joinedMember
		if name, ok := e.ContentString("displayname"); ok {
			m.DisplayName = &name
		}
		if avatar, ok := e.ContentString("avatar_url"); ok {
			m.AvatarURL = &avatar
		}
		joined[*e.StateKey] = m
	}
	return map[string]any{"joined": joined}, err
}
