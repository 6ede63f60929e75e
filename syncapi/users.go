package syncapi

import (
	"context"
	"time"

	"lyceum/matrix/event"
	"lyceum/platform/obs"
	"lyceum/rooms"
)

// user returns a user whose rooms are loaded. It takes one statement the first time, and none afterwards.
func (s *Sync) user(ctx context.Context, id string) (*user, error) {
	for {
		if err := s.loadUsers(ctx, id); err != nil {
			return nil, err
		}
		s.mu.RLock()
		u := s.users[id]
		s.mu.RUnlock()
		if u != nil {
			return u, nil
		}
	}
}

// loadUsers makes the rooms of users known to this process. It reads the rooms that are not known yet in one statement.
func (s *Sync) loadUsers(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	if err := s.startStreams(ctx); err != nil {
		return err
	}
	now := obs.Now().UnixMilli()
	s.mu.RLock()
	missing := false
	for _, id := range ids {
		if u := s.users[id]; u != nil && u.loaded {
			u.usedAt.Store(now)
		} else {
			missing = true
		}
	}
	s.mu.RUnlock()
	if !missing {
		return nil
	}
	var mine, others []*user // that are loaded by this call, and by another one
	s.mu.Lock()
	for _, id := range ids {
		u := s.users[id]
		switch {
		case u == nil:
			u = &user{id: id, ready: make(chan struct{}), rooms: map[string]*roomMembership{}, smallSlots: make(chan struct{}, smallPerUser)}
			u.usedAt.Store(now)
			s.users[id] = u
			mine = append(mine, u)
		case !u.loaded:
			others = append(others, u)
		}
	}
	s.mu.Unlock()
	if len(mine) > 0 {
		go s.loadRooms(mine)
	}
	for _, u := range append(mine, others...) {
		select {
		case <-u.ready:
			if u.err != nil {
				return u.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// loadTime is how long reading the rooms of users may take.
const loadTime = 30 * time.Second

// loadRooms reads the rooms of users. Changes that the subscription brings at the same time are newer and win.
func (s *Sync) loadRooms(users []*user) {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	ids := make([]string, len(users))
	byID := make(map[string]*user, len(users))
	for i, u := range users {
		ids[i], byID[u.id] = u.id, u
	}
	list, err := s.Rooms.MembershipsOf(ctx, ids)
	if err == nil {
		err = s.awaitEvents(ctx, list)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		for _, m := range list {
			u := byID[m.UserID]
			if known := u.rooms[m.RoomID]; known == nil || known.pos < m.Pos {
				s.setMembership(u, m.RoomID, &roomMembership{
					membership: m.Membership, eventID: m.EventID, sender: m.Sender, pos: m.Pos, forgotten: m.Forgotten,
				})
			}
		}
	}
	for _, u := range users {
		u.err, u.loaded, u.updatesSince = err, err == nil, s.sequence
		if err != nil {
			s.removeUser(u)
		}
		close(u.ready)
	}
}

// awaitEvents waits until the subscription has brought the events of memberships. The database may be ahead of it, and a user must not
// be in a room because of an event that is behind the positions of an answer.
func (s *Sync) awaitEvents(ctx context.Context, list []rooms.Membership) error {
	var need [rooms.Shards]int64
	for _, m := range list {
		shard := s.Rooms.Stream().Shard(m.RoomID)
		need[shard] = max(need[shard], m.Pos)
	}
	for {
		s.mu.Lock()
		behind := false
		for shard, pos := range need {
			behind = behind || s.received.events[shard] < pos
		}
		if behind && s.advanced == nil {
			s.advanced = make(chan struct{})
		}
		advanced := s.advanced
		s.mu.Unlock()
		if !behind {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// setMembership replaces a user's membership of a room; the caller holds mu.
func (s *Sync) setMembership(u *user, roomID string, m *roomMembership) {
	u.rooms[roomID] = m
	in := s.inRoom[roomID]
	if m.membership == event.MembershipJoin {
		if in == nil {
			in = map[*user]struct{}{}
			s.inRoom[roomID] = in
		}
		in[u] = struct{}{}
		return
	}
	delete(in, u)
	if len(in) == 0 {
		delete(s.inRoom, roomID)
	}
}

// memberChanged applies a membership event to its user, if this process knows the user, and signals the user. The caller holds mu.
func (s *Sync) memberChanged(e *rooms.Event) {
	u := s.users[*e.StateKey]
	if u == nil {
		return
	}
	m := &roomMembership{membership: e.Membership(), eventID: e.ID, sender: e.Sender, pos: e.Pos}
	before := u.rooms[e.RoomID]
	if m.membership == event.MembershipJoin {
		switch {
		case before == nil && u.loaded, before != nil && before.membership != event.MembershipJoin:
			m.joined = e.Pos
		case before != nil:
			m.joined = before.joined
			if m.joined == 0 {
				m.joined = -before.pos
			}
		}
	}
	s.setMembership(u, e.RoomID, m)
	u.addUpdate(e.RoomID, s.sequence)
}

// forgetIdle removes users whom no request needed for ten minutes; the caller holds mu.
func (s *Sync) forgetIdle() {
	limit := obs.Now().Add(-10 * time.Minute).UnixMilli()
	for _, u := range s.users {
		if u.loaded && u.requests.Load() == 0 && u.usedAt.Load() < limit {
			s.removeUser(u)
		}
	}
}

// removeUser forgets a user; the caller holds mu.
func (s *Sync) removeUser(u *user) {
	delete(s.users, u.id)
	delete(s.delayedWakes, u)
	for id := range u.rooms {
		delete(s.inRoom[id], u)
		if len(s.inRoom[id]) == 0 {
			delete(s.inRoom, id)
		}
	}
}

// sharing returns which of some users share a room with u, or are u.
func (s *Sync) sharing(ctx context.Context, u *user, ids []string) (userSet, error) {
	out := userSet{}
	if err := s.loadUsers(ctx, ids...); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, id := range ids {
		other := s.users[id]
		if id == u.id || other != nil && shareRoom(u.rooms, other.rooms) {
			out[id] = true
		}
	}
	return out, nil
}

// shareRoom reports whether two users are joined to the same room; the caller holds Sync.mu.
func shareRoom(a, b map[string]*roomMembership) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	for id, m := range a {
		if m.membership == event.MembershipJoin {
			if other := b[id]; other != nil && other.membership == event.MembershipJoin {
				return true
			}
		}
	}
	return false
}
