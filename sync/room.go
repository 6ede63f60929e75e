package sync

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// span is a part of a room's events: after < position <= upto.
type span struct {
	roomID      string
	shard       int
	after, upto int64
}

// timeline is the newest part of a span.
type timeline struct {
	events  []*rooms.Event // in order
	limited bool           // older ones of the span were left out
	// before is the state before the first event; upto the state after the last.
	before, upto state.ID
	prev         int64 // position before the first event
}

// readTimeline gives the newest events of a span that pass the filter.
func (q *query) readTimeline(ctx context.Context, sp span, whole bool) (*timeline, error) {
	limit := q.filter.timelineLimit()
	if !whole {
		q.s.mu.RLock()
		rows, ok := q.s.events.since(sp.shard, sp.roomID, sp.after, sp.upto)
		list := make([]*rooms.Event, len(rows))
		for i, r := range rows {
			list[i] = r.value
		}
		q.s.mu.RUnlock()
		if ok || len(list) > limit {
			return q.cut(ctx, sp, list, limit)
		}
	}
	// The window does not reach back so far.
	page := rooms.Page{RoomID: sp.roomID, From: sp.upto + 1, To: sp.after, Backward: true, Limit: limit + 1}
	var list []*rooms.Event
	for {
		part, err := q.s.Rooms.Timeline(ctx, page)
		if err != nil {
			return nil, err
		}
		list = append(list, part...)
		passed := 0
		for _, e := range list {
			if q.filter.Room.Timeline.event(e) {
				passed++
			}
		}
		if len(part) < page.Limit || passed > limit || len(list) > 10*limit+200 {
			break
		}
		page.From, page.Limit = part[len(part)-1].Pos, 2*page.Limit
	}
	slices.Reverse(list)
	return q.cut(ctx, sp, list, limit)
}

// cut keeps the newest events that pass the filter, at most limit.
func (q *query) cut(ctx context.Context, sp span, all []*rooms.Event, limit int) (*timeline, error) {
	t := &timeline{prev: sp.after}
	if len(all) == 0 {
		root, err := q.rootAt(ctx, sp.roomID, sp.upto)
		t.before, t.upto = root, root
		return t, err
	}
	t.upto = all[len(all)-1].Root
	first := 0
	for i := len(all) - 1; i >= 0; i-- {
		if !q.filter.Room.Timeline.event(all[i]) || q.ignored[all[i].Sender] && !all[i].IsState() {
			continue
		}
		if len(t.events) == limit {
			t.limited, first = true, i+1
			break
		}
		t.events = append(t.events, all[i])
	}
	slices.Reverse(t.events)
	begin := all[first]
	t.prev = begin.Pos - 1
	if !begin.IsState() {
		t.before = begin.Root // it changed no state
		return t, nil
	}
	if first > 0 {
		t.before = all[first-1].Root
		return t, nil
	}
	var err error
	t.before, err = q.rootAt(ctx, sp.roomID, begin.Pos-1)
	return t, err
}

// rootAt is the state of a room at a position.
func (q *query) rootAt(ctx context.Context, roomID string, pos int64) (state.ID, error) {
	q.s.mu.RLock()
	e, ok := q.s.events.at(roomID, pos)
	q.s.mu.RUnlock()
	if ok {
		return e.Root, nil
	}
	list, err := q.s.Rooms.Timeline(ctx, rooms.Page{RoomID: roomID, From: pos + 1, Backward: true, Limit: 1})
	if err != nil || len(list) == 0 {
		return state.ID{}, err
	}
	return list[0].Root, nil
}

