package syncapi

import (
	"context"
	"slices"
	"strconv"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms"
)

// writeSection writes timeline and state. It writes empty ones too, as clients read them without a check.
func (q *query) writeSection(ctx context.Context, w *writer, sec section) error {
	w.key("timeline")
	w.open('{')
	w.key("events")
	w.open('[')
	for i, e := range sec.events {
		v := rooms.ClientOptions{Membership: event.MembershipJoin, Extra: sec.extras[e.ID]}
		if sec.visibility != nil {
			v.Membership, v.Erased, v.PrevHidden = sec.visibility[i].Membership, sec.visibility[i].Erased, sec.visibility[i].PrevHidden
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
	sec.events, sec.extras = nil, nil // the state may be sent while it is written, which may take long
	return q.writeState(ctx, w, sec)
}

// summary writes the summary of a room; {} for nil, when it did not change.
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

// writeEvent writes an event as the device gets it: with the transaction id of an own event, and with the fields of the filter.
func (q *query) writeEvent(w *writer, e *rooms.Event, v rooms.ClientOptions) {
	if e.Sender == q.user.id {
		v.Device = q.transactionSender
	}
	at := len(w.b)
	w.b = e.AppendClient(w.b, v)
	if q.filter.EventFields != nil {
		w.b = append(w.b[:at], selectFields(w.b[at:], q.filter.EventFields)...)
	}
}

// writeCounts writes the unread counts of a room.
func (q *query) writeCounts(ctx context.Context, w *writer, roomID string) error {
	counts, err := q.s.Push.Unread(ctx, q.user.id, roomID)
	if err != nil {
		return err
	}
	notify, highlight := counts.Notify, counts.Highlight
	threads := q.filter.Room.Timeline.ThreadUnreads
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

// writeState writes "state" or "state_after", also when it is empty.
func (q *query) writeState(ctx context.Context, w *writer, sec section) error {
	name := "state"
	if q.stateAfter {
		name = "state_after"
	}
	audience := sec.audience
	audience.Root, audience.Past = sec.rootAfter, len(sec.visibility) > 0 && sec.visibility[0].Membership != event.MembershipJoin
	w.key(name)
	w.b = append(w.b, `{"events":`...)
	w.open('[')
	if err := q.writeStateEvents(ctx, w, &audience, sec.state); err != nil {
		return err
	}
	err := q.s.Rooms.EachEvent(ctx, sec.stateIDs, func(events []*rooms.Event) error {
		events = slices.DeleteFunc(events, func(e *rooms.Event) bool { return !q.filter.Room.State.event(e) })
		if err := q.writeStateEvents(ctx, w, &audience, events); err != nil {
			return err
		}
		return q.flushIfLarge(ctx, w)
	})
	if err != nil {
		return err
	}
	w.close(']')
	w.close('}')
	return nil
}

// writeStateEvents writes the events that the audience may see, with the redaction of a redacted one.
func (q *query) writeStateEvents(ctx context.Context, w *writer, audience *rooms.Audience, events []*rooms.Event) error {
	events, err := q.s.Rooms.VisibleState(ctx, audience, events)
	if err != nil {
		return err
	}
	for len(events) > 0 {
		var redacted []*rooms.Event
		for _, e := range events {
			if e.RedactedBy != "" {
				redacted = append(redacted, e)
			}
		}
		now := events
		var extras map[string][][]byte
		if len(redacted) > 0 {
			reader, fit := rooms.Reader{UserID: audience.UserID, Since: audience.Since}, 0
			if extras, fit, err = q.s.Rooms.Extras(ctx, reader, redacted, stateBytes); err != nil {
				return err
			}
			if fit < len(redacted) { // the others follow in further parts, as all of the state must be written
				now = events[:slices.Index(events, redacted[fit])]
			}
		}
		for _, e := range now {
			w.sep()
			q.writeEvent(w, e, rooms.ClientOptions{Membership: event.MembershipJoin, Extra: extras[e.ID]})
		}
		if events = events[len(now):]; len(events) == 0 {
			break
		}
		if err := q.flushIfLarge(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// stateBytes is about how many bytes of redactions of state events are held in memory at once.
const stateBytes = 512 << 10
