package syncapi

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// section is what the client gets of the events of a room.
type section struct {
	*timeline
	state   []*rooms.Event
	more    []string // ids of state events besides, which are read as they are written: there are many, or they are large
	summary *summary // nil when it is the same as before
	who     rooms.Audience
}

type summary struct {
	heroes          []string
	joined, invited int
}

// want says which part of a room's events is asked for.
type want struct {
	span
	fresh  bool // the client knows nothing of the room
	people bool // with the summary
}

// joinedAt tells whether the user was joined at a position. checked says that the answer was looked up, so
// the user may have been away in between.
func (q *query) joinedAt(ctx context.Context, roomID string, p *place, pos int64) (was, checked bool, err error) {
	switch {
	case p.joined > 0 && pos >= p.joined, p.joined < 0 && pos >= -p.joined, p.joined == 0 && pos >= p.pos:
		return p.membership == event.MembershipJoin, false, nil
	}
	id := p.eventID
	for n := 0; id != "" && n < 3; n++ { // most often these are in memory
		e, err := q.s.Rooms.Event(ctx, id)
		if err != nil {
			return false, true, err
		}
		if e == nil {
			break
		}
		if e.Pos <= pos {
			return e.Membership() == event.MembershipJoin, true, nil
		}
		if id = e.Replaces; id == "" {
			return false, true, nil
		}
	}
	root, err := q.rootAt(ctx, roomID, pos)
	if err != nil {
		return false, true, err
	}
	key := state.Key{Type: event.TypeMember, StateKey: q.user.id}
	found, err := q.s.Rooms.StateEvents(ctx, root, key)
	if err != nil {
		return false, true, err
	}
	m := found[key]
	return m != nil && m.Membership() == event.MembershipJoin, true, nil
}

// joinedRoom writes the section of a room that the user is in, unless it has no news.
func (q *query) joinedRoom(ctx context.Context, w *writer, roomID string, p *place) error {
	shard := q.s.Rooms.Stream().Shard(roomID)
	ask := want{
		span: span{
			roomID: roomID,
			shard:  shard,
			after:  q.since[eventsAt+shard],
			upto:   q.now[eventsAt+shard],
			limit:  q.filter.timelineLimit(),
			since:  p.since(),
		},
		fresh:  q.initial,
		people: true,
	}
	ask.see = q.initial
	switch {
	case q.anew:
		ask.fresh, ask.see = true, true
	case !q.initial && ask.after < ask.upto:
		was, looked, err := q.joinedAt(ctx, roomID, p, ask.after)
		if err != nil {
			return err
		}
		ask.fresh, ask.see = !was, !was || looked
	}
	news := ask.fresh || q.fullState || q.changedEvents(ask.span)
	ephemeral, read, err := q.ephemeral(ctx, roomID, ask.fresh)
	if err != nil {
		return err
	}
	data := q.roomData[roomID]
	if ask.fresh && !q.initial {
		if data, err = q.allRoomData(ctx, roomID); err != nil {
			return err
		}
	}
	rest := len(ephemeral) > 0 || len(data) > 0 || read
	if !news && !rest {
		return nil
	}
	sec := section{timeline: &timeline{prev: ask.upto}}
	if news {
		if sec, err = q.section(ctx, ask); err != nil {
			return err
		}
		if !ask.fresh && !q.fullState && !rest && len(sec.events) == 0 && len(sec.state)+len(sec.more) == 0 && !sec.limited {
			return nil
		}
	}
	sec.who = rooms.Audience{UserID: q.user.id, RoomID: roomID, Since: p.since()}
	w.key(roomID)
	w.open('{')
	if err := q.writeSection(ctx, w, sec); err != nil {
		return err
	}
	w.summary(sec.summary)
	w.raws("ephemeral", ephemeral)
	w.data(data)
	if err := q.writeCounts(ctx, w, roomID); err != nil {
		return err
	}
	w.close('}')
	return nil
}

func (q *query) changedEvents(sp span) bool {
	if sp.after >= sp.upto {
		return false
	}
	q.s.mu.RLock()
	defer q.s.mu.RUnlock()
	return q.s.events.changed(sp.shard, sp.roomID, sp.after)
}

