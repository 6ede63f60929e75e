package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"lyceum/matrix"
)

// Reader is who gets events.
type Reader struct {
	UserID, Device string // Device is that of Send
	// Since is that of Audience for the room of the events; 0 also when it is not known.
	Since int64

	membershipView *membershipView // to that room; nil to be looked up
}

// withView is the reader with the membership of the room of the events, which is known already.
func (who Reader) withView(s membershipView) Reader {
	who.Since, who.membershipView = s.since(), &s
	return who
}

// Extras gives what unsigned has besides the event's own data, as ClientOptions.Extra takes it, by event id: the
// bundled aggregations and, for what was redacted, the redaction. Clients tell by it that an event is redacted, so
// readers who may not see the redaction get it without what was written in it. The events are of one room. It stops
// after about maxBytes of aggregations, and as many of redactions; fit is how many of the events, from the first, were completed, at
// least one.
func (r *Rooms) Extras(ctx context.Context, who Reader, events []*Event, maxBytes int) (out map[string][][]byte, fit int, err error) {
	out = map[string][][]byte{}
	if len(events) == 0 {
		return out, 0, nil
	}
	bundles, fit, err := r.bundledAggregations(ctx, who.UserID, events, maxBytes)
	if err != nil {
		return nil, 0, err
	}
	for id, raw := range bundles {
		out[id] = append(out[id], append([]byte(`"m.relations":`), raw...))
	}
	redactions, events, err := r.redactionsOf(ctx, events[:fit], maxBytes)
	if err != nil || len(redactions) == 0 {
		return out, len(events), err
	}
	hidden, err := r.hiddenRedactions(ctx, who, redactions)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range events {
		if by := redactions[e.RedactedBy]; by != nil {
			if hidden[by.ID] {
				by = by.withoutReason()
			}
			out[e.ID] = append(out[e.ID], by.AppendClient([]byte(`"redacted_because":`), ClientOptions{RoomID: true}))
		}
	}
	return out, len(events), nil
}

// redactionsOf reads the redactions of events, by their own ids, and gives as many of the events as have
// maxBytes of redactions together, at least one.
func (r *Rooms) redactionsOf(ctx context.Context, events []*Event, maxBytes int) (map[string]*Event, []*Event, error) {
	var ids []string
	for _, e := range events {
		if e.RedactedBy != "" {
			ids = append(ids, e.RedactedBy)
		}
	}
	if len(ids) == 0 {
		return nil, events, nil
	}
	out, size := make(map[string]*Event, len(ids)), 0
	err := r.EachEvent(ctx, ids, func(part []*Event) error {
		for _, by := range part {
			out[by.ID] = by
			if size += by.text(); size >= maxBytes {
				events = events[:1+slices.IndexFunc(events, func(e *Event) bool { return e.RedactedBy == by.ID })]
				return errTooLarge
			}
		}
		return nil
	})
	if errors.Is(err, errTooLarge) {
		err = nil
	}
	return out, events, err
}

// CountFitting is how many of some events, from the first, may be given with their extras in so many bytes; the last of them may go
// beyond.
func CountFitting(events []*Event, extras map[string][][]byte, maxBytes int) int {
	for i, e := range events {
		if maxBytes <= 0 && i > 0 {
			return i
		}
		maxBytes -= e.text() + ExtrasSize(extras[e.ID])
	}
	return len(events)
}

// ExtrasSize is how many bytes the extras of an event have.
func ExtrasSize(extras [][]byte) (size int) {
	for _, x := range extras {
		size += len(x)
	}
	return size
}

// hiddenRedactions gives those of some redactions, by id, that a reader may not see. Nothing is read for one who is a member
// since before them.
func (r *Rooms) hiddenRedactions(ctx context.Context, who Reader, redactions map[string]*Event) (map[string]bool, error) {
	out := map[string]bool{}
	visibleByRoom := map[string]visibleRanges{} // by room: one
	for id, e := range redactions {
		if who.Since > 0 && e.Pos >= who.Since {
			continue
		}
		visible, known := visibleByRoom[e.RoomID]
		if !known {
			s, err := r.membershipViewOf(ctx, who, e.RoomID)
			if err != nil {
				return nil, err
			}
			if visible, err = r.visibleRangesOf(ctx, s); err != nil {
				return nil, err
			}
			visibleByRoom[e.RoomID] = visible
		}
		out[id] = !visible.contains(e.Pos)
	}
	return out, nil
}

// membershipViewOf is the membershipView of a reader for a room that exists.
func (r *Rooms) membershipViewOf(ctx context.Context, who Reader, roomID string) (membershipView, error) {
	if who.membershipView != nil && who.membershipView.head.RoomID == roomID {
		return *who.membershipView, nil
	}
	s, ok, err := r.findMembershipView(ctx, who.UserID, roomID)
	if err == nil && !ok {
		err = notMember()
	}
	return s, err
}

// withoutReason is a redaction without what was written in it.
func (e *Event) withoutReason() *Event {
	bare := *e.Event
	bare.Content = append(matrix.AppendString([]byte(`{"redacts":`), e.Redacts), '}')
	return &Event{Event: &bare, Shard: e.Shard, Pos: e.Pos}
}

// Render writes events of a room as a client gets them everywhere but in /sync: with room_id and all of unsigned.
// visibility comes from VisibilityOf; nil leaves the membership out. Those behind Deps.PageBytes of events and of what comes with them are
// left out; the first is always given.
func (r *Rooms) Render(ctx context.Context, who Reader, events []*Event, visibility []Visibility) ([]json.RawMessage, error) {
	extras, fit, err := r.Extras(ctx, who, events, r.PageBytes)
	if err != nil {
		return nil, err
	}
	if events = events[:fit]; len(extras) > 0 {
		events = events[:CountFitting(events, extras, r.PageBytes)]
	}
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		v := ClientOptions{Device: who.Device, RoomID: true, Extra: extras[e.ID]}
		if visibility != nil {
			v.Membership, v.Erased, v.PrevHidden = visibility[i].Membership, visibility[i].Erased, visibility[i].PrevHidden
		}
		if e.Sender != who.UserID {
			v.Device = ""
		}
		out[i] = e.AppendClient(nil, v)
	}
	return out, nil
}

// renderState writes state events without what needs the database.
func renderState(events []*Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.AppendClient(nil, ClientOptions{RoomID: true})
	}
	return out
}
