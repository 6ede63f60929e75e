package sync

import (
	"context"
	"sync"
	"time"

	"lyceum/matrix/event"
	"lyceum/platform/obs"
	"lyceum/rooms"
)

// user is a user that this process serves, or whose rooms it had to know.
type user struct {
	id     string
	once   sync.Once // loads rooms
	err    error
	rooms  map[string]*place // under Sync.mu
	loaded bool
	used   time.Time
	waits  int

	wakeMu sync.Mutex
	wake   chan struct{}
}

// place is a user's membership of a room.
type place struct {
	membership string
	eventID    string
	pos        int64 // of the membership event
	joined     int64 // position at which the user joined, when this process saw it; else 0
	forgotten  bool
}

func (u *user) signal() {
	u.wakeMu.Lock()
	close(u.wake)
	u.wake = make(chan struct{})
	u.wakeMu.Unlock()
}

// news is closed at the next signal.
func (u *user) news() <-chan struct{} {
	u.wakeMu.Lock()
	defer u.wakeMu.Unlock()
	return u.wake
}

// user gives a user with the rooms loaded: one statement at first, none afterwards.
func (s *Sync) user(ctx context.Context, id string) (*user, error) {
	s.mu.Lock()
	s.begin()
	u := s.users[id]
	if u == nil {
		u = &user{id: id, rooms: map[string]*place{}, wake: make(chan struct{})}
		s.users[id] = u
	}
	u.used = obs.Now()
	s.mu.Unlock()
	u.once.Do(func() { u.err = s.load(context.WithoutCancel(ctx), u) })
	if u.err != nil {
		s.mu.Lock()
		if s.users[id] == u {
			s.drop(u)
		}
		s.mu.Unlock()
	}
	return u, u.err
}

// load reads the rooms of a user. Changes that the tail brings meanwhile are newer and win.
func (s *Sync) load(ctx context.Context, u *user) error {
	list, err := s.Rooms.Memberships(ctx, u.id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range list {
		if p := u.rooms[m.RoomID]; p == nil || p.pos < m.Pos {
			s.put(u, m.RoomID, &place{membership: m.Membership, eventID: m.EventID, pos: m.Pos, forgotten: m.Forgotten})
		}
	}
	u.loaded = true
	return nil
}

func (s *Sync) put(u *user, roomID string, p *place) {
	u.rooms[roomID] = p
	in := s.inRoom[roomID]
	if p.membership == event.MembershipJoin {
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

// memberChanged applies a membership event to a user that is known here, and wakes the user.
func (s *Sync) memberChanged(e *rooms.Event) {
	u := s.users[*e.StateKey]
	if u == nil {
		return
	}
	p := &place{membership: e.Membership(), eventID: e.ID, pos: e.Pos}
	before := u.rooms[e.RoomID]
	if p.membership == event.MembershipJoin {
		switch {
		case before == nil && u.loaded, before != nil && before.membership != event.MembershipJoin:
			p.joined = e.Pos
		case before != nil:
			p.joined = before.joined
			if p.joined == 0 {
				p.joined = -before.pos // joined at or before that position
			}
		}
	}
	s.put(u, e.RoomID, p)
	u.signal()
}

// forgetIdle drops users that nobody asked for in a while; the caller holds mu.
func (s *Sync) forgetIdle() {
	limit := obs.Now().Add(-10 * time.Minute)
	for _, u := range s.users {
		if u.waits == 0 && u.used.Before(limit) {
			s.drop(u)
		}
	}
}

func (s *Sync) drop(u *user) {
	delete(s.users, u.id)
	delete(s.late, u)
	for id := range u.rooms {
		delete(s.inRoom[id], u)
		if len(s.inRoom[id]) == 0 {
			delete(s.inRoom, id)
		}
	}
}

// snapshot is a copy of a user's places, made once for an answer.
func (s *Sync) snapshot(u *user) map[string]place {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make(map[string]place, len(u.rooms))
	for id, p := range u.rooms {
		out[id] = *p
	}
	return out
}

// shares tells whether two users are joined to a common room.
func (s *Sync) shares(ctx context.Context, u *user, other string) (bool, error) {
	if u.id == other {
		return true, nil
	}
	o, err := s.user(ctx, other)
	if err != nil {
		return false, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	a, b := u.rooms, o.rooms
	if len(a) > len(b) {
		a, b = b, a
	}
	for id, p := range a {
		if p.membership == event.MembershipJoin {
			if q := b[id]; q != nil && q.membership == event.MembershipJoin {
				return true, nil
			}
		}
	}
	return false, nil
}

// lazyMembers remembers which member events a device has been given, so that they are not sent again.
type lazyMembers struct {
	mu      sync.Mutex
	devices map[string]map[string]string // user and device to room and member to event id
}

const lazyDevices, lazyEach = 5000, 2000

// sent tells whether the device has the member's event already, and notes that it gets it now.
func (l *lazyMembers) sent(device, room, member, eventID string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.devices[device]
	if known == nil || len(known) > lazyEach {
		if l.devices == nil || len(l.devices) > lazyDevices {
			l.devices = map[string]map[string]string{}
		}
		known = map[string]string{}
		l.devices[device] = known
	}
	key := room + "\x00" + member
	if known[key] == eventID {
		return true
	}
	known[key] = eventID
	return false
}

// forget makes a device get all member events again, as it begins anew.
func (l *lazyMembers) forget(device string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.devices, device)
}