// section reads timeline, state and summary.
func (q *query) section(ctx context.Context, ask want) (section, error) {
	sp, sec := ask.span, section{}
	if ask.fresh {
		sp.after = 0
	}
	t, err := q.readTimeline(ctx, sp)
	if err != nil {
		return sec, err
	}
	sec.timeline = t
	var from state.ID // of what the client has; the zero state when it has nothing
	var had state.ID  // what a client that asks for everything has nevertheless
	whole := ask.fresh || q.fullState
	if q.anew { // the client may have any part of it
		t.limited = true
	} else if !q.initial {
		known, err := q.known(ctx, ask.span, t)
		if err != nil {
			return sec, err
		}
		switch {
		case !whole:
			from = known
		case !ask.fresh:
			had = known
		case known != (state.ID{}): // the room is older than the client's token
			t.limited = true
		}
	}
	ids, changed, err := q.changes(ctx, t, from)
	if err != nil {
		return sec, err
	}
	var people bool
	if ids, people = q.sift(changed, ids, t, whole); people && ask.people {
		h := rooms.Head{RoomID: ask.roomID, Root: t.upto}
		sum := &summary{}
		if sum.heroes, sum.joined, sum.invited, err = q.s.Rooms.RoomSummary(ctx, h, q.user.id); err != nil {
			return sec, err
		}
		sec.summary = sum
	}
	if q.filter.Room.State.LazyLoadMembers {
		if had != (state.ID{}) {
			if err := q.moved(ctx, t, had, ids); err != nil {
				return sec, err
			}
		}
		if ids, err = q.lazyMembers(ctx, ask, sec, ids, whole); err != nil {
			return sec, err
		}
	}
	if len(ids) > stateAtOnce {
		for _, id := range ids {
			sec.more = append(sec.more, id)
		}
		slices.Sort(sec.more)
		return sec, q.weigh(ctx, heavyBytes)
	}
	if sec.state, err = q.stateEvents(ctx, ids); err == nil && q.out != nil {
		sec.letGo()
	}
	return sec, err
}

// letGo lets go what can be read again as it is written: the client may be waited for long.
func (sec *section) letGo() {
	for _, e := range sec.state {
		sec.more = append(sec.more, e.ID)
	}
	sec.state, sec.all = nil, nil
}

// stateAtOnce is how many state events are in hand besides their texts in the answer.
const stateAtOnce = 200

// known is the state that the client has at the start of a span.
func (q *query) known(ctx context.Context, sp span, t *timeline) (state.ID, error) {
	if !t.limited && len(t.all) > 0 && t.all[0].Pos > sp.after && !t.all[0].IsState() {
		return t.all[0].Root, nil
	}
	return q.rootAt(ctx, sp.roomID, sp.after)
}

// changes gives the events that lead from a state to that which the client needs beside the timeline, and
// the keys that changed up to the end of the timeline. In "state" that is the state before the timeline,
// with what changed behind its start in events that the client does not get.
func (q *query) changes(ctx context.Context, t *timeline, from state.ID) (ids map[state.Key]string, changed []state.Change, err error) {
	ids = map[state.Key]string{}
	if from == t.upto {
		return ids, nil, nil
	}
	if changed, err = q.s.Rooms.Tree(t.upto).Diff(ctx, q.s.Rooms.Tree(from)); err != nil {
		return nil, nil, err
	}
	first := changed
	if !q.stateAfter && t.before != t.upto {
		if first, err = q.s.Rooms.Tree(t.before).Diff(ctx, q.s.Rooms.Tree(from)); err != nil {
			return nil, nil, err
		}
	}
	for _, c := range first {
		if c.New != "" {
			ids[c.Key] = c.New
		}
	}
	maps.Copy(ids, t.later)
	return ids, changed, nil
}

// sift leaves out the memberships that are read lazily, and tells whether the summary may be another.
func (q *query) sift(changed []state.Change, ids map[state.Key]string, t *timeline, whole bool) (map[state.Key]string, bool) {
	people := whole
	for _, c := range changed {
		switch c.Type {
		case event.TypeMember, event.TypeName, event.TypeCanonicalAlias:
			people = true
		}
	}
	if q.filter.Room.State.LazyLoadMembers && whole {
		for k := range ids {
			if k.Type == event.TypeMember {
				delete(ids, k)
			}
		}
	}
	return ids, people
}

// moved adds the memberships that changed after a state that the client has: who left must not stay a member there.
func (q *query) moved(ctx context.Context, t *timeline, had state.ID, ids map[state.Key]string) error {
	since, _, err := q.changes(ctx, t, had)
	for k, id := range since {
		if k.Type == event.TypeMember {
			ids[k] = id
		}
	}
	return err
}

// lazyMembers adds the memberships of those who wrote in the timeline, of the heroes, and of the user when
// the room is new, as far as the device has not been given them (client-server API, "Lazy-loading room
// members").
func (q *query) lazyMembers(
	ctx context.Context,
	ask want,
	sec section,
	ids map[state.Key]string,
	whole bool,
) (map[state.Key]string, error) {
	root := sec.before
	if q.stateAfter {
		root = sec.upto
	}
	tree := q.s.Rooms.Tree(root)
	need := map[string]bool{}
	if whole {
		need[q.user.id] = true
	}
	if sec.summary != nil {
		for _, hero := range sec.summary.heroes {
			need[hero] = true
		}
	}
	brings := map[string]string{} // memberships that the timeline itself brings
	for _, e := range sec.events {
		if e.IsState() && e.Type == event.TypeMember {
			brings[*e.StateKey] = e.ID
		}
		if q.stateAfter || brings[e.Sender] == "" {
			need[e.Sender] = true
		}
	}
	redundant := q.filter.Room.State.IncludeRedundantMembers
	for member := range need {
		key := state.Key{Type: event.TypeMember, StateKey: member}
		if ids[key] != "" {
			continue
		}
		id := sec.later[key]
		if id == "" {
			var err error
			if id, err = tree.Get(ctx, key); err != nil {
				return nil, err
			}
		}
		if id != "" && (whole || redundant || !q.has.has(q.s.lazy.given(ask.roomID, member, id))) {
			ids[key] = id
		}
	}
	for k, id := range ids {
		if k.Type == event.TypeMember {
			q.give(ask.roomID, k.StateKey, id)
		}
	}
	if !q.stateAfter {
		for member, id := range brings {
			q.give(ask.roomID, member, id)
		}
	}
	return ids, nil
}

