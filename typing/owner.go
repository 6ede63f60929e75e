package typing

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/owned"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

const (
	maxTimeout     = 2 * time.Minute        // a client that asks for more renews it
	minRenewal     = 2 * time.Second        // a time that moves by less is not written
	expiryInterval = 500 * time.Millisecond // how late the end of a time may be noticed
)

// setRequest is what the owner of a room does.
type setRequest struct {
	UserID string `json:"user"`
	Ms     int64  `json:"ms"`     // how long from now; 0 stops
	Member int64  `json:"member"` // position of the membership that it rests upon
	Left   int64  `json:"left"`   // position of the membership that ended it, 0 when the user says so
}

// roomTyping is what the owner of a room knows of it.
type roomTyping struct {
	typists    []typist // sorted by id; the slice is never changed in place
	endedCount int64    // ended memberships that the owner heard of since the room is in memory
}

// load reads the row of a former owner. The time of users whose membership has ended is set to 0, so that it is over.
func (t *Typing) load(ctx context.Context, roomID string) (*roomTyping, error) {
	list, err := query(ctx, t.Process.DB, `room_id = $1`, roomID)
	if err != nil || len(list) == 0 {
		return &roomTyping{}, err
	}
	users := list[0].Users
	for i, u := range users {
		m, err := t.Rooms.Membership(ctx, u.ID, roomID)
		if err != nil {
			return nil, err
		}
		if m.Membership != event.MembershipJoin {
			users[i].Until = 0
		}
	}
	return &roomTyping{typists: users}, nil
}

// active are the rooms of a shard in which somebody typed for a former owner.
func (t *Typing) active(ctx context.Context, shard int) ([]string, error) {
	return db.Texts(t.Process.DB.Query(ctx, `SELECT room_id FROM typing WHERE shard = $1 AND users <> '[]'`, shard))
}

// setAtOwner runs on the owner of the room's shard.
func (t *Typing) setAtOwner(ctx context.Context, roomID string, req setRequest) (struct{}, error) {
	until := t.Now().UnixMilli() + req.Ms
	var lookup membershipLookup
	return struct{}{}, t.owned.Do(ctx, roomID, func(c *owned.Change[roomTyping]) error { return t.decide(c, roomID, req, until, &lookup) })
}

// membershipLookup is the owner's own lookup of the membership of a user who begins to type. The request may have been delayed since it
// checked the membership, and the owner does not remember who left. The lookup is valid until the owner hears of an ended membership.
type membershipLookup struct {
	room       *roomTyping // nil when there was none
	endedCount int64       // before the lookup
	found      rooms.Membership
}

func (t *Typing) decide(c *owned.Change[roomTyping], roomID string, req setRequest, until int64, lookup *membershipLookup) error {
	s := c.State()
	before := s.typists
	if req.Left > 0 {
		c.Append(func(s *roomTyping, _ *stream.Ticket) { s.endedCount++ })
	}
	at, found := slices.BinarySearchFunc(before, req.UserID, func(u typist, id string) int { return cmp.Compare(u.ID, id) })
	switch {
	case req.Ms <= 0 && (!found || req.Left > 0 && req.Left < before[at].Member): // came back and types again
		return nil
	case req.Ms > 0 && found && nearlyEqual(until, before[at].Until) && req.Member <= before[at].Member:
		return nil
	case req.Ms > 0 && !found && (lookup.room != s || lookup.endedCount != s.endedCount):
		ended := s.endedCount
		return c.Need(func(ctx context.Context) (func(*roomTyping), error) {
			m, err := t.Rooms.Membership(ctx, req.UserID, roomID)
			return func(s *roomTyping) { *lookup = membershipLookup{s, ended, m} }, err
		})
	case req.Ms > 0 && !found && lookup.found.Membership != event.MembershipJoin:
		return notMember()
	}
	users := slices.Clone(before)
	switch {
	case req.Ms <= 0:
		users = slices.Delete(users, at, at+1)
	case found:
		users[at].Until, users[at].Member = until, max(req.Member, users[at].Member)
	default:
		users = slices.Insert(users, at, typist{req.UserID, until, lookup.found.Pos})
	}
	return t.appendState(c, roomID, users)
}

func nearlyEqual(a, b int64) bool { return max(a-b, b-a) < minRenewal.Milliseconds() }

// appendState appends the row that makes users the state of a room.
func (t *Typing) appendState(c *owned.Change[roomTyping], roomID string, users []typist) error {
	if users == nil {
		users = []typist{}
	}
	r := &record{RoomID: roomID, Users: users}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	c.Append(
		func(s *roomTyping, _ *stream.Ticket) { s.typists = users },
		&stream.Entry{Stream: t.stream, Row: stream.Row{Key: roomID, Data: data, Value: r}},
	)
	return nil
}

// endedMembership is somebody whose membership of a room ended, and where.
type endedMembership struct {
	roomID, userID string
	pos            int64
}

// queueEnded is a subscription to the events stream at the owners of rooms, which tell the owner of the typing whose membership ended. A
// note that is lost with a process is found by load, or the typing times out.
func (t *Typing) queueEnded(rows []stream.Row) {
	events := t.Rooms.Stream()
	for i := range rows {
		row := &rows[i]
		if row.Value == nil && !bytes.Contains(row.Data, []byte(event.TypeMember)) || !events.Owns(row.Shard) { // most are not read
			continue
		}
		e, err := t.Rooms.FromRowCached(row)
		if err != nil || e.Type != event.TypeMember || !e.IsState() || e.Membership() == event.MembershipJoin {
			continue // package rooms reports what can not be read
		}
		select {
		case t.ended <- endedMembership{e.RoomID, *e.StateKey, row.Pos}:
		default: // too many at once
		}
	}
}

// stopEnded ends the typing of those whose membership ended.
func (t *Typing) stopEnded(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-t.ended:
			if _, err := t.set(ctx, m.roomID, setRequest{UserID: m.userID, Left: m.pos}); err != nil && ctx.Err() == nil {
				t.Process.Log.Debug("who left and was typing could not be told", "room", m.roomID, "error", err)
			}
		}
	}
}

// expire appends a row for each room in which somebody's time is over.
func (t *Typing) expire(ctx context.Context) error {
	tick := time.NewTicker(expiryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for i := range Shards {
			if err := t.expireShard(ctx, i); err != nil && ctx.Err() == nil && !errors.Is(err, stream.ErrNotOwner) {
				t.Process.Log.Warn("who stopped typing could not be told, trying again", "shard", i, "error", err)
			}
		}
	}
}

func (t *Typing) expireShard(ctx context.Context, i int) error {
	now := t.Now().UnixMilli()
	over := func(u typist) bool { return u.Until <= now }
	return t.owned.Each(ctx, i, func(roomID string, c *owned.Change[roomTyping]) error {
		users := c.State().typists
		if !slices.ContainsFunc(users, over) {
			return nil
		}
		return t.appendState(c, roomID, slices.DeleteFunc(slices.Clone(users), over))
	})
}
