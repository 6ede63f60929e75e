package rooms

import (
	"context"
	"math"

	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// What a state event replaced, its prev_content, is given to one "who has permission to see the previous content" (Client-Server
// API, "unsigned"): who may see the event that was replaced, or was a member when it was replaced, and so had it as the state of
// the room. The user's own memberships are no secret.

// Audience is one user to whom state events of a room are shown. It keeps what was read to decide what may be.
type Audience struct {
	UserID, RoomID string
	Root           state.ID // the state that is shown, or a newer one that the user may see
	// Since and Until: when the user is a member, from which position on, at the latest; else which one ended the newest time as
	// a member, 0 for none.
	Since, Until int64
	Past         bool // the state is of a time at which the user was no member

	membershipView *membershipView // nil to be made of the above
	alwaysShared   bool            // all that was ever the state up to Root may be seen; set together with visible
	visible        *visibleRanges  // nil until it is asked for
}

// audience returns the user as one to whom the state with this root is shown.
func (s *membershipView) audience(root state.ID, past bool) *Audience {
	return &Audience{UserID: s.user, RoomID: s.head.RoomID, Root: root, Since: s.since(), Past: past, membershipView: s}
}

// since is Audience.Since.
func (s *membershipView) since() int64 {
	if s.joined() {
		return s.member.Pos
	}
	return 0
}

// needsCheck tells whether it must be looked up if an event is shown with what it replaced.
func (a *Audience) needsCheck(e *Event) bool {
	return e.PrevContent != nil && (a.Since == 0 || e.Pos < a.Since) && !e.Is(event.TypeMember, a.UserID)
}

// load reads what the user may see of the room.
func (a *Audience) load(ctx context.Context, r *Rooms) (err error) {
	if a.visible != nil {
		return nil
	}
	if a.alwaysShared, err = r.alwaysShared(ctx, a.Root); err != nil {
		return err
	}
	visible := visibleRanges{all: true}
	if !a.alwaysShared {
		if a.membershipView == nil {
			a.membershipView = &membershipView{user: a.UserID, head: Head{RoomID: a.RoomID, Root: a.Root}, memberUntil: a.Until}
			if a.Since > 0 {
				a.membershipView.member.Membership, a.membershipView.memberUntil = event.MembershipJoin, math.MaxInt64
			}
		}
		if visible, err = r.visibleRangesOf(ctx, *a.membershipView); err != nil {
			return err
		}
	}
	a.visible = &visible
	return nil
}

// hidePrevious gives those of some state events that are shown without what they replaced, by id.
func (r *Rooms) hidePrevious(ctx context.Context, a *Audience, events []*Event) (map[string]bool, error) {
	var ask []*Event
	for _, e := range events {
		if a.needsCheck(e) {
			ask = append(ask, e)
		}
	}
	if len(ask) == 0 {
		return nil, nil
	}
	if err := a.load(ctx, r); err != nil || a.visible.all {
		return nil, err
	}
	var unknown []string // where they are: the events did not come from the database
	for _, e := range ask {
		if e.PrevPos == 0 {
			unknown = append(unknown, e.Replaces)
		}
	}
	found, err := r.Events(ctx, unknown)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, e := range ask {
		pos := e.PrevPos
		if before := found[e.Replaces]; before != nil {
			pos = before.Pos
		}
		if !a.visible.wasMember(e.Pos) && (pos == 0 || !a.visible.showsState(e.Type, pos)) {
			out[e.ID] = true
		}
	}
	return out, nil
}

// hidePreviousIn marks the visibility of events that are shown without what they replaced.
func (r *Rooms) hidePreviousIn(ctx context.Context, s membershipView, events []*Event, visibility []Visibility) error {
	var foreign []*Event
	for i, e := range events {
		if e.PrevContent != nil && visibility[i].Visible && visibility[i].Membership != event.MembershipJoin {
			foreign = append(foreign, e)
		}
	}
	if len(foreign) == 0 {
		return nil
	}
	hidden, err := r.hidePrevious(ctx, s.audience(s.head.Root, false), foreign)
	for i, e := range events {
		visibility[i].PrevHidden = hidden[e.ID]
	}
	return err
}

// showsState tells whether a state event, other than the user's memberships, is seen: those that change the visibility are by the
// one before or the one after.
func (v visibleRanges) showsState(typ string, pos int64) bool {
	return v.contains(pos) || typ == event.TypeHistoryVisibility && v.contains(pos+1)
}
