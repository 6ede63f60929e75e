package rooms

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// stay is a user's place in a room at the two ends of a time.
type membershipPeriod struct {
	before, after bool
	came          bool // to where the one who asks was a member, or was a member where that one came to
	now           bool // as far as the events are read
}

// roomMoves are the users of a room with membership events after the first token.
type roomMembershipChanges struct {
	users   map[string]membershipPeriod
	entered bool // the one who asks came between the tokens
}

// maxMoves is how many membership events are read to answer one request.
const maxMembershipChanges = 5000

// SharedRoomChanges tells what became of the users who share rooms with userID between two tokens of /sync (client-server API, GET
// /keys/changes), each list sorted: met are those who share a room at the later one, and came to a room of userID
// meanwhile, were in one that userID came to, or are among changed; parted shared one at the first token and share none
// at the later one. A token that does not say where it is counts as the beginning, or as now. It costs at most three statements. When there are too many membership events since
// the first token, it costs some more for each room where userID came or went, met are all who share a room now, and parted may hold users who
// came since to a room that userID stayed in, and left it. Errors: M_INVALID_PARAM.
func (r *Rooms) SharedRoomChanges(ctx context.Context, userID, from, to string, changed []string) (met, parted []string, err error) {
	after, err := r.positionsOf(from)
	if err != nil {
		return nil, nil, err
	}
	upto, err := r.positionsOf(to)
	if err != nil {
		return nil, nil, err
	}
	if after == nil { // all that ever was
		after = make([]int64, Shards)
	}
	if upto == nil { // now
		upto = slices.Repeat([]int64{1 << 62}, Shards)
	}
	list, err := r.Memberships(ctx, userID)
	if err != nil {
		return nil, nil, err
	}
	moves, ok, err := r.membershipChanges(ctx, list, tokenRange{after, upto, maxMembershipChanges})
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return r.currentSharingChanges(ctx, userID, list, after)
	}
	var shared, whole []string // rooms of the user at the later token; rooms whose members at some time count, whoever moved
	came, gone := map[string]bool{}, map[string]bool{}
	for _, id := range changed {
		came[id] = true
	}
	for _, m := range list {
		s, room := moves.periodOf(m), moves[m.RoomID]
		if s.after {
			shared = append(shared, m.RoomID)
		}
		if s.before && !s.after || room.entered {
			whole = append(whole, m.RoomID)
		}
		for other, o := range room.users {
			if other == userID {
				continue
			}
			if s.before && o.before {
				gone[other] = true
			}
			if o.came {
				came[other] = true
			}
		}
	}
	stayed, err := r.memberships(ctx, "room_id = ANY($1) AND membership = $2", whole, event.MembershipJoin)
	if err != nil {
		return nil, nil, err
	}
	for _, m := range stayed {
		room := moves[m.RoomID]
		if _, moved := room.users[m.UserID]; moved || m.UserID == userID {
			continue
		}
		if own := room.users[userID]; own.before && !own.after { // who left has events
			gone[m.UserID] = true
		}
		if room.entered {
			came[m.UserID] = true
		}
	}
	mates, err := r.sharingAt(ctx, came, gone, shared, moves)
	if err != nil {
		return nil, nil, err
	}
	return sortedKeys(came, func(id string) bool { return mates[id] || id == userID }), sortedKeys(gone, func(id string) bool { return !mates[id] }), nil
}

// keys gives the members of a set that are wanted, sorted.
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

// matesAt tells which of some users are members of one of some rooms at the later token.
func (r *Rooms) sharingAt(ctx context.Context, a, b map[string]bool, shared []string, moves membershipChanges) (map[string]bool, error) {
	users := make([]string, 0, len(a)+len(b))
	for _, set := range []map[string]bool{a, b} {
		for id := range set {
			users = append(users, id)
		}
	}
	mates := map[string]bool{}
	if len(users) == 0 || len(shared) == 0 {
		return mates, nil
	}
	now, err := r.memberships(ctx, "user_id = ANY($1) AND room_id = ANY($2)", users, shared)
	for _, m := range now {
		mates[m.UserID] = mates[m.UserID] || moves.periodOf(m).after
	}
	return mates, err
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

// aboutMoved is SharedRoomChanges by what the memberships are now.
func (r *Rooms) currentSharingChanges(ctx context.Context, userID string, list []Membership, after []int64) (met, parted []string, err error) {
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
	mates, gone := map[string]bool{userID: true}, map[string]bool{}
	turned := map[string]bool{} // rooms where userID came or went, or may have
	for _, m := range own {
		from := after[r.stream.Shard(m.RoomID)]
		if turned[m.RoomID] = m.Pos > from; !turned[m.RoomID] {
			continue
		}
		then, err := r.MembersAt(ctx, m.RoomID, from)
		if err != nil {
			return nil, nil, err
		}
		if slices.Contains(then, userID) {
			for _, id := range then {
				gone[id] = true
			}
		}
	}
	for _, m := range all {
		switch is := m.Membership == event.MembershipJoin; {
		case is && own[m.RoomID].Membership == event.MembershipJoin:
			mates[m.UserID] = true
		case !is && !turned[m.RoomID] && m.Pos > after[r.stream.Shard(m.RoomID)]:
			gone[m.UserID] = true
		}
	}
	everyone := func(string) bool { return true }
	return sortedKeys(mates, everyone), sortedKeys(gone, func(id string) bool { return !mates[id] }), nil
}

// moves are the rooms with membership events after the first token.
type membershipChanges map[string]*roomMembershipChanges

// of gives a user's place: where no event says more, it is what it is now.
func (m membershipChanges) periodOf(now Membership) membershipPeriod {
	if room := m[now.RoomID]; room != nil {
		if s, moved := room.users[now.UserID]; moved {
			return s
		}
	}
	is := now.Membership == event.MembershipJoin
	return membershipPeriod{before: is, after: is}
}

// between are the positions of two tokens, and how many events may be read.
type tokenRange struct {
	after, upto []int64
	most        int
}

// moves reads the membership events of a user's rooms after the first token; not ok when there are too many. What happened
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
	events, err := r.query(ctx, r.Process.DB, "e.type = $1 AND e.state_key IS NOT NULL AND ("+strings.Join(where, " OR ")+") ORDER BY e.room_id, e.pos LIMIT $2", args...)
	if err != nil || len(events) > b.most {
		return nil, false, err
	}
	for _, e := range events { // what was at the first token, of all
		room := out[e.RoomID].users
		if _, seen := room[*e.StateKey]; !seen {
			before, _ := matrix.LookupString(e.PrevContent, "membership")
			was := before == event.MembershipJoin
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

// take follows an event between the tokens; own tells in which rooms the one who asks is.
func (m *roomMembershipChanges) applyEvent(e *Event, userID string, own map[string]bool) {
	who, is := *e.StateKey, e.Membership() == event.MembershipJoin
	s := m.users[who]
	came := is && !s.now
	s.now, s.after = is, is
	s.came = s.came || came && own[e.RoomID]
	m.users[who] = s
	if who != userID {
		return
	}
	own[e.RoomID] = is
	if !came {
		return
	}
	m.entered = true
	for id, other := range m.users {
		other.came = other.came || other.now
		m.users[id] = other
	}
}
