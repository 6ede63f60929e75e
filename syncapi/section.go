package syncapi

import (
	"context"
	"maps"
	"slices"

	"lyceum/matrix/event"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// section is what the client gets of the events of a room.
type section struct {
	*timeline
	state    []*rooms.Event
	stateIDs []string // ids of more state events, which are read while they are written, as they are many or large
	summary  *summary // nil when it did not change
	audience rooms.Audience
}

// isEmpty reports whether there is nothing that the client does not have.
func (sec *section) isEmpty() bool {
	return len(sec.events) == 0 && len(sec.state)+len(sec.stateIDs) == 0 && !sec.limited
}

type summary struct {
	heroes          []string
	joined, invited int
}

// sectionRequest says which part of a room's events is asked for.
type sectionRequest struct {
	eventRange
	fresh       bool // the client knows nothing of the room
	withSummary bool
}

// section reads timeline, state and summary.
func (q *query) section(ctx context.Context, req sectionRequest) (sec section, err error) {
	r := req.eventRange
	if req.fresh {
		r.after = 0
	}
	if sec.timeline, err = q.readTimeline(ctx, r); err != nil {
		return sec, err
	}
	whole := req.fresh || q.fullState
	from, had, err := q.clientState(ctx, req, sec.timeline)
	if err != nil {
		return sec, err
	}
	ids, changed, err := q.stateChanges(ctx, sec.timeline, from)
	if err != nil {
		return sec, err
	}
	if req.withSummary && (whole || slices.ContainsFunc(changed, changesSummary)) {
		if sec.summary, err = q.readSummary(ctx, req.roomID, sec.rootAfter); err != nil {
			return sec, err
		}
	}
	if q.filter.Room.State.LazyMembers {
		if whole {
			removeMembers(ids)
		}
		if had != (state.ID{}) {
			if err := q.addChangedMembers(ctx, sec.timeline, had, ids); err != nil {
				return sec, err
			}
		}
		if err := q.addLazyMembers(ctx, req.roomID, &sec, ids, whole); err != nil {
			return sec, err
		}
	}
	if len(ids) > stateAtOnce {
		for _, id := range ids {
			sec.stateIDs = append(sec.stateIDs, id)
		}
		slices.Sort(sec.stateIDs)
		return sec, q.chargeBytes(ctx, largeBytes)
	}
	if sec.state, err = q.stateEvents(ctx, ids); err == nil && q.out != nil {
		sec.releaseEvents()
	}
	return sec, err
}

// releaseEvents drops the events that can be read again while they are written, as writing may wait long for the client.
func (sec *section) releaseEvents() {
	for _, e := range sec.state {
		sec.stateIDs = append(sec.stateIDs, e.ID)
	}
	sec.state, sec.all = nil, nil
}

// stateAtOnce is how many state events are held in memory besides their texts in the answer.
const stateAtOnce = 200

// clientState returns the state that the client has: from is what the answer continues from, the zero state when it gives the whole
// state; had is the state that the client had, when it asks for the full state again. It marks the timeline as limited when the client
// may have an old part of the room.
func (q *query) clientState(ctx context.Context, req sectionRequest, t *timeline) (from, had state.ID, err error) {
	switch {
	case q.eventsFromStart: // the client may have any part of the room
		t.limited = true
		return from, had, nil
	case q.initial:
		return from, had, nil
	}
	known, err := q.rootAtStart(ctx, req.eventRange, t)
	switch {
	case err != nil:
	case !req.fresh && !q.fullState:
		from = known
	case !req.fresh:
		had = known
	case known != (state.ID{}): // the room is older than the client's token
		t.limited = true
	}
	return from, had, err
}

// rootAtStart returns the state of a room at the start of a range.
func (q *query) rootAtStart(ctx context.Context, r eventRange, t *timeline) (state.ID, error) {
	if !t.limited && len(t.all) > 0 && t.all[0].Pos > r.after && !t.all[0].IsState() {
		return t.all[0].Root, nil
	}
	return q.rootAt(ctx, r.roomID, r.after)
}

// stateChanges returns the ids of the state events that lead from a state to the one that the client needs besides the timeline, and the
// keys that changed up to the end of the timeline. For "state", the client needs the state before the timeline, with the changes after
// its start in events that the client does not get.
func (q *query) stateChanges(
	ctx context.Context, t *timeline, from state.ID,
) (ids map[state.Key]string, changed []state.Change, err error) {
	ids = map[state.Key]string{}
	if from == t.rootAfter {
		return ids, nil, nil
	}
	if changed, err = q.s.Rooms.Tree(t.rootAfter).Diff(ctx, q.s.Rooms.Tree(from)); err != nil {
		return nil, nil, err
	}
	first := changed
	if !q.stateAfter && t.rootBefore != t.rootAfter {
		if first, err = q.s.Rooms.Tree(t.rootBefore).Diff(ctx, q.s.Rooms.Tree(from)); err != nil {
			return nil, nil, err
		}
	}
	for _, c := range first {
		if c.New != "" {
			ids[c.Key] = c.New
		}
	}
	maps.Copy(ids, t.newerState)
	return ids, changed, nil
}

// changesSummary reports whether a change of the state may change the room's summary.
func changesSummary(c state.Change) bool {
	return c.Type == event.TypeMember || c.Type == event.TypeName || c.Type == event.TypeCanonicalAlias
}

func (q *query) readSummary(ctx context.Context, roomID string, root state.ID) (sum *summary, err error) {
	sum = &summary{}
	sum.heroes, sum.joined, sum.invited, err = q.s.Rooms.RoomSummary(ctx, rooms.Head{RoomID: roomID, Root: root}, q.user.id)
	return sum, err
}

// stateEvents reads events of the state that pass the filter, in the order of their positions.
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
