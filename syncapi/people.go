package syncapi

import (
	"context"
	"encoding/json"
	"slices"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/obs"
	"lyceum/presence"
	"lyceum/rooms"
)

// people is what is new of others: whose devices changed, who came to share a room with the user and who
// shares none any more.
type people struct{ changed, left, came users }

// people finds what device_lists tells (client-server API, "End-to-end encryption", "Extensions to /sync").
func (q *query) people(ctx context.Context) (p people, err error) {
	if q.initial {
		return p, nil
	}
	if p.changed, err = q.changedDevices(ctx); err != nil {
		return p, err
	}
	if err := q.moves(ctx, &p); err != nil {
		return p, err
	}
	for id := range p.came {
		p.changed.add(id)
	}
	return p, nil
}

// users is a set of users, nil when there are none, as in most answers.
type users map[string]bool

func (u *users) add(id string) {
	if *u == nil {
		*u = users{}
	}
	(*u)[id] = true
}

func (p people) write(w *writer) {
	if len(p.changed)+len(p.left) == 0 {
		return
	}
	w.key("device_lists")
	w.open('{')
	for _, part := range []struct {
		name string
		set  map[string]bool
	}{{"changed", p.changed}, {"left", p.left}} {
		if len(part.set) > 0 {
			w.key(part.name)
			w.b = matrix.AppendStrings(w.b, sorted(part.set))
		}
	}
	w.close('}')
}

func sorted(set map[string]bool) []string {
	list := make([]string, 0, len(set))
	for id := range set {
		list = append(list, id)
	}
	slices.Sort(list)
	return list
}

func (q *query) changedDevices(ctx context.Context) (users, error) {
	st := q.s.Devices.DeviceListStream()
	var ids []string
	var after, upto [presenceShards]int64
	stale, any := false, false
	q.s.mu.RLock()
	for shard := range st.Shards() {
		from, to := q.since[deviceListsAt+shard], q.now[deviceListsAt+shard]
		after[shard], upto[shard] = from, to
		if from >= to {
			continue
		}
		any = true
		rows, ok := q.s.devices.since(shard, from, to)
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

// moves finds who came to rooms of the user, or went, and what the user's own comings and goings mean. Those went who shared
// a room with the user at the token, or came to one while the user was in it, and share none any more.
func (q *query) moves(ctx context.Context, p *people) error {
	var gone users
	for _, in := range q.places {
		if err := q.movesIn(ctx, in, p, &gone); err != nil {
			return err
		}
	}
	if len(gone) == 0 {
		return nil
	}
	shared, err := q.s.sharing(ctx, q.user, sorted(gone))
	if err != nil {
		return err
	}
	for id := range gone {
		if !shared[id] {
			p.left.add(id)
			delete(p.came, id)
			delete(p.changed, id)
		}
	}
	return nil
}

// movesIn is moves in one room. Those who may have gone are added to gone.
func (q *query) movesIn(ctx context.Context, in placeIn, p *people, gone *users) error {
	joined := in.membership == event.MembershipJoin
	since := q.since[eventsAt+q.s.Rooms.Stream().Shard(in.room)]
	if !joined {
		if !q.isNew(in.room, in.place) {
			return nil
		}
		if end, _, err := q.ended(ctx, in.place, since); err != nil || end == nil {
			return err
		}
	}
	members, err := q.memberEvents(ctx, in.room)
	if err != nil || joined && len(members) == 0 {
		return err
	}
	own := func(e *rooms.Event) bool { return *e.StateKey == q.user.id && moved(e) }
	member := true // the user, at the event that is looked at
	// Else the user stayed and all events are there, so that they tell everything.
	turned := !joined || len(members) >= q.s.maxMoves || slices.ContainsFunc(members, own)
	if turned {
		if member, err = q.turned(ctx, in, p, gone); err != nil {
			return err
		}
	}
	for _, e := range members {
		who, is := *e.StateKey, e.Membership() == event.MembershipJoin
		switch {
		case who == q.user.id:
			member = is
		case !member || !moved(e):
		case !is:
			gone.add(who)
		default:
			p.came.add(who)
			if turned { // and may have gone while the user was away
				gone.add(who)
			}
		}
	}
	return nil
}

// moved tells that a membership event let somebody in or out.
func moved(e *rooms.Event) bool {
	return (e.Membership() == event.MembershipJoin) != (membershipOf(e.PrevContent) == event.MembershipJoin)
}

// turned takes the members of a room where the user came or went, and tells whether the user was one at the token: those
// of then may have gone, and those of now came.
func (q *query) turned(ctx context.Context, in placeIn, p *people, gone *users) (member bool, err error) {
	since := q.since[eventsAt+q.s.Rooms.Stream().Shard(in.room)]
	if member, _, err = q.joinedAt(ctx, in.room, in.place, since); err != nil {
		return false, err
	}
	var then users
	if member {
		list, err := q.s.Rooms.MembersAt(ctx, in.room, since)
		if err != nil {
			return false, err
		}
		for _, id := range list {
			then.add(id)
		}
		delete(then, q.user.id)
	}
	if in.membership == event.MembershipJoin {
		list, err := q.s.Rooms.Members(ctx, in.room, event.MembershipJoin)
		if err != nil {
			return false, err
		}
		for _, m := range list {
			if m.UserID != q.user.id {
				p.came.add(m.UserID)
				delete(then, m.UserID)
			}
		}
	}
	for id := range then {
		gone.add(id)
	}
	return member, nil
}

// memberEvents gives the new membership events of a room, the oldest ones when they are too many to be read.
func (q *query) memberEvents(ctx context.Context, roomID string) (out []*rooms.Event, err error) {
	shard := q.s.Rooms.Stream().Shard(roomID)
	after, upto := q.since[eventsAt+shard], q.now[eventsAt+shard]
	if after >= upto {
		return nil, nil
	}
	q.s.mu.RLock()
	changed := q.s.events.changed(shard, roomID, after)
	rows, ok := q.s.events.since(shard, roomID, after, upto)
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
		RoomID: roomID, From: after, To: upto + 1, Limit: q.s.maxMoves, Members: true,
	})
}

