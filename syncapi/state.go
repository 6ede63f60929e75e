package syncapi

import (
	"context"
	"slices"

	"lyceum/matrix/event"
	"lyceum/rooms"
)

// writeState writes "state" or "state_after", also when it is empty.
func (q *query) writeState(ctx context.Context, w *writer, sec section) error {
	name := "state"
	if q.stateAfter {
		name = "state_after"
	}
	who := sec.who
	who.Root, who.Past = sec.upto, len(sec.sights) > 0 && sec.sights[0].Membership != event.MembershipJoin
	w.key(name)
	w.b = append(w.b, `{"events":`...)
	w.open('[')
	if err := q.writeStateEvents(ctx, w, &who, sec.state); err != nil {
		return err
	}
	err := q.s.Rooms.EachEvent(ctx, sec.more, func(events []*rooms.Event) error {
		events = slices.DeleteFunc(events, func(e *rooms.Event) bool { return !q.filter.Room.State.event(e) })
		if err := q.writeStateEvents(ctx, w, &who, events); err != nil {
			return err
		}
		return q.grew(ctx, w)
	})
	if err != nil {
		return err
	}
	w.close(']')
	w.close('}')
	return nil
}

func (q *query) writeStateEvents(ctx context.Context, w *writer, who *rooms.Audience, events []*rooms.Event) error {
	events, err := q.s.Rooms.VisibleState(ctx, who, events)
	if err != nil {
		return err
	}
	for len(events) > 0 {
		var ask []*rooms.Event
		for _, e := range events {
			if e.RedactedBy != "" {
				ask = append(ask, e)
			}
		}
		now := events
		var extras map[string][][]byte
		if len(ask) > 0 {
			var fit int
			if extras, fit, err = q.s.Rooms.Extras(ctx, rooms.Reader{UserID: who.UserID, Since: who.Since}, ask, stateBytes); err != nil {
				return err
			}
			if fit < len(ask) { // the others come in further parts, as a state can not end early
				now = events[:slices.Index(events, ask[fit])]
			}
		}
		for _, e := range now {
			w.sep()
			q.writeEvent(w, e, rooms.ClientOptions{Membership: event.MembershipJoin, Extra: extras[e.ID]})
		}
		if events = events[len(now):]; len(events) == 0 {
			break
		}
		if err := q.grew(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// stateBytes are those of the redactions of state events that are in hand at once, about.
const stateBytes = 512 << 10
