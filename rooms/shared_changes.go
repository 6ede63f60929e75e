package rooms

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// membershipPeriod says whether a user was a member of a room at two tokens, and what happened between them.
type membershipPeriod struct {
	before, after bool
	joined        bool // the user joined a room of userID, or was a member of a room that userID joined
	now           bool // member after the events that were applied so far
}

// roomMembershipChanges are the users of a room with membership events after the first token.
type roomMembershipChanges struct {
	users   map[string]membershipPeriod
	entered bool // userID joined between the tokens
}

// maxMembershipChanges is how many membership events are read to answer one request.
const maxMembershipChanges = 5000

// SharedRoomChanges serves GET /keys/changes: how the set of users who share a room with userID changed between two tokens of /sync.
// joined are the users who share a room at the later token and joined a room of userID between the tokens, were members of a room that
// userID joined, or are among changed. left are those who shared a room at the first token and share none at the later one. Both
// are sorted.
//
// A token that does not name a position counts as the beginning, or as now. It costs at most three statements. With more than
// maxMembershipChanges events since the first token the answer is currentSharingChanges. Errors: M_INVALID_PARAM.
func (r *Rooms) SharedRoomChanges(ctx context.Context, userID, from, to string, changed []string) (joined, left []string, err error) {
	tokens, err := r.tokenRange(from, to)
	if err != nil {
		return nil, nil, err
	}
	list, err := r.Memberships(ctx, userID)
	if err != nil {
		return nil, nil, err
	}
	rooms, ok, err := r.membershipChanges(ctx, list, tokens)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return r.currentSharingChanges(ctx, userID, list, tokens.after)
	}
	c := sharingChanges{userID: userID, rooms: rooms, mayHaveJoined: map[string]bool{}, mayHaveLeft: map[string]bool{}}
	for _, id := range changed {
		c.mayHaveJoined[id] = true
	}
	for _, m := range list {
		c.addChanged(m)
	}
	members, err := r.memberships(ctx, "room_id = ANY($1) AND membership = $2", c.whole, event.MembershipJoin)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range members {
		c.addUnchanged(m)
	}
	sharing, err := r.sharingAt(ctx, c.mayHaveJoined, c.mayHaveLeft, c.shared, rooms)
	if err != nil {
		return nil, nil, err
	}
	joined = sortedKeys(c.mayHaveJoined, func(id string) bool { return sharing[id] || id == userID })
	return joined, sortedKeys(c.mayHaveLeft, func(id string) bool { return !sharing[id] }), nil
}

// tokenRange reads the positions of two tokens.
func (r *Rooms) tokenRange(from, to string) (t tokenRange, err error) {
	t.most = maxMembershipChanges
	if t.after, err = r.positionsOf(from); err != nil {
		return t, err
	}
	if t.upto, err = r.positionsOf(to); err != nil {
		return t, err
	}
	if t.after == nil { // all that ever was
		t.after = make([]int64, Shards)
	}
	if t.upto == nil { // now
		t.upto = slices.Repeat([]int64{1 << 62}, Shards)
	}
	return t, nil
}

// sharingChanges collects who may have begun or ceased to share a room with userID.
type sharingChanges struct {
	userID                     string
	rooms                      membershipChanges
	mayHaveJoined, mayHaveLeft map[string]bool // users
	shared                     []string        // rooms of userID at the later token
	whole                      []string        // rooms whose members all count, also those without an event: userID joined or left
}

// addChanged adds the users with membership events in a room of userID, whose membership of it is m.
func (c *sharingChanges) addChanged(m Membership) {
	own, room := c.rooms.periodOf(m), c.rooms[m.RoomID]
	if own.after {
		c.shared = append(c.shared, m.RoomID)
	}
	if own.before && !own.after || room.entered {
		c.whole = append(c.whole, m.RoomID)
	}
	for id, other := range room.users {
		if id == c.userID {
			continue
		}
		if own.before && other.before {
			c.mayHaveLeft[id] = true
		}
		if other.joined {
			c.mayHaveJoined[id] = true
		}
	}
}

