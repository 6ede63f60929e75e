package syncapi

import (
	"context"
	"slices"

	"lyceum/rooms"
)

// fit reads the extras of the events of a timeline, and leaves out the older ones where there is no room for them with those.
func (q *query) fit(ctx context.Context, sp span, t *timeline, picked []int, room int) ([]int, error) {
	var ask []*rooms.Event // the newest first
	q.s.mu.RLock()
	for _, i := range slices.Backward(picked) {
		if e := t.all[i]; q.extended(e) {
			ask = append(ask, e)
		}
	}
	q.s.mu.RUnlock()
	if len(ask) == 0 {
		return picked, nil
	}
	var fit int
	var err error
	if t.extras, fit, err = q.s.Rooms.Extras(ctx, rooms.Reader{UserID: q.user.id, Since: sp.since}, ask, max(room, 1)); err != nil {
		return nil, err
	}
	if len(t.extras) == 0 && fit == len(ask) {
		return picked, nil
	}
	events := make([]*rooms.Event, 0, len(picked))
	for _, i := range slices.Backward(picked) {
		events = append(events, t.all[i])
	}
	if fit < len(ask) {
		events = events[:slices.Index(events, ask[fit])]
	}
	n := rooms.CountFitting(events, t.extras, room)
	for _, e := range events[:n] {
		q.left = max(0, q.left-rooms.ExtrasSize(t.extras[e.ID]))
	}
	older := len(picked) - n
	t.limited = t.limited || older > 0
	if t.sights != nil {
		t.sights = t.sights[older:]
	}
	return picked[older:], nil
}

// extended tells whether an event may have aggregations or a redaction. Events that came since this process listens and that
// none refers to are known to have no aggregations; others are looked up. Sync.mu is held.
func (q *query) extended(e *rooms.Event) bool {
	_, has := q.s.related[e.ID]
	return has || e.Pos <= q.s.looked[e.Shard] || e.RedactedBy != ""
}
