package push

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
	"lyceum/rooms"
)

const (
	pageMost   = 50  // notifications of one answer
	roomsMost  = 200 // rooms that are looked into
	roomLooked = 500 // events of a room that are looked at
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
	limit, err := r.Int("limit", 20, pageMost)
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
	var next int64
	for i, e := range list {
		if len(out) >= limit && e.OriginServerTS != list[i-1].OriginServerTS {
			next = list[i-1].OriginServerTS
			break
		}
		res, err := p.evaluate(r.Context(), r.UserID(), e)
		if err != nil {
			return nil, err
		}
		if !res.Notify || r.Query1("only") == "highlight" && !res.Highlight {
			continue
		}
		read, err := p.hasRead(r.Context(), r.UserID(), e)
		if err != nil {
			return nil, err
		}
		out = append(out, notified{res.Actions, e.ClientJSON(), read, e.RoomID, e.OriginServerTS})
	}
	if next == 0 {
		return map[string]any{"notifications": out}, nil
	}
	return map[string]any{"notifications": out, "next_token": strconv.FormatInt(next, 10)}, nil
}

// candidates are the newest events before a time of the rooms of the user, newest first.
func (p *Push) candidates(r *web.Request, before int64) ([]*rooms.Event, error) {
	memberships, err := p.Rooms.Memberships(r.Context(), r.UserID())
	if err != nil {
		return nil, err
	}
	var out []*rooms.Event
	looked := 0
	for _, m := range memberships {
		if m.Membership != event.MembershipJoin || looked == roomsMost {
			continue
		}
		looked++
		since, err := p.Rooms.JoinedAt(r.Context(), m)
		if err != nil {
			return nil, err
		}
		events, err := p.Rooms.SentBefore(r.Context(), rooms.Sent{
			RoomID: m.RoomID, NotBy: r.UserID(), Before: before, After: since, Look: roomLooked, Limit: 2 * pageMost,
		})
		if err != nil {
			return nil, err
		}
		out = append(out, events...)
	}
	out = slices.DeleteFunc(out, func(e *rooms.Event) bool { return e.RedactedBy != "" })
	slices.SortStableFunc(out, func(a, b *rooms.Event) int { return cmp.Compare(b.OriginServerTS, a.OriginServerTS) })
	return out, nil
}

func (p *Push) hasRead(ctx context.Context, userID string, e *rooms.Event) (bool, error) {
	if _, err := p.Unread(ctx, userID, e.RoomID); err != nil { // the entry knows the receipts then
		return false, err
	}
	thread, err := p.threadOf(ctx, e)
	if err != nil {
		return false, err
	}
	l, entry := p.entry(userID, e.RoomID)
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.Pos <= entry.read[""] || e.Pos <= entry.read[thread], nil
}