// addUnchanged adds a member, without membership events, of one of the rooms whose members all count.
func (c *sharingChanges) addUnchanged(m Membership) {
	room := c.rooms[m.RoomID]
	if _, changed := room.users[m.UserID]; changed || m.UserID == c.userID {
		return
	}
	if own := room.users[c.userID]; own.before && !own.after { // userID left by an event
		c.mayHaveLeft[m.UserID] = true
	}
	if room.entered {
		c.mayHaveJoined[m.UserID] = true
	}
}

// sortedKeys gives the members of a set that are wanted, sorted.
func sortedKeys(set map[string]bool, wanted func(string) bool) []string {
	out := make([]string, 0, len(set))
	for id := range set {
		if wanted(id) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// sharingAt tells which of some users are members of one of some rooms at the later token.
func (r *Rooms) sharingAt(ctx context.Context, a, b map[string]bool, shared []string, changes membershipChanges) (map[string]bool, error) {
	users := make([]string, 0, len(a)+len(b))
	for _, set := range []map[string]bool{a, b} {
		for id := range set {
			users = append(users, id)
		}
	}
	sharing := map[string]bool{}
	if len(users) == 0 || len(shared) == 0 {
		return sharing, nil
	}
	now, err := r.memberships(ctx, "user_id = ANY($1) AND room_id = ANY($2)", users, shared)
	for _, m := range now {
		sharing[m.UserID] = sharing[m.UserID] || changes.periodOf(m).after
	}
	return sharing, err
}

// MembersAt lists the users who were members of a room at a position, whatever came later. It costs one statement, and a few more
// when memberships changed since.
func (r *Rooms) MembersAt(ctx context.Context, roomID string, pos int64) ([]string, error) {
	list, err := r.memberships(ctx, "room_id = $1 AND (membership = $2 OR pos > $3)", roomID, event.MembershipJoin, pos)
	if err != nil {
		return nil, err
	}
	var out []string
	var later []state.Key
	for _, m := range list {
		if m.Pos <= pos {
			out = append(out, m.UserID)
		} else {
			later = append(later, state.Key{Type: event.TypeMember, StateKey: m.UserID})
		}
	}
	if len(later) == 0 {
		return out, nil
	}
	newest, err := r.Timeline(ctx, Page{RoomID: roomID, From: pos + 1, Backward: true, Limit: 1})
	if err != nil || len(newest) == 0 {
		return out, err
	}
	for part := range slices.Chunk(later, readAtOnce) {
		found, err := r.StateEvents(ctx, newest[0].Root, part...)
		if err != nil {
			return nil, err
		}
		for k, e := range found {
			if e.Membership() == event.MembershipJoin {
				out = append(out, k.StateKey)
			}
		}
	}
	return out, nil
}

// currentSharingChanges is SharedRoomChanges from the present memberships, for too many events to be read. It costs some more
// statements for each room that userID joined or left. joined are all who share a room now; left may hold users who joined and left a
// room, that userID stayed in, since the first token.
func (r *Rooms) currentSharingChanges(
	ctx context.Context, userID string, list []Membership, after []int64,
) (joined, left []string, err error) {
	var ids []string
	own := map[string]Membership{}
	for _, m := range list {
		if m.Membership == event.MembershipJoin || m.Pos > after[r.stream.Shard(m.RoomID)] {
			ids = append(ids, m.RoomID)
			own[m.RoomID] = m
		}
	}
	all, err := r.memberships(ctx, "room_id = ANY($1)", ids)
	if err != nil {
		return nil, nil, err
	}
	sharing, mayHaveLeft := map[string]bool{userID: true}, map[string]bool{}
	ownChanged := map[string]bool{} // rooms that userID joined or left, or may have
	for _, m := range own {
		from := after[r.stream.Shard(m.RoomID)]
		if ownChanged[m.RoomID] = m.Pos > from; !ownChanged[m.RoomID] {
			continue
		}
		then, err := r.MembersAt(ctx, m.RoomID, from)
		if err != nil {
			return nil, nil, err
		}
		if slices.Contains(then, userID) {
			for _, id := range then {
				mayHaveLeft[id] = true
			}
		}
	}
	for _, m := range all {
		switch is := m.Membership == event.MembershipJoin; {
		case is && own[m.RoomID].Membership == event.MembershipJoin:
			sharing[m.UserID] = true
		case !is && !ownChanged[m.RoomID] && m.Pos > after[r.stream.Shard(m.RoomID)]:
			mayHaveLeft[m.UserID] = true
		}
	}
	everyone := func(string) bool { return true }
	return sortedKeys(sharing, everyone), sortedKeys(mayHaveLeft, func(id string) bool { return !sharing[id] }), nil
}

// membershipChanges are the rooms with membership events after the first token.
type membershipChanges map[string]*roomMembershipChanges

// periodOf gives a user's period in a room. Without events, the membership was the present one all the time.
func (m membershipChanges) periodOf(now Membership) membershipPeriod {
	if room := m[now.RoomID]; room != nil {
		if period, changed := room.users[now.UserID]; changed {
			return period
		}
	}
	is := now.Membership == event.MembershipJoin
	return membershipPeriod{before: is, after: is}
}

// tokenRange are the positions of two tokens, and how many events may be read.
type tokenRange struct {
	after, upto []int64
	most        int
}

// membershipChanges reads the membership events of a user's rooms after the first token; not ok when there are too many. What happened
// after the second tells what was before.
func (r *Rooms) membershipChanges(ctx context.Context, list []Membership, b tokenRange) (out membershipChanges, ok bool, err error) {
	var inShard [Shards][]string
	out = membershipChanges{}
	for _, m := range list {
		shard := r.stream.Shard(m.RoomID)
		inShard[shard] = append(inShard[shard], m.RoomID)
		out[m.RoomID] = &roomMembershipChanges{users: map[string]membershipPeriod{}}
	}
	var where []string
	args := []any{event.TypeMember, b.most + 1}
	for shard, ids := range inShard {
		if len(ids) > 0 {
			where = append(where, fmt.Sprintf("(e.room_id = ANY($%d) AND e.pos > $%d)", len(args)+1, len(args)+2))
			args = append(args, ids, b.after[shard])
		}
	}
	if len(where) == 0 {
		return out, true, nil
	}
	events, err := r.query(ctx, r.Process.DB,
		"e.type = $1 AND e.state_key IS NOT NULL AND ("+strings.Join(where, " OR ")+") ORDER BY e.room_id, e.pos LIMIT $2", args...)
	if err != nil || len(events) > b.most {
		return nil, false, err
	}
	for _, e := range events { // what was at the first token, of all
		room := out[e.RoomID].users
		if _, seen := room[*e.StateKey]; !seen {
			was := e.PrevMembership() == event.MembershipJoin
			room[*e.StateKey] = membershipPeriod{before: was, after: was, now: was}
		}
	}
	own := map[string]bool{}
	for _, m := range list {
		own[m.RoomID] = out.periodOf(m).before
	}
	for _, e := range events {
		if e.Pos <= b.upto[e.Shard] {
			out[e.RoomID].applyEvent(e, list[0].UserID, own)
		}
	}
	return out, true, nil
}

// applyEvent applies an event between the tokens. own are the rooms that userID is a member of at the event.
func (m *roomMembershipChanges) applyEvent(e *Event, userID string, own map[string]bool) {
	who, is := *e.StateKey, e.Membership() == event.MembershipJoin
	s := m.users[who]
	joins := is && !s.now
	s.now, s.after = is, is
	s.joined = s.joined || joins && own[e.RoomID]
	m.users[who] = s
	if who != userID {
		return
	}
	own[e.RoomID] = is
	if !joins {
		return
	}
	m.entered = true
	for id, other := range m.users {
		other.joined = other.joined || other.now
		m.users[id] = other
	}
}
