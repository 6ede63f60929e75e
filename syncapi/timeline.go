package syncapi

import (
	"context"
	"slices"

	"lyceum/matrix/event"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// readAtOnce is how many events one statement reads at most: each may be 64 KiB long.
const readAtOnce = 100

// eventRange is a part of a room's events: after < position <= upto.
type eventRange struct {
	roomID          string
	shard           int
	after, upto     int64
	limit           int   // most events of the timeline
	checkVisibility bool  // the user may not be allowed to see all of them
	memberSince     int64 // as rooms.Reader has it
}

// timeline is the newest part of an event range.
type timeline struct {
	all         []*rooms.Event      // events of the range, as far as they were read, in order
	events      []*rooms.Event      // the part of all that the client gets
	visibility  []rooms.Visibility  // of events; nil when the user was a member at all of them
	extras      map[string][][]byte // aggregations and redactions by event id, see rooms.Extras
	limited     bool                // older events of the range were left out
	hiddenState bool                // after the first of events there are state events that the client does not get
	// newerState has the ids of the newest state events, by key, that are after the first of events and that the client does not get
	// in the timeline.
	newerState map[state.Key]string
	rootBefore state.ID // the state before the first of events
	rootAfter  state.ID // the state after the range
	prev       int64    // the position before the first of events
}

// wantsInTimeline reports whether an event passes the filter and is not of an ignored user. State events of ignored users pass
// (client-server API, "Ignoring Users").
func (q *query) wantsInTimeline(e *rooms.Event) bool {
	return q.filter.Room.Timeline.event(e) && (e.IsState() || !q.ignored[e.Sender])
}

// isPicked reports whether an event is wanted in the timeline and is among those of which the relations match; nil is all.
func (q *query) isPicked(e *rooms.Event, matching map[string]bool) bool {
	return q.wantsInTimeline(e) && (matching == nil || matching[e.ID])
}

// readTimeline reads the newest events of a range that pass the filter and that the user may see.
func (q *query) readTimeline(ctx context.Context, r eventRange) (*timeline, error) {
	all, complete, err := q.newestEvents(ctx, r, r.limit)
	if err != nil {
		return nil, err
	}
	t := &timeline{all: all, prev: r.after, limited: !complete}
	if len(all) == 0 {
		t.rootAfter, err = q.rootAt(ctx, r.roomID, r.upto)
		t.rootBefore = t.rootAfter
		return t, err
	}
	t.rootAfter = all[len(all)-1].Root
	matching, err := q.s.Rooms.MatchingRelations(ctx, q.user.id, r.roomID, &q.filter.Room.Timeline.Filter, all)
	if err != nil {
		return nil, err
	}
	picked := make([]int, 0, min(r.limit, len(all)))
	size, room := 0, min(q.bytesLeft, timelineBytes)
	for i := len(all) - 1; i >= 0; i-- {
		if !q.isPicked(all[i], matching) {
			continue
		}
		size += len(all[i].JSON)
		if len(picked) == r.limit || len(picked) > 0 && size > room {
			t.limited = true
			break
		}
		picked = append(picked, i)
	}
	q.bytesLeft = max(0, q.bytesLeft-size)
	slices.Reverse(picked)
	if picked, err = q.leaveOutHidden(ctx, r, t, picked); err != nil {
		return nil, err
	}
	if picked, err = q.readExtras(ctx, r, t, picked, room); err != nil {
		return nil, err
	}
	if len(picked) == 0 {
		t.setEmpty()
		return t, nil
	}
	if err = q.setEvents(ctx, t, picked); err != nil || !t.hiddenState || q.stateAfter {
		return t, err
	}
	if t.newerState, err = q.readNewerState(ctx, t); err != nil {
		return nil, err
	}
	// The client applies "state" first, then the timeline: an event of the timeline must not replace a newer one of the state.
	if n := t.countSuperseded(); n > 0 {
		t.limited = true
		if t.visibility != nil {
			t.visibility = t.visibility[n:]
		}
		if n == len(picked) {
			t.setEmpty()
			return t, nil
		}
		err = q.setEvents(ctx, t, picked[n:])
	}
	return t, err
}

// setEmpty removes all events from the timeline.
func (t *timeline) setEmpty() {
	t.events, t.hiddenState = nil, false
	t.rootBefore, t.prev = t.rootAfter, t.all[len(t.all)-1].Pos
}

// setEvents makes the events of all at some indexes those of the timeline.
func (q *query) setEvents(ctx context.Context, t *timeline, picked []int) (err error) {
	all := t.all
	t.events, t.hiddenState = make([]*rooms.Event, len(picked)), false
	next := 0
	for i := picked[0]; i < len(all); i++ {
		if next < len(picked) && picked[next] == i {
			t.events[next] = all[i]
			next++
		} else {
			t.hiddenState = t.hiddenState || all[i].IsState()
		}
	}
	t.prev = t.events[0].Pos - 1
	t.rootBefore, err = q.rootBefore(ctx, all, picked[0])
	return err
}

// readNewerState returns what timeline.newerState holds.
func (q *query) readNewerState(ctx context.Context, t *timeline) (map[state.Key]string, error) {
	changed, err := q.s.Rooms.Tree(t.rootAfter).Diff(ctx, q.s.Rooms.Tree(t.rootBefore))
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

// countSuperseded returns how many events of the timeline there are up to the last one whose state key is in newerState.
func (t *timeline) countSuperseded() int {
	for i := len(t.events) - 1; i >= 0; i-- {
		if e := t.events[i]; e.IsState() && t.newerState[state.Key{Type: e.Type, StateKey: *e.StateKey}] != "" {
			return i + 1
		}
	}
	return 0
}

// leaveOutHidden returns the indexes of the events that the user may see. Users see their own memberships.
func (q *query) leaveOutHidden(ctx context.Context, r eventRange, t *timeline, picked []int) ([]int, error) {
	if !r.checkVisibility || len(picked) == 0 {
		return picked, nil
	}
	events := make([]*rooms.Event, len(picked))
	for i, n := range picked {
		events[i] = t.all[n]
	}
	visibility, err := q.s.Rooms.VisibilityOf(ctx, q.user.id, r.roomID, events)
	if err != nil {
		return nil, err
	}
	kept := picked[:0]
	for i, n := range picked {
		if visibility[i].Visible || events[i].Pos > r.after && events[i].IsState() && events[i].Is(event.TypeMember, q.user.id) {
			kept, t.visibility = append(kept, n), append(t.visibility, visibility[i])
		}
	}
	return kept, nil
}

// newestEvents returns the newest events of a range: all of them when complete, else so many that they fill a timeline of limit events
// (fillsTimeline), or as many as one request reads at most.
func (q *query) newestEvents(ctx context.Context, r eventRange, limit int) (list []*rooms.Event, complete bool, err error) {
	q.s.mu.RLock()
	rows, ok := q.s.events.between(r.shard, r.roomID, r.after, r.upto)
	list = make([]*rooms.Event, len(rows))
	var stale []string // redacted after they came to memory; another request may replace them at the same time
	for i, row := range rows {
		list[i] = row.value
		if len(q.s.redacted) > 0 {
			if _, is := q.s.redacted[row.value.ID]; is {
				stale = append(stale, row.value.ID)
			}
		}
	}
	redactions := q.s.Rooms.RedactionCount()
	q.s.mu.RUnlock()
	if len(stale) > 0 {
		if err := q.reloadRedacted(ctx, list, stale, redactions); err != nil {
			return nil, false, err
		}
	}
	if ok || q.fillsTimeline(list, limit) {
		return list, ok, nil
	}
	// Memory does not reach back to the start of the range.
	list = nil
	page := rooms.Page{
		RoomID:   r.roomID,
		From:     r.upto + 1,
		To:       r.after,
		Backward: true,
		Limit:    min(limit+1, readAtOnce),
		Bytes:    timelineBytes,
	}
	for size := 0; len(list) <= 10*limit+200 && size < 4*timelineBytes && !complete && !q.fillsTimeline(list, limit); {
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

// fillsTimeline reports whether the client wants more than limit events of a list, or more bytes of them than a timeline has.
func (q *query) fillsTimeline(list []*rooms.Event, limit int) bool {
	n, size := 0, 0
	for _, e := range list {
		if q.wantsInTimeline(e) {
			size += len(e.JSON)
			if n++; n > limit || size > timelineBytes {
				return true
			}
		}
	}
	return false
}

// reloadRedacted replaces the events of a list of one room that were redacted after they came to memory. redactions is
// rooms.RedactionCount when they were taken from memory.
func (q *query) reloadRedacted(ctx context.Context, list []*rooms.Event, ids []string, redactions int64) error {
	found, err := q.s.Rooms.Events(ctx, ids)
	if err != nil {
		return err
	}
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	for i, e := range list {
		if now := found[e.ID]; now != nil {
			list[i] = now
			if q.s.Rooms.RedactionCount() == redactions { // else what was read may be older than the newest redaction
				q.s.events.replace(e.RoomID, func(old *rooms.Event) bool { return old.ID == now.ID }, now)
				delete(q.s.redacted, now.ID)
			}
		}
	}
	return nil
}

// rootBefore returns the state before an event of a list.
func (q *query) rootBefore(ctx context.Context, all []*rooms.Event, i int) (state.ID, error) {
	switch {
	case !all[i].IsState():
		return all[i].Root, nil // it changed no state
	case i > 0:
		return all[i-1].Root, nil
	}
	return q.rootAt(ctx, all[i].RoomID, all[i].Pos-1)
}

// rootAt returns the state of a room at a position.
func (q *query) rootAt(ctx context.Context, roomID string, pos int64) (state.ID, error) {
	q.s.mu.RLock()
	e, ok := q.s.events.newestAt(roomID, pos)
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
