package typing

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"lyceum/platform/stream"
)

const (
	longest = 2 * time.Minute        // a client that asks for more renews it
	renewal = 2 * time.Second        // a time that moves by less is not written
	step    = 500 * time.Millisecond // how late the end of a time may be noticed
)

// change is what the owner of a room does.
type change struct {
	UserID string `json:"user"`
	Ms     int64  `json:"ms"` // how long from now; 0 stops
}

// shard holds the rooms in which somebody types, in the process that owns it.
type shard struct {
	mu     sync.Mutex
	loaded bool
	rooms  map[string][]typist // sorted by id, never empty, never changed in place
}

func (s *shard) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loaded, s.rooms = false, nil
}

// load reads what a former owner left; the caller holds mu and this process owns the shard.
func (t *Typing) load(ctx context.Context, i int) error {
	s := &t.shards[i]
	if s.loaded {
		return nil
	}
	list, err := query(ctx, t.Process.DB, `shard = $1 AND users <> '[]'`, i)
	if err != nil {
		return err
	}
	s.loaded, s.rooms = true, map[string][]typist{}
	for _, r := range list {
		s.rooms[r.RoomID] = r.Users
	}
	return nil
}

// setHere runs on the owner of the room's shard.
func (t *Typing) setHere(ctx context.Context, roomID string, c change) (struct{}, error) {
	i := t.stream.Shard(roomID)
	s := &t.shards[i]
	until := t.Now().UnixMilli() + c.Ms
	s.mu.Lock()
	if err := t.load(ctx, i); err != nil {
		s.mu.Unlock()
		return struct{}{}, err
	}
	before := s.rooms[roomID]
	at, found := slices.BinarySearchFunc(before, c.UserID, func(u typist, id string) int { return cmp.Compare(u.ID, id) })
	if c.Ms <= 0 && !found || c.Ms > 0 && found && within(until, before[at].Until) {
		s.mu.Unlock()
		return struct{}{}, nil
	}
	users := slices.Clone(before)
	switch {
	case c.Ms <= 0:
		users = slices.Delete(users, at, at+1)
	case found:
		users[at].Until = until
	default:
		users = slices.Insert(users, at, typist{c.UserID, until})
	}
	ticket, err := t.queue(s, roomID, users)
	s.mu.Unlock()
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, t.wait(ctx, s, ticket)
}

func within(a, b int64) bool { return max(a-b, b-a) < renewal.Milliseconds() }

// queue makes users the state of a room and queues its row; the caller holds mu, so that drop waits and
// nothing is built on a write that failed.
func (t *Typing) queue(s *shard, roomID string, users []typist) (*stream.Ticket, error) {
	if users == nil {
		users = []typist{}
	}
	r := &record{RoomID: roomID, Users: users}
	data, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if len(users) == 0 {
		delete(s.rooms, roomID)
	} else {
		s.rooms[roomID] = users
	}
	return t.Process.Streams.Enqueue(&stream.Entry{Stream: t.stream, Row: stream.Row{Key: roomID, Data: data, Value: r}}), nil
}

// wait waits for a row. What was not taken is read anew.
func (t *Typing) wait(ctx context.Context, s *shard, ticket *stream.Ticket) error {
	err := ticket.Wait(ctx)
	if errors.Is(err, stream.ErrNotOwner) || errors.Is(err, stream.ErrAborted) || errors.Is(err, stream.ErrBusy) {
		s.drop()
	}
	return err
}

// expire appends a row for each room in which somebody's time is over.
func (t *Typing) expire(ctx context.Context) error {
	tick := time.NewTicker(step)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for i := range t.shards {
			if !t.stream.Owns(i) {
				continue
			}
			if err := t.expireShard(ctx, i); err != nil && ctx.Err() == nil && !errors.Is(err, stream.ErrNotOwner) {
				t.Process.Log.Warn("who stopped typing could not be told, trying again", "shard", i, "error", err)
			}
		}
	}
}

func (t *Typing) expireShard(ctx context.Context, i int) error {
	s := &t.shards[i]
	now := t.Now().UnixMilli()
	over := func(u typist) bool { return u.Until <= now }
	var tickets []*stream.Ticket
	s.mu.Lock()
	err := t.load(ctx, i)
	for id, users := range s.rooms {
		if err != nil || !slices.ContainsFunc(users, over) {
			continue
		}
		var ticket *stream.Ticket
		if ticket, err = t.queue(s, id, slices.DeleteFunc(slices.Clone(users), over)); err == nil {
			tickets = append(tickets, ticket)
		}
	}
	s.mu.Unlock()
	for _, ticket := range tickets {
		err = errors.Join(err, t.wait(ctx, s, ticket))
	}
	return err
}
