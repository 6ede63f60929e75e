package syncapi

import (
	"context"
	"slices"

	"lyceum/rooms"
)

// readExtras reads the aggregations and redactions of the events of a timeline. It leaves out the oldest events, so that the others fit
// into room bytes with theirs. It returns the indexes of the events that stay.
func (q *query) readExtras(ctx context.Context, r eventRange, t *timeline, picked []int, room int) ([]int, error) {
	var extended []*rooms.Event // the newest first
	q.s.mu.RLock()
	for _, i := range slices.Backward(picked) {
		if e := t.all[i]; q.mayHaveExtras(e) {
			extended = append(extended, e)
		}
	}
	q.s.mu.RUnlock()
	if len(extended) == 0 {
		return picked, nil
	}
	var fit int
	var err error
	if t.extras, fit, err = q.s.Rooms.Extras(ctx, rooms.Reader{UserID: q.user.id, Since: r.memberSince}, extended, max(room, 1)); err != nil {
		return nil, err
	}
	if len(t.extras) == 0 && fit == len(extended) {
		return picked, nil
	}
	events := make([]*rooms.Event, 0, len(picked))
	for _, i := range slices.Backward(picked) {
		events = append(events, t.all[i])
	}
	if fit < len(extended) {
		events = events[:slices.Index(events, extended[fit])]
	}
	n := rooms.CountFitting(events, t.extras, room)
	for _, e := range events[:n] {
		q.bytesLeft = max(0, q.bytesLeft-rooms.ExtrasSize(t.extras[e.ID]))
	}
	older := len(picked) - n
	t.limited = t.limited || older > 0
	if t.visibility != nil {
		t.visibility = t.visibility[older:]
	}
	return picked[older:], nil
}

// mayHaveExtras reports whether an event may have aggregations or a redaction. An event after relatedSince that no other refers to has
// no aggregations. The caller holds Sync.mu.
func (q *query) mayHaveExtras(e *rooms.Event) bool {
	_, has := q.s.related[e.ID]
	return has || e.Pos <= q.s.relatedSince[e.Shard] || e.RedactedBy != ""
}
