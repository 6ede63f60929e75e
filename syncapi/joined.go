package syncapi

import (
	"context"
	"encoding/json"

	"lyceum/accounts"
	"lyceum/matrix/event"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// joinedRoom writes the section of a room that the user is joined to, unless it has no news.
func (q *query) joinedRoom(ctx context.Context, w *writer, c candidateRoom) error {
	req, err := q.joinedRequest(ctx, c)
	if err != nil {
		return err
	}
	hasEvents := req.fresh || q.fullState || q.hasNewEvents(req.eventRange)
	news, err := q.newsBesideEvents(ctx, c.room, req.fresh)
	if err != nil {
		return err
	}
	if !hasEvents && news.isEmpty() {
		return nil
	}
	sec := section{timeline: &timeline{prev: req.upto}}
	if hasEvents {
		if sec, err = q.section(ctx, req); err != nil {
			return err
		}
		if !req.fresh && !q.fullState && news.isEmpty() && sec.isEmpty() {
			return nil
		}
	}
	sec.audience = rooms.Audience{UserID: q.user.id, RoomID: c.room, Since: c.memberSince()}
	w.key(c.room)
	w.open('{')
	if err := q.writeSection(ctx, w, sec); err != nil {
		return err
	}
	w.summary(sec.summary)
	w.events("ephemeral", news.ephemeral)
	w.accountData(news.accountData)
	if err := q.writeCounts(ctx, w, c.room); err != nil {
		return err
	}
	w.close('}')
	return nil
}

// joinedRequest returns which events the client needs of a room that the user is joined to.
func (q *query) joinedRequest(ctx context.Context, c candidateRoom) (sectionRequest, error) {
	shard := q.s.Rooms.Stream().Shard(c.room)
	req := sectionRequest{
		eventRange: eventRange{
			roomID: c.room, shard: shard,
			after: q.since[eventsAt+shard], upto: q.upto[eventsAt+shard],
			limit: q.filter.timelineLimit(), memberSince: c.memberSince(), checkVisibility: q.initial,
		},
		fresh:       q.initial,
		withSummary: true,
	}
	switch {
	case q.eventsFromStart:
		req.fresh, req.checkVisibility = true, true
	case !q.initial && req.after < req.upto:
		was, lookedUp, err := q.joinedAt(ctx, c, req.after)
		if err != nil {
			return req, err
		}
		req.fresh, req.checkVisibility = !was, !was || lookedUp
	}
	return req, nil
}

// roomNews is what a joined room has besides its events.
type roomNews struct {
	ephemeral   []json.RawMessage
	accountData []accounts.AccountDatum
	read        bool // the user has read something, so the unread counts may have changed
}

func (n *roomNews) isEmpty() bool { return len(n.ephemeral) == 0 && len(n.accountData) == 0 && !n.read }

// newsBesideEvents reads the news of a room besides its events; with fresh, all that there is.
func (q *query) newsBesideEvents(ctx context.Context, roomID string, fresh bool) (n roomNews, err error) {
	if n.ephemeral, n.read, err = q.ephemeral(ctx, roomID, fresh); err != nil {
		return n, err
	}
	n.accountData = q.roomData[roomID]
	if fresh && !q.initial {
		n.accountData, err = q.allRoomData(ctx, roomID)
	}
	return n, err
}

// joinedAt reports whether the user was joined at a position. lookedUp means that this was read, so the user may have left and come
// back between that position and now.
func (q *query) joinedAt(ctx context.Context, c candidateRoom, pos int64) (was, lookedUp bool, err error) {
	switch {
	case c.joined > 0 && pos >= c.joined, c.joined < 0 && pos >= -c.joined, c.joined == 0 && pos >= c.pos:
		return c.membership == event.MembershipJoin, false, nil
	}
	id := c.eventID
	for n := 0; id != "" && n < 3; n++ { // mostly these events are in memory
		e, err := q.s.Rooms.Event(ctx, id)
		if err != nil {
			return false, true, err
		}
		if e == nil {
			break
		}
		if e.Pos <= pos {
			return e.Membership() == event.MembershipJoin, true, nil
		}
		if id = e.Replaces; id == "" {
			return false, true, nil
		}
	}
	root, err := q.rootAt(ctx, c.room, pos)
	if err != nil {
		return false, true, err
	}
	key := state.Key{Type: event.TypeMember, StateKey: q.user.id}
	found, err := q.s.Rooms.StateEvents(ctx, root, key)
	if err != nil {
		return false, true, err
	}
	m := found[key]
	return m != nil && m.Membership() == event.MembershipJoin, true, nil
}

// hasNewEvents reports whether there are events in a range. It may be wrong when that is not known in memory: then it returns true.
func (q *query) hasNewEvents(r eventRange) bool {
	if r.after >= r.upto {
		return false
	}
	q.s.mu.RLock()
	defer q.s.mu.RUnlock()
	return q.s.events.hasAfter(r.shard, r.roomID, r.after)
}
