package syncapi

import (
	"context"
	"slices"

	"lyceum/devices"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms"
)

// deviceLists is what the client must know of the devices of other users.
type deviceLists struct {
	changed     userSet // whose devices changed
	left        userSet // who shares no room with the user any more
	nowSharing  userSet // who came to share a room with the user
	mayHaveLeft userSet // of whom left is found out
}

// readDeviceLists finds what "device_lists" has (client-server API, "End-to-end encryption", "Extensions to /sync").
func (q *query) readDeviceLists(ctx context.Context) (l deviceLists, err error) {
	if q.initial {
		return l, nil
	}
	if l.changed, err = q.changedDevices(ctx); err != nil {
		return l, err
	}
	if err := q.membershipChanges(ctx, &l); err != nil {
		return l, err
	}
	for id := range l.nowSharing {
		l.changed.add(id)
	}
	return l, nil
}

func (l *deviceLists) write(w *writer) {
	if len(l.changed)+len(l.left) == 0 {
		return
	}
	w.key("device_lists")
	w.open('{')
	if len(l.changed) > 0 {
		w.key("changed")
		w.b = matrix.AppendStrings(w.b, l.changed.sorted())
	}
	if len(l.left) > 0 {
		w.key("left")
		w.b = matrix.AppendStrings(w.b, l.left.sorted())
	}
	w.close('}')
}

// userSet is a set of user ids; nil when it is empty, as in most answers.
type userSet map[string]bool

func (u *userSet) add(id string) {
	if *u == nil {
		*u = userSet{}
	}
	(*u)[id] = true
}

func (u userSet) sorted() []string {
	list := make([]string, 0, len(u))
	for id := range u {
		list = append(list, id)
	}
	slices.Sort(list)
	return list
}

// changedDevices returns the users who share a room with the user and whose devices changed.
func (q *query) changedDevices(ctx context.Context) (userSet, error) {
	st := q.s.Devices.DeviceListStream()
	var ids []string
	var after, upto [devices.ListShards]int64
	stale, any := false, false
	q.s.mu.RLock()
	for shard := range st.Shards() {
		from, to := q.since[deviceListsAt+shard], q.upto[deviceListsAt+shard]
		after[shard], upto[shard] = from, to
		if from >= to {
			continue
		}
		any = true
		rows, ok := q.s.devices.between(shard, from, to)
		stale = stale || !ok
		for _, r := range rows {
			if r.value.For(q.user.id) {
				ids = append(ids, r.value.UserID)
			}
		}
	}
	q.s.mu.RUnlock()
	if !any {
		return nil, nil
	}
	if stale {
		var err error
		if ids, err = q.s.Devices.ChangedUsers(ctx, q.user.id, after[:], upto[:]); err != nil {
			return nil, err
		}
	}
	return q.s.sharing(ctx, q.user, ids)
}

// membershipChanges finds who joined or left rooms of the user, and what it means when the user joined or left a room. A user has left
// who shared a room with the user at the token, or joined one while the user was in it, and shares none now.
func (q *query) membershipChanges(ctx context.Context, l *deviceLists) error {
	for _, c := range q.candidates {
		if err := q.membershipChangesIn(ctx, c, l); err != nil {
			return err
		}
	}
	if len(l.mayHaveLeft) == 0 {
		return nil
	}
	shared, err := q.s.sharing(ctx, q.user, l.mayHaveLeft.sorted())
	if err != nil {
		return err
	}
	for id := range l.mayHaveLeft {
		if !shared[id] {
			l.left.add(id)
			delete(l.nowSharing, id)
			delete(l.changed, id)
		}
	}
	return nil
}

// membershipChangesIn adds the membership changes in one room.
func (q *query) membershipChangesIn(ctx context.Context, c candidateRoom, l *deviceLists) error {
	joined := c.membership == event.MembershipJoin
	since := q.since[eventsAt+q.s.Rooms.Stream().Shard(c.room)]
	if !joined {
		if !q.isNew(c) {
			return nil
		}
		if end, _, err := q.membershipEnd(ctx, c.roomMembership, since); err != nil || end == nil {
			return err
		}
	}
	members, err := q.memberEvents(ctx, c.room)
	if err != nil || joined && len(members) == 0 {
		return err
	}
	own := func(e *rooms.Event) bool { return *e.StateKey == q.user.id && changesJoined(e) }
	isMember := true // whether the user is a member at the event of the loop
	// When the user stayed and all membership events were read, these alone say who joined and left. Else the members are compared.
	compare := !joined || len(members) >= q.s.maxMemberEvents || slices.ContainsFunc(members, own)
	if compare {
		if isMember, err = q.compareMembers(ctx, c, l); err != nil {
			return err
		}
	}
	for _, e := range members {
		who, joins := *e.StateKey, e.Membership() == event.MembershipJoin
		switch {
		case who == q.user.id:
			isMember = joins
		case !isMember || !changesJoined(e):
		case !joins:
			l.mayHaveLeft.add(who)
		default:
			l.nowSharing.add(who)
			if compare { // who may have left again while the user was away
				l.mayHaveLeft.add(who)
			}
		}
	}
	return nil
}

// changesJoined reports whether a membership event is a join of a user who was not joined, or the end of that.
func changesJoined(e *rooms.Event) bool {
	return (e.Membership() == event.MembershipJoin) != (e.PrevMembership() == event.MembershipJoin)
}

// compareMembers compares the members of a room at the token with those of now, and reports whether the user was a member at the token.
func (q *query) compareMembers(ctx context.Context, c candidateRoom, l *deviceLists) (wasMember bool, err error) {
	since := q.since[eventsAt+q.s.Rooms.Stream().Shard(c.room)]
	if wasMember, _, err = q.joinedAt(ctx, c, since); err != nil {
		return false, err
	}
	var then userSet
	if wasMember {
		list, err := q.s.Rooms.MembersAt(ctx, c.room, since)
		if err != nil {
			return false, err
		}
		for _, id := range list {
			then.add(id)
		}
		delete(then, q.user.id)
	}
	if c.membership == event.MembershipJoin {
		list, err := q.s.Rooms.Members(ctx, c.room, event.MembershipJoin)
		if err != nil {
			return false, err
		}
		for _, m := range list {
			if m.UserID != q.user.id {
				l.nowSharing.add(m.UserID)
				delete(then, m.UserID)
			}
		}
	}
	for id := range then {
		l.mayHaveLeft.add(id)
	}
	return wasMember, nil
}

// memberEvents returns the new membership events of a room, the oldest ones when there are more than maxMemberEvents.
func (q *query) memberEvents(ctx context.Context, roomID string) (out []*rooms.Event, err error) {
	shard := q.s.Rooms.Stream().Shard(roomID)
	after, upto := q.since[eventsAt+shard], q.upto[eventsAt+shard]
	if after >= upto {
		return nil, nil
	}
	q.s.mu.RLock()
	changed := q.s.events.hasAfter(shard, roomID, after)
	rows, ok := q.s.events.between(shard, roomID, after, upto)
	for _, r := range rows {
		if r.value.IsState() && r.value.Type == event.TypeMember {
			out = append(out, r.value)
		}
	}
	q.s.mu.RUnlock()
	if ok || !changed {
		return out, nil
	}
	return q.s.Rooms.Timeline(ctx, rooms.Page{
		RoomID: roomID, From: after, To: upto + 1, Limit: q.s.maxMemberEvents, Members: true,
	})
}
