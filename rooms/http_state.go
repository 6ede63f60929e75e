package rooms

import (
	"context"
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

// WriteState writes the state of a room as a user gets it, a JSON array: the newest, or that of the user's leave. It holds a
// part of it in memory at a time. Error: M_FORBIDDEN, before anything is written.
func (r *Rooms) WriteState(ctx context.Context, w io.Writer, userID, roomID string) error {
	v, err := r.roomView(ctx, userID, roomID)
	if err != nil {
		return err
	}
	a, who := newArray(w, "["), v.audience(v.root, false)
	err = r.eachState(ctx, v.root, nil, func(events []*Event) error { return r.writeState(ctx, a, who, events) })
	return a.end(err, "]")
}

// writeState adds state events to an array, as VisibleState shows them.
func (r *Rooms) writeState(ctx context.Context, a *arrayWriter, who *Audience, events []*Event) error {
	shown, err := r.VisibleState(ctx, who, events)
	if err != nil {
		return err
	}
	for _, e := range shown {
		a.b = e.AppendClient(a.next(), ClientOptions{RoomID: true})
		if len(a.b) >= arrayBytes {
			if err := a.flush(); err != nil {
				return err
			}
		}
	}
	return a.flush()
}

// arrayBytes is how much of an array is written at once, about: what waits for a client is held twice, as events and as text.
const arrayBytes = 64 << 10

// array writes the members of a JSON array or object part by part.
type arrayWriter struct {
	w     io.Writer
	b     []byte // what is not written yet
	comma bool
}

func newArray(w io.Writer, begin string) *arrayWriter { return &arrayWriter{w: w, b: []byte(begin)} }

// next gives what the next member is appended to.
func (a *arrayWriter) next() []byte {
	if a.comma {
		a.b = append(a.b, ',')
	}
	a.comma = true
	return a.b
}

func (a *arrayWriter) flush() error {
	_, err := a.w.Write(a.b)
	a.b = a.b[:0]
	return err
}

// end writes the end, unless there was an error.
func (a *arrayWriter) end(err error, end string) error {
	if err != nil {
		return err
	}
	a.b = append(a.b, end...)
	return a.flush()
}

func (r *Rooms) getState(req *web.Request) (any, error) {
	v, err := r.roomView(req.Context(), req.UserID(), req.Path("roomID"))
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
	switch req.Query1("format") {
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
	only, not := req.Query1("membership"), req.Query1("not_membership")
	for _, m := range []string{only, not} {
		if m != "" && !slices.Contains(memberships, m) {
			return nil, matrix.InvalidParam("membership: expected join, invite, knock, leave or ban")
		}
	}
	v, err := r.roomView(ctx, req.UserID(), roomID)
	if err != nil {
		return nil, err
	}
	root, past := v.root, false
	if at := req.Query1("at"); at != "" {
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

// stateAt is the state behind the last event up to a position. It is for those who may see that event; past tells that the user was
// no member. Before the first event, where /sync begins a timeline that is whole, it is what the room began with: its creator as the
// one member, and nothing for those who may not see that. Errors: M_FORBIDDEN.
func (r *Rooms) stateAt(ctx context.Context, v roomView, pos int64) (root state.ID, past bool, err error) {
	events, err := r.Timeline(ctx, Page{RoomID: v.head.RoomID, From: pos + 1, Backward: true, Limit: 1})
	before := err == nil && len(events) == 0
	if before {
		events, err = r.Timeline(ctx, Page{RoomID: v.head.RoomID, Limit: 2})
	}
	if err != nil || len(events) == 0 {
		return root, false, err
	}
	last := len(events) - 1
	visibility, err := r.decideVisibility(ctx, v.membershipView, events)
	switch {
	case err != nil:
		return root, false, err
	case visibility[last].Visible:
		return events[last].Root, visibility[last].Membership != event.MembershipJoin, nil
	case before:
		return root, false, nil
	}
	return root, false, matrix.Forbidden("You may not see what the room was at that time")
}

// joinedMember has null for what a user does not have: matrix-nio requires both.
type joinedMember struct {
	DisplayName *string `json:"display_name"`
	AvatarURL   *string `json:"avatar_url"`
}

func (r *Rooms) getJoinedMembers(req *web.Request) (any, error) {
	v, err := r.joinedView(req.Context(), req.UserID(), req.Path("roomID"))
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
				a.b = append(append(matrix.AppendString(a.next(), *e.StateKey), ':'), encoded(m)...)
			}
			return a.flush()
		})
		return a.end(err, "}}")
	}}, nil
}