const presenceShards = presence.Shards

// presence writes the presence of people who share a room with the user: at first of those who are there,
// then what changed, and of those who came to share a room. own says that there is nobody's but the user's.
func (q *query) presence(ctx context.Context, w *writer, came map[string]bool) (own bool, err error) {
	f := &q.filter.Presence
	if !f.typed("m.presence") {
		return false, nil
	}
	list, err := q.statuses(ctx, came)
	if err != nil {
		return false, err
	}
	own = true
	var events []json.RawMessage
	for _, p := range list {
		if q.ignored[p.UserID] || !f.passes("m.presence", p.UserID, "") {
			continue
		}
		own = own && p.UserID == q.user.id
		b := append([]byte(`{"type":"m.presence","sender":`), matrix.AppendString(nil, p.UserID)...)
		b = append(b, `,"content":`...)
		b = append(b, q.s.Presence.Content(p, obs.Now())...)
		events = append(events, append(b, '}'))
	}
	if len(events) > 0 {
		w.raws("presence", events)
	}
	return own, nil
}

func (q *query) statuses(ctx context.Context, came map[string]bool) ([]*presence.Status, error) {
	var newest map[string]*presence.Status
	known := true
	if !q.initial {
		q.s.mu.RLock()
		for shard := range presenceShards {
			after, upto := q.since[presenceAt+shard], q.now[presenceAt+shard]
			if after >= upto {
				continue
			}
			rows, ok := q.s.presence.since(shard, after, upto)
			known = known && ok
			if len(rows) > 0 && newest == nil {
				newest = map[string]*presence.Status{}
			}
			for _, r := range rows {
				newest[r.value.UserID] = r.value
			}
		}
		q.s.mu.RUnlock()
	}
	if q.initial || !known {
		return q.allStatuses(ctx, came)
	}
	var out []*presence.Status
	if len(newest) > 0 {
		ids := make([]string, 0, len(newest))
		for id := range newest {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		shared, err := q.s.sharing(ctx, q.user, ids)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if shared[id] {
				out = append(out, newest[id])
			}
		}
	}
	var ask []string
	for id := range came {
		if newest[id] == nil {
			ask = append(ask, id)
		}
	}
	if len(ask) == 0 {
		return out, nil
	}
	list, err := q.s.Presence.ForUsers(ctx, ask)
	return append(out, list...), err
}

// allStatuses reads the presence of all who share a room, where memory does not reach back.
func (q *query) allStatuses(ctx context.Context, came map[string]bool) ([]*presence.Status, error) {
	mates, err := q.s.Rooms.UsersSharingRoom(ctx, q.user.id)
	if err != nil {
		return nil, err
	}
	list, err := q.s.Presence.ForUsers(ctx, append(mates, q.user.id))
	st := q.s.Presence.Stream()
	return slices.DeleteFunc(list, func(p *presence.Status) bool {
		if q.initial {
			return p.Presence == presence.Offline
		}
		return !came[p.UserID] && p.Pos <= q.since[presenceAt+st.Shard(p.UserID)]
	}), err
}