// joinedAt tells whether the user was joined at a position. checked says that the answer was looked up, so
// the user may have been away in between.
func (q *query) joinedAt(ctx context.Context, roomID string, p place, pos int64) (was, checked bool, err error) {
	switch {
	case p.joined > 0:
		return p.joined <= pos, false, nil
	case p.joined < 0 && pos >= -p.joined, p.joined == 0 && pos >= p.pos:
		return p.membership == event.MembershipJoin, false, nil
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

// stateFor gives the state events that the client needs beside the timeline: all of the state when from is
// the empty state, else what changed.
func (q *query) stateFor(ctx context.Context, roomID string, from, to state.ID, t *timeline, initial bool) ([]*rooms.Event, error) {
	var changed []string
	f := &q.filter.Room.State
	lazy := f.LazyLoadMembers
	if from != to {
		changes, err := q.s.Rooms.Tree(to).Diff(ctx, q.s.Rooms.Tree(from))
		if err != nil {
			return nil, err
		}
		for _, c := range changes {
			if c.New == "" || lazy && c.Type == event.TypeMember && (initial || c.StateKey != q.user.id) {
				continue
			}
			changed = append(changed, c.New)
		}
	}
	if lazy {
		members, err := q.lazyMembers(ctx, roomID, to, t, initial)
		if err != nil {
			return nil, err
		}
		for _, id := range members {
			if !slices.Contains(changed, id) {
				changed = append(changed, id)
			}
		}
	}
	if len(changed) == 0 {
		return nil, nil
	}
	events, err := q.s.Rooms.Events(ctx, changed)
	if err != nil {
		return nil, err
	}
	out := make([]*rooms.Event, 0, len(changed))
	for _, id := range changed {
		if e := events[id]; e != nil && f.event(e) {
			out = append(out, e)
		}
	}
	return out, nil
}

// lazyMembers are the member events of those who wrote in the timeline, and of the user at first, that the
// device has not been given.
func (q *query) lazyMembers(ctx context.Context, roomID string, root state.ID, t *timeline, initial bool) ([]string, error) {
	tree := q.s.Rooms.Tree(root)
	device := q.user.id + "\x00" + q.device
	var out []string
	need := map[string]bool{}
	if initial {
		need[q.user.id] = true
	}
	inTimeline := map[string]bool{}
	for _, e := range t.events {
		need[e.Sender] = true
		if e.Is(event.TypeMember, e.Sender) {
			inTimeline[e.Sender] = true
		}
	}
	for member := range need {
		id, err := tree.Get(ctx, state.Key{Type: event.TypeMember, StateKey: member})
		if err != nil {
			return nil, err
		}
		if id == "" || inTimeline[member] {
			continue
		}
		if q.s.lazy.sent(device, roomID, member, id) && !q.filter.Room.State.IncludeRedundantMembers && !initial {
			continue
		}
		out = append(out, id)
	}
	return out, nil
}

// joinedRoom writes the section of a room that the user is in; written is false when it has no news.
func (q *query) joinedRoom(ctx context.Context, w *writer, roomID string, p place) (written bool, err error) {
	shard := q.s.Rooms.Stream().Shard(roomID)
	sp := span{roomID, shard, q.since[eventsAt+shard], q.now[eventsAt+shard]}
	initial, checked := q.initial, false
	if !initial {
		was, looked, err := q.joinedAt(ctx, roomID, p, sp.after)
		if err != nil {
			return false, err
		}
		initial, checked = !was, looked
	}
	hasEvents := initial || q.fullState || q.changedEvents(sp)
	ephemeral, err := q.ephemeral(ctx, roomID, initial)
	if err != nil {
		return false, err
	}
	if !hasEvents && len(ephemeral) == 0 && len(q.roomData[roomID]) == 0 {
		return false, nil
	}
	t := &timeline{prev: sp.after}
	var stateEvents []*rooms.Event
	stateName := "state"
	if hasEvents {
		if t, stateEvents, err = q.roomEvents(ctx, sp, initial, checked); err != nil {
			return false, err
		}
		if q.stateAfter {
			stateName = "state_after"
		}
	}
	if !initial && !q.fullState && len(t.events) == 0 && len(stateEvents) == 0 && len(ephemeral) == 0 && len(q.roomData[roomID]) == 0 {
		return false, nil
	}
	w.key(roomID)
	w.open('{')
	if err := q.writeTimeline(ctx, w, t); err != nil {
		return false, err
	}
	w.events(stateName, stateEvents, q.view())
	w.raws("ephemeral", ephemeral)
	w.raws("account_data", q.roomData[roomID])
	if err := q.writeSummary(ctx, w, roomID, t, stateEvents, initial); err != nil {
		return false, err
	}
	if err := q.writeCounts(ctx, w, roomID); err != nil {
		return false, err
	}
	w.close('}')
	return true, nil
}

func (q *query) changedEvents(sp span) bool {
	q.s.mu.RLock()
	defer q.s.mu.RUnlock()
	return q.s.events.changed(sp.shard, sp.roomID, sp.after)
}

// roomEvents gives timeline and state of a joined or left room.
func (q *query) roomEvents(ctx context.Context, sp span, initial, checked bool) (*timeline, []*rooms.Event, error) {
	whole := sp
	if initial {
		whole.after = 0
	}
	t, err := q.readTimeline(ctx, whole, initial && !q.windowed(sp))
	if err != nil {
		return nil, nil, err
	}
	if initial || checked {
		visible, err := q.s.Rooms.CanSee(ctx, q.user.id, sp.roomID, t.events)
		if err != nil {
			return nil, nil, err
		}
		kept := t.events[:0:0]
		for i, e := range t.events {
			if visible[i] {
				kept = append(kept, e)
			}
		}
		t.events = kept
	}
	var from state.ID
	if !initial && !q.fullState {
		if from, err = q.rootAt(ctx, sp.roomID, sp.after); err != nil {
			return nil, nil, err
		}
	}
	to := t.before
	if q.stateAfter {
		to = t.upto
	}
	events, err := q.stateFor(ctx, sp.roomID, from, to, t, initial || q.fullState)
	return t, events, err
}

// windowed tells whether the newest events of a room are in memory, enough for a first timeline.
func (q *query) windowed(sp span) bool {
	q.s.mu.RLock()
	defer q.s.mu.RUnlock()
	rows, _ := q.s.events.since(sp.shard, sp.roomID, 0, sp.upto)
	return len(rows) > q.filter.timelineLimit()
}

func (q *query) writeTimeline(ctx context.Context, w *writer, t *timeline) error {
	if len(t.events) == 0 && !t.limited {
		return nil
	}
	bundles, err := q.bundles(ctx, t.events)
	if err != nil {
		return err
	}
	w.key("timeline")
	w.open('{')
	w.key("events")
	w.open('[')
	for _, e := range t.events {
		v := q.view()
		if b := bundles[e.ID]; b != nil {
			v.Extra = [][]byte{append([]byte(`"m.relations":`), b...)}
		}
		w.sep()
		w.b = e.AppendClient(w.b, v)
	}
	w.close(']')
	w.key("limited")
	w.b = strconv.AppendBool(w.b, t.limited)
	w.key("prev_batch")
	w.string(rooms.PositionToken(t.prev))
	w.close('}')
	return nil
}

// bundles reads the aggregations of those events that newer ones refer to. Events that came since this
// process listens are known to have none; older ones are looked up.
func (q *query) bundles(ctx context.Context, events []*rooms.Event) (map[string]json.RawMessage, error) {
	var ask []*rooms.Event
	q.s.mu.RLock()
	for _, e := range events {
		if _, has := q.s.related[e.ID]; has || e.Pos <= q.s.events.start[e.Shard] {
			ask = append(ask, e)
		}
	}
	q.s.mu.RUnlock()
	if len(ask) == 0 {
		return nil, nil
	}
	return q.s.Rooms.Bundle(ctx, q.user.id, ask)
}

// writeSummary writes heroes and counts of a room whose members changed.
func (q *query) writeSummary(ctx context.Context, w *writer, roomID string, t *timeline, stateEvents []*rooms.Event, initial bool) error {
	member := func(e *rooms.Event) bool { return e.IsState() && e.Type == event.TypeMember }
	if !initial && !slices.ContainsFunc(t.events, member) && !slices.ContainsFunc(stateEvents, member) {
		return nil
	}
	h, ok, err := q.s.Rooms.Head(ctx, roomID)
	if err != nil || !ok {
		return err
	}
	heroes, joined, invited, err := q.s.Rooms.RoomSummary(ctx, h, q.user.id)
	if err != nil {
		return err
	}
	w.key("summary")
	w.open('{')
	if len(heroes) > 0 {
		w.key("m.heroes")
		w.b = matrix.AppendStrings(w.b, heroes)
	}
	w.key("m.joined_member_count")
	w.b = strconv.AppendInt(w.b, int64(joined), 10)
	w.key("m.invited_member_count")
	w.b = strconv.AppendInt(w.b, int64(invited), 10)
	w.close('}')
	return nil
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

// leftRoom writes the section of a room that the user left since.
func (q *query) leftRoom(ctx context.Context, w *writer, roomID string, p place) error {
	shard := q.s.Rooms.Stream().Shard(roomID)
	sp := span{roomID, shard, q.since[eventsAt+shard], p.pos}
	t, events, err := q.roomEvents(ctx, sp, q.initial, true)
	if err != nil {
		return err
	}
	w.key(roomID)
	w.open('{')
	if err := q.writeTimeline(ctx, w, t); err != nil {
		return err
	}
	name := "state"
	if q.stateAfter {
		name = "state_after"
	}
	w.events(name, events, q.view())
	w.raws("account_data", q.roomData[roomID])
	w.close('}')
	return nil
}

// strippedRoom writes an invite or a knock.
func (q *query) strippedRoom(ctx context.Context, w *writer, roomID string, p place, name string) error {
	root, err := q.rootAt(ctx, roomID, p.pos)
	if err != nil {
		return err
	}
	events, err := q.s.Rooms.StrippedState(ctx, root, q.user.id)
	if err != nil {
		return err
	}
	w.key(roomID)
	w.open('{')
	w.raws(name, events)
	w.close('}')
	return nil
}
