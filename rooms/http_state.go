package rooms

import (
	"encoding/json"
	"io"
	"slices"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
	"lyceum/rooms/state"
)

func (r *Rooms) getFullState(req *web.Request) (any, error) {
	return &web.Pieces{Write: func(w io.Writer) error { return r.WriteState(req.Context(), w, req.UserID(), req.Path("roomID")) }}, nil
}

func (r *Rooms) getState(req *web.Request) (any, error) {
	v, err := r.findRoomView(req.Context(), req.UserID(), req.Path("roomID"))
	if err != nil {
		return nil, err
	}
	k := state.Key{Type: req.Path("type"), StateKey: req.Path("stateKey")}
	found, err := r.StateEvents(req.Context(), v.root, k)
	if err != nil {
		return nil, err
	}
	e := found[k]
	if e == nil {
		return nil, matrix.NotFound("The room has no such state")
	}
	switch req.QueryParam("format") {
	case "", "content":
		return json.RawMessage(e.Content), nil
	case "event":
		shown, err := r.VisibleState(req.Context(), v.audience(v.root, false), []*Event{e})
		if err != nil {
			return nil, err
		}
		return renderState(shown)[0], nil
	}
	return nil, matrix.InvalidParam("format: expected content or event")
}

// isMember tells memberships from other state.
func isMember(e state.Entry) bool { return e.Type == event.TypeMember }

var memberships = []string{
	event.MembershipJoin, event.MembershipInvite, event.MembershipLeave, event.MembershipBan, event.MembershipKnock,
}

func (r *Rooms) getMembers(req *web.Request) (any, error) {
	ctx, roomID := req.Context(), req.Path("roomID")
	only, not := req.QueryParam("membership"), req.QueryParam("not_membership")
	for _, m := range []string{only, not} {
		if m != "" && !slices.Contains(memberships, m) {
			return nil, matrix.InvalidParam("membership: expected join, invite, knock, leave or ban")
		}
	}
	v, err := r.findRoomView(ctx, req.UserID(), roomID)
	if err != nil {
		return nil, err
	}
	root, past := v.root, false
	if at := req.QueryParam("at"); at != "" {
		pos, known, err := r.PositionOf(at, roomID)
		if err != nil {
			return nil, err
		}
		if known && pos < v.upto {
			if root, past, err = r.stateAt(ctx, v, pos); err != nil {
				return nil, err
			}
		}
	}
	return &web.Pieces{Write: func(w io.Writer) error {
		a, who := newArray(w, `{"chunk":[`), v.audience(root, past)
		err := r.eachState(ctx, root, isMember, func(events []*Event) error {
			chunk := slices.DeleteFunc(events, func(e *Event) bool {
				m := e.Membership()
				return only != "" && m != only || not != "" && m == not
			})
			return r.writeState(ctx, a, who, chunk)
		})
		return a.end(err, "]}")
	}}, nil
}

// joinedMember has null for what a user does not have: matrix-nio requires both.
type joinedMember struct {
	DisplayName *string `json:"display_name"`
	AvatarURL   *string `json:"avatar_url"`
}

func (r *Rooms) getJoinedMembers(req *web.Request) (any, error) {
	v, err := r.findJoinedView(req.Context(), req.UserID(), req.Path("roomID"))
	if err != nil {
		return nil, err
	}
	return &web.Pieces{Write: func(w io.Writer) error {
		a := newArray(w, `{"joined":{`)
		err := r.eachState(req.Context(), v.root, isMember, func(events []*Event) error {
			for _, e := range events {
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
				a.b = append(append(matrix.AppendString(a.next(), *e.StateKey), ':'), encodeJSON(m)...)
			}
			return a.flush()
		})
		return a.end(err, "}}")
	}}, nil
}