func (q *query) give(roomID, member, eventID string) {
	q.gives = append(q.gives, q.s.lazy.given(roomID, member, eventID))
}

// stateEvents reads the events of a state section, by type and state key.
func (q *query) stateEvents(ctx context.Context, ids map[state.Key]string) ([]*rooms.Event, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	list := make([]string, 0, len(ids))
	for _, id := range ids {
		list = append(list, id)
	}
	found, err := q.s.Rooms.Events(ctx, list)
	if err != nil {
		return nil, err
	}
	out := make([]*rooms.Event, 0, len(list))
	for _, e := range found {
		if q.filter.Room.State.event(e) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *rooms.Event) int { return int(a.Pos - b.Pos) })
	return out, nil
}

// writeSection writes timeline and state. Both are there also when they are empty: clients read them without looking.
func (q *query) writeSection(ctx context.Context, w *writer, sec section) error {
	w.key("timeline")
	w.open('{')
	w.key("events")
	w.open('[')
	for i, e := range sec.events {
		v := rooms.ClientOptions{Membership: event.MembershipJoin, Extra: sec.extras[e.ID]}
		if sec.sights != nil {
			v.Membership, v.Erased, v.PrevHidden = sec.sights[i].Membership, sec.sights[i].Erased, sec.sights[i].PrevHidden
		}
		w.sep()
		q.writeEvent(w, e, v)
	}
	w.close(']')
	w.key("limited")
	w.b = strconv.AppendBool(w.b, sec.limited)
	w.key("prev_batch")
	w.string(rooms.PositionToken(sec.prev))
	w.close('}')
	sec.events, sec.extras = nil, nil // they are written, and the client may be waited for long
	return q.writeState(ctx, w, sec)
}

// summary writes the summary of a room, {} for one that is the same as before.
func (w *writer) summary(sum *summary) {
	w.key("summary")
	w.open('{')
	if sum != nil {
		if len(sum.heroes) > 0 {
			w.key("m.heroes")
			w.b = matrix.AppendStrings(w.b, sum.heroes)
		}
		w.key("m.joined_member_count")
		w.b = strconv.AppendInt(w.b, int64(sum.joined), 10)
		w.key("m.invited_member_count")
		w.b = strconv.AppendInt(w.b, int64(sum.invited), 10)
	}
	w.close('}')
}

// writeEvent writes an event as the device gets it. Who shares nothing with others' texts gets an own one.
func (q *query) writeEvent(w *writer, e *rooms.Event, v rooms.ClientOptions) {
	if e.Sender == q.user.id {
		v.Device = q.sender
	}
	at := len(w.b)
	w.b = e.AppendClient(w.b, v)
	if q.filter.EventFields != nil {
		w.b = append(w.b[:at], pick(w.b[at:], q.filter.EventFields)...)
	}
}

// writeCounts writes the unread counts of a room.
func (q *query) writeCounts(ctx context.Context, w *writer, roomID string) error {
	counts, err := q.s.Push.Unread(ctx, q.user.id, roomID)
	if err != nil {
		return err
	}
	notify, highlight := counts.Notify, counts.Highlight
	threads := q.filter.Room.Timeline.UnreadThreadNotifications
	if !threads {
		for _, c := range counts.Threads {
			notify += c.Notify
			highlight += c.Highlight
		}
	}
	pair := func(notify, highlight int) {
		w.open('{')
		w.key("notification_count")
		w.b = strconv.AppendInt(w.b, int64(notify), 10)
		w.key("highlight_count")
		w.b = strconv.AppendInt(w.b, int64(highlight), 10)
		w.close('}')
	}
	w.key("unread_notifications")
	pair(notify, highlight)
	if threads && len(counts.Threads) > 0 {
		w.key("unread_thread_notifications")
		w.open('{')
		for id, c := range counts.Threads {
			w.key(id)
			pair(c.Notify, c.Highlight)
		}
		w.close('}')
	}
	return nil
}

// strippedRoom writes an invite or a knock.
func (q *query) strippedRoom(ctx context.Context, w *writer, roomID string, p *place, name string) error {
	root, err := q.rootAt(ctx, roomID, p.pos)
	if err != nil {
		return err
	}
	members := []string{q.user.id}
	if p.sender != q.user.id {
		members = append(members, p.sender)
	}
	events, err := q.s.Rooms.StrippedState(ctx, root, members...)
	if err != nil {
		return err
	}
	w.key(roomID)
	w.open('{')
	w.raws(name, events)
	w.close('}')
	return nil
}
