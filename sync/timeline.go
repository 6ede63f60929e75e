package sync

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
	see         bool // the user may not see all of it
}

// timeline is the newest part of a span.
type timeline struct {
	all     []*rooms.Event // of the span, as far as they were read, in order
	events  []*rooms.Event // those of all that the client gets
	sights  []rooms.Sight  // of events; nil when the user was a member at all of them
	limited bool           // older ones of the span were left out
	hidden  bool           // behind the first of events are state events that the client does not get
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
	limit := q.filter.timelineLimit()
	all, complete, err := q.newest(ctx, sp, limit)
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
	picked := make([]int, 0, min(limit, len(all)))
	size, room := 0, min(q.left, timelineBytes)
	for i := len(all) - 1; i >= 0; i-- {
		if !q.shows(all[i]) {
			continue
		}
		size += len(all[i].JSON)
		if len(picked) == limit || len(picked) > 0 && size > room {
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
	if len(picked) == 0 {
		t.before, t.prev = t.upto, all[len(all)-1].Pos
		t.hidden = false
		return t, nil
	}
	t.events = make([]*rooms.Event, len(picked))
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
	return t, err
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
	sights, err := q.s.Rooms.See(ctx, q.user.id, sp.roomID, events)
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
// that the client wants, or as one request reads at most.
func (q *query) newest(ctx context.Context, sp span, limit int) (list []*rooms.Event, complete bool, err error) {
	q.s.mu.RLock()
	rows, ok := q.s.events.since(sp.shard, sp.roomID, sp.after, sp.upto)
	list = make([]*rooms.Event, len(rows))
	stale := false
	for i, r := range rows {
		list[i] = r.value
		if len(q.s.redacted) > 0 {
			_, is := q.s.redacted[r.value.ID]
			stale = stale || is
		}
	}
	q.s.mu.RUnlock()
	if stale {
		if list, err = q.reread(ctx, sp.roomID, list); err != nil {
			return nil, false, err
		}
	}
	if ok || q.enough(list, limit) {
		return list, ok, nil
	}
	// The memory does not reach back so far.
	list = nil
	page := rooms.Page{RoomID: sp.roomID, From: sp.upto + 1, To: sp.after, Backward: true, Limit: min(limit+1, readAtOnce)}
	for size := 0; len(list) <= 10*limit+200 && size < 4*timelineBytes && !complete && !q.enough(list, limit); {
		part, err := q.s.Rooms.Timeline(ctx, page)
		if err != nil {
			return nil, false, err
		}
		list = append(list, part...)
		for _, e := range part {
			size += len(e.JSON)
		}
		if complete = len(part) < page.Limit; !complete {
			page.From, page.Limit = part[len(part)-1].Pos, min(2*page.Limit, readAtOnce)
		}
	}
	slices.Reverse(list)
	return list, complete, nil
}

func (q *query) enough(list []*rooms.Event, limit int) bool {
	n := 0
	for _, e := range list {
		if q.shows(e) {
			if n++; n > limit {
				return true
			}
		}
	}
	return false
}

// reread replaces events that were redacted after they came to memory.
func (q *query) reread(ctx context.Context, roomID string, list []*rooms.Event) ([]*rooms.Event, error) {
	var ids []string
	q.s.mu.RLock()
	for _, e := range list {
		if _, is := q.s.redacted[e.ID]; is {
			ids = append(ids, e.ID)
		}
	}
	q.s.mu.RUnlock()
	found, err := q.s.Rooms.Events(ctx, ids)
	if err != nil {
		return nil, err
	}
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	for i, e := range list {
		if now := found[e.ID]; now != nil {
			list[i] = now
			if now.RedactedBy != "" {
				q.s.events.replace(roomID, func(old *rooms.Event) bool { return old.ID == now.ID }, now)
				delete(q.s.redacted, now.ID)
			}
		}
	}
	return list, nil
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
