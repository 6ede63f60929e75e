package push

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strconv"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
	"lyceum/rooms"
)

const (
	maxPage          = 50      // notifications of one answer
	maxNotifiedRooms = 200     // rooms whose events are read
	scannedEvents    = 500     // events of a room that are read
	pageBytes        = 2 << 20 // bytes of the events of one answer, without the last event
)

type notifiedEvent struct {
	Actions json.RawMessage `json:"actions"`
	Event   json.RawMessage `json:"event"`
	Read    bool            `json:"read"`
	RoomID  string          `json:"room_id"`
	TS      int64           `json:"ts"`
}

// getNotifications lists the events that notify the user, the newest first. It finds them by evaluating the newest events of the user's
// rooms. The token is a time from which the next request goes on.
func (p *Push) getNotifications(r *web.Request) (any, error) {
	limit, err := r.Int("limit", 20, maxPage)
	if err != nil {
		return nil, err
	}
	limit = max(limit, 1)
	before := int64(1) << 62
	if from := r.QueryParam("from"); from != "" {
		if before, err = strconv.ParseInt(from, 10, 64); err != nil {
			return nil, matrix.InvalidParam("from: expected a token that this server gave out")
		}
	}
	list, err := p.newestEvents(r, before)
	if err != nil {
		return nil, err
	}
	out := []notifiedEvent{}
	var last, next int64
	size := 0
	err = p.Rooms.EachEvent(r.Context(), list, func(events []*rooms.Event) error {
		for _, e := range events {
			if e.RedactedBy != "" {
				continue
			}
			if (len(out) >= limit || size >= pageBytes) && e.OriginServerTS != last {
				next = last
				return errFull
			}
			last = e.OriginServerTS
			n, err := p.notifiedEventOf(r, e)
			if err != nil {
				return err
			}
			if n != nil {
				out, size = append(out, *n), size+len(n.Event)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, errFull) {
		return nil, err
	}
	if next == 0 {
		return map[string]any{"notifications": out}, nil
	}
	return map[string]any{"notifications": out, "next_token": strconv.FormatInt(next, 10)}, nil
}

// errFull ends EachEvent when the answer has as many events as it may have.
var errFull = errors.New("the answer is full")

// notifiedEventOf returns an event in the form of the answer; nil when it does not notify.
func (p *Push) notifiedEventOf(r *web.Request, e *rooms.Event) (*notifiedEvent, error) {
	res, err := p.evaluate(r.Context(), r.UserID(), e)
	if err != nil || !res.Notify || r.QueryParam("only") == "highlight" && !res.Highlight {
		return nil, err
	}
	read, err := p.hasRead(r.Context(), r.UserID(), e)
	if err != nil {
		return nil, err
	}
	return &notifiedEvent{res.Actions, e.ClientJSON(), read, e.RoomID, e.OriginServerTS}, nil
}

// newestEvents returns the ids of the newest events before a time in the rooms of the user, the newest first. There may be many, of which
// few are read.
func (p *Push) newestEvents(r *web.Request, before int64) ([]string, error) {
	memberships, err := p.Rooms.Memberships(r.Context(), r.UserID())
	if err != nil {
		return nil, err
	}
	var out []rooms.EventTime
	looked := 0
	for _, m := range memberships {
		if m.Membership != event.MembershipJoin || looked == maxNotifiedRooms {
			continue
		}
		looked++
		since, err := p.Rooms.JoinedAt(r.Context(), m)
		if err != nil {
			return nil, err
		}
		events, err := p.Rooms.SentBefore(r.Context(), rooms.SentQuery{
			RoomID: m.RoomID, NotBy: r.UserID(), Before: before, After: since, ScanLimit: scannedEvents, Limit: 2 * maxPage,
		})
		if err != nil {
			return nil, err
		}
		out = append(out, events...)
	}
	slices.SortStableFunc(out, func(a, b rooms.EventTime) int { return cmp.Compare(b.TS, a.TS) })
	ids := make([]string, len(out))
	for i, d := range out {
		ids[i] = d.ID
	}
	return ids, nil
}
