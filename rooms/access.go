package rooms

import (
	"context"
	"math"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// The values of m.room.history_visibility.
const (
	worldReadable = "world_readable"
	shared        = "shared"
	invited       = "invited"
)

// membershipView is a user's membership of a room, now and before.
type membershipView struct {
	user   string
	head   Head
	member Membership // the zero Membership when the user was never there
	// memberUntil: the user was a member at or after every event before this position; 0 for never.
	memberUntil int64
	leaveEvent  *Event // what ended the newest time as a member; nil for one who is joined or never was
}

// pastMember is whose memberships of the past count: nobody's for one who has forgotten the room, which is then a
// stranger's.
func (s membershipView) pastMember() string {
	if s.member.Forgotten {
		return ""
	}
	return s.user
}

func (s membershipView) joined() bool { return s.member.Membership == event.MembershipJoin }

// findMembershipView reads a user's membership of a room; not ok when there is no such room.
func (r *Rooms) findMembershipView(ctx context.Context, userID, roomID string) (s membershipView, ok bool, err error) {
	s.user = userID
	if s.head, ok, err = r.Head(ctx, roomID); err != nil || !ok || userID == "" {
		return s, ok, err
	}
	if s.member, err = r.Membership(ctx, userID, roomID); err != nil {
		return s, true, err
	}
	switch {
	case s.joined():
		s.memberUntil = math.MaxInt64
	case s.member.EventID != "" && !s.member.Forgotten:
		if s.leaveEvent, err = r.leftBy(ctx, s.member.EventID); err != nil {
			return s, true, err
		}
		if s.leaveEvent != nil {
			s.memberUntil = s.leaveEvent.Pos
		}
	}
	return s, true, nil
}

// leftBy finds, from a membership event backwards, the event that ended the newest time as a member; nil
// when there was none.
func (r *Rooms) leftBy(ctx context.Context, eventID string) (*Event, error) {
	for id := eventID; id != ""; {
		e, err := r.Event(ctx, id)
		if err != nil || e == nil {
			return nil, err
		}
		if e.PrevMembership() == event.MembershipJoin {
			return e, nil
		}
		id = e.Replaces
	}
	return nil, nil
}

// roomView is what a user gets of a room.
type roomView struct {
	membershipView
	root state.ID // the state: the newest, or that of the user's leave
	upto int64    // the last position of the timeline
}

func notMember() error { return matrix.Forbidden("You are not a member of this room") }

// findRoomView finds what a user gets of a room: members the newest state, those who left the state of their leave,
// and others the newest state of a world-readable room. Everybody else is refused with M_FORBIDDEN, also
// where there is no such room.
func (r *Rooms) findRoomView(ctx context.Context, userID, roomID string) (roomView, error) {
	s, ok, err := r.findMembershipView(ctx, userID, roomID)
	if err != nil {
		return roomView{}, err
	}
	if !ok {
		return roomView{}, notMember()
	}
	v := roomView{membershipView: s, root: s.head.Root, upto: s.head.Pos}
	if s.joined() {
		return v, nil
	}
	at, err := r.visibilityStateAt(ctx, s.head.Root, "")
	switch {
	case err != nil:
		return roomView{}, err
	case s.leaveEvent != nil:
		v.root = s.leaveEvent.Root
		if at.history != worldReadable {
			v.upto = s.leaveEvent.Pos
		}
	case at.history != worldReadable:
		return roomView{}, notMember()
	}
	return v, nil
}

// findJoinedView is findRoomView for what only members may do.
func (r *Rooms) findJoinedView(ctx context.Context, userID, roomID string) (roomView, error) {
	v, err := r.findRoomView(ctx, userID, roomID)
	if err == nil && !v.joined() {
		err = notMember()
	}
	return v, err
}

// Visibility says whether a user sees one event, and what of it.
type Visibility struct {
	Visible    bool
	Membership string // of the user at the event
	Erased     bool   // the sender was erased and the user was no member: ClientOptions.Erased
	PrevHidden bool   // the user may not see what it replaced, or that was of an erased user: ClientOptions.PrevHidden
}

// CanSee tells for events of one room which the user may see (Client-Server API, "Room history visibility").
func (r *Rooms) CanSee(ctx context.Context, userID, roomID string, events []*Event) ([]bool, error) {
	visibility, err := r.VisibilityOf(ctx, userID, roomID, events)
	out := make([]bool, len(visibility))
	for i, s := range visibility {
		out[i] = s.Visible
	}
	return out, err
}

// VisibilityOf is CanSee with the user's membership at each event.
func (r *Rooms) VisibilityOf(ctx context.Context, userID, roomID string, events []*Event) ([]Visibility, error) {
	s, ok, err := r.findMembershipView(ctx, userID, roomID)
	if err != nil || !ok {
		return make([]Visibility, len(events)), err
	}
	return r.decideVisibility(ctx, s, events)
}

// visibilityState is what decides over visibility in one state.
type visibilityState struct{ history, membership string }

func (r *Rooms) decideVisibility(ctx context.Context, s membershipView, events []*Event) ([]Visibility, error) {
	out := make([]Visibility, len(events))
	all := false
	if s.joined() {
		var err error
		if all, err = r.alwaysShared(ctx, s.head.Root); err != nil {
			return nil, err
		}
	}
	states := map[state.ID]visibilityState{} // messages share the root of the state before them
	for i, e := range events {
		if all && e.Pos >= s.member.Pos {
			out[i] = Visibility{Visible: true, Membership: event.MembershipJoin}
			continue
		}
		m, ok := states[e.Root]
		if !ok {
			var err error
			if m, err = r.visibilityStateAt(ctx, e.Root, s.pastMember()); err != nil {
				return nil, err
			}
			states[e.Root] = m
		}
		out[i] = Visibility{Visible: all || visible(s, e, m), Membership: m.membership}
	}
	if !all {
		if err := r.hidePreviousIn(ctx, s, events, out); err != nil {
			return nil, err
		}
	}
	return out, r.hideErased(ctx, s.user, events, out)
}

// visible holds the rules of the specification. m is the state after e.
func visible(s membershipView, e *Event, m visibilityState) bool {
	if m.allows(s, e.Pos) {
		return true
	}
	switch {
	case e.Is(event.TypeHistoryVisibility, ""):
		before := visibilityState{historyOf(e.PrevContent), m.membership}
		return before.allows(s, e.Pos)
	case s.pastMember() != "" && e.Is(event.TypeMember, s.user):
		return visibilityState{m.history, e.PrevMembership()}.allows(s, e.Pos)
	}
	return false
}

// allows tells whether a message at a position is seen.
func (m visibilityState) allows(s membershipView, pos int64) bool {
	switch {
	case m.history == worldReadable, m.membership == event.MembershipJoin:
		return true
	case m.history == shared:
		return pos < s.memberUntil
	case m.history == invited:
		return m.membership == event.MembershipInvite
	}
	return false
}

func (r *Rooms) visibilityStateAt(ctx context.Context, root state.ID, userID string) (visibilityState, error) {
	history, me := state.Key{Type: event.TypeHistoryVisibility}, state.Key{Type: event.TypeMember, StateKey: userID}
	keys := []state.Key{history, me}
	if userID == "" {
		keys = keys[:1]
	}
	found, err := r.StateEvents(ctx, root, keys...)
	if err != nil {
		return visibilityState{}, err
	}
	m := visibilityState{history: shared, membership: event.MembershipLeave}
	if e := found[history]; e != nil {
		m.history = historyOf(e.Content)
	}
	if e := found[me]; e != nil && userID != "" {
		m.membership = e.Membership()
	}
	return m, nil
}

// historyOf reads the content of m.room.history_visibility; what is not understood is "shared".
func historyOf(content []byte) string {
	switch s, _ := matrix.LookupString(content, "history_visibility"); s {
	case worldReadable, invited, "joined":
		return s
	}
	return shared
}

// alwaysShared tells that the members of a room may see all of it, because the visibility was never
// another one than the present.
func (r *Rooms) alwaysShared(ctx context.Context, root state.ID) (bool, error) {
	k := state.Key{Type: event.TypeHistoryVisibility}
	found, err := r.StateEvents(ctx, root, k)
	if err != nil {
		return false, err
	}
	e := found[k]
	if e == nil {
		return true, nil
	}
	h := historyOf(e.Content)
	return e.Replaces == "" && (h == shared || h == worldReadable), nil
}

// visibleEvent reads an event that the user may see. The error is M_NOT_FOUND for all others; with it comes an event of the room that
// the user may not see.
func (r *Rooms) visibleEvent(ctx context.Context, userID, roomID, eventID string) (*Event, Visibility, membershipView, error) {
	missing := matrix.NotFound("There is no such event in this room, or you may not see it")
	e, err := r.Event(ctx, eventID)
	if err != nil {
		return nil, Visibility{}, membershipView{}, err
	}
	if e == nil || e.RoomID != roomID {
		return nil, Visibility{}, membershipView{}, missing
	}
	s, ok, err := r.findMembershipView(ctx, userID, roomID)
	if err != nil {
		return nil, Visibility{}, s, err
	}
	if !ok {
		return nil, Visibility{}, s, missing
	}
	visibility, err := r.decideVisibility(ctx, s, []*Event{e})
	if err != nil {
		return nil, Visibility{}, s, err
	}
	if !visibility[0].Visible {
		return e, Visibility{}, s, missing
	}
	return e, visibility[0], s, nil
}

// stateAt returns the state after the newest event up to pos, for a user who may see that event. past is true when the user was no
// member at it. Before the first event of the room, where /sync begins a complete timeline, the state is that of the first two events:
// the creator as the only member; a user who may not see them gets the zero root. Errors: M_FORBIDDEN.
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
