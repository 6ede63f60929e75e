package push

import (
	"cmp"
	"context"
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
	maxNotifiedRooms = 200     // rooms that are looked into
	scannedEvents    = 500     // events of a room that are looked at
	pageBytes        = 2 << 20 // of the events of one answer, but for the last of them
)

type notified struct {
	Actions json.RawMessage `json:"actions"`
	Event   json.RawMessage `json:"event"`
	Read    bool            `json:"read"`
	RoomID  string          `json:"room_id"`
	TS      int64           `json:"ts"`
}

// getNotifications lists events that the rules say to notify of, newest first. They are found by evaluating
// the newest events of the user's rooms; the token is the time to go on from.
func (p *Push) getNotifications(r *web.Request) (any, error) {
	limit, err := r.Int("limit", 20, maxPage)
	if err != nil {
		return nil, err
	}
	limit = max(limit, 1)
	before := int64(1) << 62
	if from := r.Query1("from"); from != "" {
		if before, err = strconv.ParseInt(from, 10, 64); err != nil {
			return nil, matrix.InvalidParam("from: expected a token that this server gave out")
		}
	}
	list, err := p.candidates(r, before)
	if err != nil {
		return nil, err
	}
	out := []notified{}
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
			n, err := p.notified(r, e)
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

// errFull says that an answer has as much as it may have.
var errFull = errors.New("the answer is full")

// notified is an event as the answer has it; nil when it has it not.
func (p *Push) notified(r *web.Request, e *rooms.Event) (*notified, error) {
	res, err := p.evaluate(r.Context(), r.UserID(), e)
	if err != nil || !res.Notify || r.Query1("only") == "highlight" && !res.Highlight {
		return nil, err
	}
	read, err := p.hasRead(r.Context(), r.UserID(), e)
	if err != nil {
		return nil, err
	}
	return &notified{res.Actions, e.ClientJSON(), read, e.RoomID, e.OriginServerTS}, nil
}

// candidates are the ids of the newest events before a time of the rooms of the user, newest first. There may be many, of
// which few are read.
func (p *Push) candidates(r *web.Request, before int64) ([]string, error) {
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

func (p *Push) hasRead(ctx context.Context, userID string, e *rooms.Event) (bool, error) {
	if _, err := p.Unread(ctx, userID, e.RoomID); err != nil { // the entry knows the receipts then
		return false, err
	}
	thread, err := p.threadOf(ctx, e)
	if err != nil {
		return false, err
	}
	l, entry := p.userCount(userID, e.RoomID)
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.Pos <= entry.read[""] || e.Pos <= entry.read[thread], nil
}
