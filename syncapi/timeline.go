package syncapi

import (
	"context"
	"slices"

	"lyceum/matrix/event"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// readAtOnce is how many events one statement reads at most: each may have 64 KiB.
const readAtOnce = 100

// span is a part of a room's events: after < position <= upto.
type span struct {
	roomID      string
	shard       int
	after, upto int64
	limit       int   // most events of the timeline
	see         bool  // the user may not see all of it
	since       int64 // as rooms.Reader has it
}

// timeline is the newest part of a span.
type timeline struct {
	all     []*rooms.Event     // of the span, as far as they were read, in order
	events  []*rooms.Event     // those of all that the client gets
	sights  []rooms.Visibility // of events; nil when the user was a member at all of them
	extras  map[string][][]byte
	limited bool // older ones of the span were left out
	hidden  bool // behind the first of events are state events that the client does not get
	// later are the newest events of state keys that are behind the first of events and that the client does not get there.
	later map[state.Key]string
	// before is the state before the first of events, upto the state after the span.
	before, upto state.ID
	prev         int64 // position before the first of events
}

// shows tells whether the client wants an event in timelines. The state events of ignored users stay
// (client-server API, "Ignoring Users").
func (q *query) shows(e *rooms.Event) bool {
	return q.filter.Room.Timeline.event(e) && (e.IsState() || !q.ignored[e.Sender])
}

// readTimeline gives the newest events of a span that pass the filter and that the user may see.
func (q *query) readTimeline(ctx context.Context, sp span) (*timeline, error) {
	all, complete, err := q.newest(ctx, sp, sp.limit)
	if err != nil {
		return nil, err
	}
	t := &timeline{all: all, prev: sp.after, limited: !complete}
	if len(all) == 0 {
		t.upto, err = q.rootAt(ctx, sp.roomID, sp.upto)
		t.before = t.upto
		return t, err
	}
	t.upto = all[len(all)-1].Root
	picked := make([]int, 0, min(sp.limit, len(all)))
	size, room := 0, min(q.left, timelineBytes)
	for i := len(all) - 1; i >= 0; i-- {
		if !q.shows(all[i]) {
			continue
		}
		size += len(all[i].JSON)
		if len(picked) == sp.limit || len(picked) > 0 && size > room {
			t.limited = true
			break
		}
		picked = append(picked, i)
	}
	q.left = max(0, q.left-size)
	slices.Reverse(picked)
	if picked, err = q.look(ctx, sp, t, picked); err != nil {
		return nil, err
	}
	if picked, err = q.fit(ctx, sp, t, picked, room); err != nil {
		return nil, err
	}
	if len(picked) == 0 {
		t.end()
		return t, nil
	}
	if err = q.begin(ctx, t, picked); err != nil || !t.hidden || q.stateAfter {
		return t, err
	}
	if t.later, err = q.later(ctx, t); err != nil {
		return nil, err
	}
	// The client takes "state" first, then the timeline: an event there must not put an older one in the place of a newer.
	if n := t.overtaken(); n > 0 {
		t.limited = true
		if t.sights != nil {
			t.sights = t.sights[n:]
		}
		if n == len(picked) {
			t.end()
			return t, nil
		}
		err = q.begin(ctx, t, picked[n:])
	}
	return t, err
}

// end leaves nothing in a timeline.
func (t *timeline) end() {
	t.events, t.hidden = nil, false
	t.before, t.prev = t.upto, t.all[len(t.all)-1].Pos
}

// begin makes a timeline of some events of all.
func (q *query) begin(ctx context.Context, t *timeline, picked []int) (err error) {
	all := t.all
	t.events, t.hidden = make([]*rooms.Event, len(picked)), false
	next := 0
	for i := picked[0]; i < len(all); i++ {
		if next < len(picked) && picked[next] == i {
			t.events[next] = all[i]
			next++
		} else {
			t.hidden = t.hidden || all[i].IsState()
		}
	}
	t.prev = t.events[0].Pos - 1
	t.before, err = q.rootBefore(ctx, all, picked[0])
	return err
}

// later finds what timeline.later holds.
func (q *query) later(ctx context.Context, t *timeline) (map[state.Key]string, error) {
	changed, err := q.s.Rooms.Tree(t.upto).Diff(ctx, q.s.Rooms.Tree(t.before))
	if err != nil {
		return nil, err
	}
	given := make(map[string]bool, len(t.events))
	for _, e := range t.events {
		given[e.ID] = true
	}
	out := map[state.Key]string{}
	for _, c := range changed {
		if c.New != "" && !given[c.New] {
			out[c.Key] = c.New
		}
	}
	return out, nil
}

// overtaken is how many events there are up to the last of a state key whose newest event the client gets besides.
func (t *timeline) overtaken() int {
	for i := len(t.events) - 1; i >= 0; i-- {
		if e := t.events[i]; e.IsState() && t.later[state.Key{Type: e.Type, StateKey: *e.StateKey}] != "" {
			return i + 1
		}
	}
	return 0
}

// look leaves out the events that the user may not see. The user's own memberships are no secret.
func (q *query) look(ctx context.Context, sp span, t *timeline, picked []int) ([]int, error) {
	if !sp.see || len(picked) == 0 {
		return picked, nil
	}
	events := make([]*rooms.Event, len(picked))
	for i, n := range picked {
		events[i] = t.all[n]
	}
	sights, err := q.s.Rooms.VisibilityOf(ctx, q.user.id, sp.roomID, events)
	if err != nil {
		return nil, err
	}
	kept := picked[:0]
	for i, n := range picked {
		if sights[i].Visible || events[i].Pos > sp.after && events[i].IsState() && events[i].Is(event.TypeMember, q.user.id) {
			kept, t.sights = append(kept, n), append(t.sights, sights[i])
		}
	}
	return kept, nil
}

// newest gives the newest events of a span: all of them when complete, else as many as hold more than limit
// that the client wants or more bytes of them than a timeline has, or as one request reads at most.
func (q *query) newest(ctx context.Context, sp span, limit int) (list []*rooms.Event, complete bool, err error) {
	q.s.mu.RLock()
	rows, ok := q.s.events.since(sp.shard, sp.roomID, sp.after, sp.upto)
	list = make([]*rooms.Event, len(rows))
	var stale []string // redacted after they came to memory; another reader may put them right from now on
	for i, r := range rows {
		list[i] = r.value
		if len(q.s.redacted) > 0 {
			if _, is := q.s.redacted[r.value.ID]; is {
				stale = append(stale, r.value.ID)
			}
		}
	}
	redactions := q.s.Rooms.RedactionCount()
	q.s.mu.RUnlock()
	if len(stale) > 0 {
		if err := q.reread(ctx, list, stale, redactions); err != nil {
			return nil, false, err
		}
	}
	if ok || q.enough(list, limit) {
		return list, ok, nil
	}
	// The memory does not reach back so far.
	list = nil
	page := rooms.Page{
		RoomID:   sp.roomID,
		From:     sp.upto + 1,
		To:       sp.after,
		Backward: true,
		Limit:    min(limit+1, readAtOnce),
		Bytes:    timelineBytes,
	}
	for size := 0; len(list) <= 10*limit+200 && size < 4*timelineBytes && !complete && !q.enough(list, limit); {
		part, err := q.s.Rooms.Timeline(ctx, page)
		if err != nil {
			return nil, false, err
		}
		list = append(list, part...)
		for _, e := range part {
			size += len(e.JSON)
		}
		if complete = page.Complete(part); !complete {
			page.From, page.Limit = part[len(part)-1].Pos, min(2*page.Limit, readAtOnce)
		}
	}
	slices.Reverse(list)
	return list, complete, nil
}

func (q *query) enough(list []*rooms.Event, limit int) bool {
	n, size := 0, 0
	for _, e := range list {
		if q.shows(e) {
			size += len(e.JSON)
			if n++; n > limit || size > timelineBytes {
				return true
			}
		}
	}
	return false
}

// reread replaces the events of a list of one room that were redacted after they came to memory.
func (q *query) reread(ctx context.Context, list []*rooms.Event, ids []string, redactions int64) error {
	found, err := q.s.Rooms.Events(ctx, ids)
	if err != nil {
		return err
	}
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	for i, e := range list {
		if now := found[e.ID]; now != nil {
			list[i] = now
			if q.s.Rooms.RedactionCount() == redactions { // else what was read may be of before the newest
				q.s.events.replace(e.RoomID, func(old *rooms.Event) bool { return old.ID == now.ID }, now)
				delete(q.s.redacted, now.ID)
			}
		}
	}
	return nil
}

// rootBefore is the state before an event of a list.
func (q *query) rootBefore(ctx context.Context, all []*rooms.Event, i int) (state.ID, error) {
	switch {
	case !all[i].IsState():
		return all[i].Root, nil // it changed no state
	case i > 0:
		return all[i-1].Root, nil
	}
	return q.rootAt(ctx, all[i].RoomID, all[i].Pos-1)
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
	q.s.mu.Lock()
	q.s.events.setBase(roomID, pos, list[0])
	q.s.mu.Unlock()
	return list[0].Root, nil
}
