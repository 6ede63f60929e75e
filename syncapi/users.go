package syncapi

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lyceum/matrix/event"
	"lyceum/platform/obs"
	"lyceum/rooms"
)

// user is a user that this process serves, or whose rooms it had to know.
type user struct {
	id      string
	ready   chan struct{} // closed when the rooms are loaded or err is set
	err     error
	used    atomic.Int64 // ms since 1970
	waits   atomic.Int32 // requests under way
	signals atomic.Uint64
	built   chan struct{} // places for small answers that are built
	heavy   line          // at those for large ones
	served  atomic.Bool   // asked for news here, so touches are kept

	// Under Sync.mu.
	rooms   map[string]*place
	loaded  bool
	touches []touch
	floor   uint64 // of what came later all touches are there

	mu      sync.Mutex
	waiting *waiter // the first of those to be called at the next signal
	marks   [4]mark
	next    int
}

// waiter is a request that waits for a signal of its user. Its fields are guarded by the user's mu.
type waiter struct {
	user         *user
	wake         func()
	before, next *waiter
	waits        bool // it is among user.waiting
	stopped      bool
}

// place is a user's membership of a room. It is never changed, only replaced.
type place struct {
	membership string
	eventID    string
	sender     string
	pos        int64 // of the membership event
	joined     int64 // position at which the user joined, when this process saw it; below 0: at or before it; else 0
	forgotten  bool
}

// since is a position from which on a member is one.
func (p *place) since() int64 {
	if p.joined == 0 {
		return p.pos
	}
	return max(p.joined, -p.joined)
}

// touch says that a room has news for the user.
type touch struct {
	news uint64 // Sync.news at that time
	room string
}

// mark says how much this process had seen when it gave out a token.
type mark struct {
	at   print
	news uint64
}

// signal wakes the requests of the user.
func (u *user) signal() {
	u.signals.Add(1)
	if u.waits.Load() == 0 {
		return
	}
	u.mu.Lock()
	first := u.waiting
	u.waiting = nil
	for w := first; w != nil; w = w.next { // from here on nobody else changes them
		w.waits = false
	}
	u.mu.Unlock()
	for w := first; w != nil; w = w.next {
		w.wake()
	}
}

// await calls wake, which does not block, at the first signal after so many, until stop is called.
func (u *user) await(signals uint64, wake func()) (stop func()) {
	w := &waiter{user: u, wake: wake, waits: true}
	u.waits.Add(1) // before it looks: who signals meanwhile either is seen or sees it
	u.mu.Lock()
	if w.next = u.waiting; w.next != nil {
		w.next.before = w
	}
	u.waiting = w
	u.mu.Unlock()
	if u.signals.Load() != signals {
		u.mu.Lock()
		was := w.leave()
		u.mu.Unlock()
		if was {
			wake()
		}
	}
	return w.stop
}

// leave takes a waiter out of those that wait, and tells whether it was among them; the caller holds the user's mu.
func (w *waiter) leave() (was bool) {
	if !w.waits {
		return false
	}
	w.waits = false
	if w.next != nil {
		w.next.before = w.before
	}
	if w.before != nil {
		w.before.next = w.next
	} else {
		w.user.waiting = w.next
	}
	return true
}

func (w *waiter) stop() {
	w.user.mu.Lock()
	defer w.user.mu.Unlock()
	w.leave()
	if !w.stopped {
		w.stopped = true
		w.user.waits.Add(-1)
	}
}

const touchesKept = 256

// touch notes that a room has news and wakes the user; the caller holds Sync.mu.
func (u *user) touch(roomID string, news uint64) {
	if !u.served.Load() {
		return
	}
	if n := len(u.touches); n > 0 && u.touches[n-1].room == roomID {
		u.touches[n-1].news = news
	} else {
		if n >= 2*touchesKept {
			u.floor = u.touches[n-touchesKept-1].news
			u.touches = append(u.touches[:0], u.touches[n-touchesKept:]...)
		}
		u.touches = append(u.touches, touch{news, roomID})
	}
	u.signal()
}

// given notes a token that the user got.
func (u *user) given(at *vector, news uint64) {
	m := mark{at.print(), news}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.marks[u.next] = m
	u.next = (u.next + 1) % len(u.marks)
}

// seen tells how much this process had seen when it gave out a token.
func (u *user) seen(at *vector) (news uint64, ok bool) {
	p := at.print()
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range u.marks {
		if u.marks[i].news > 0 && u.marks[i].at == p {
			return u.marks[i].news, true
		}
	}
	return 0, false
}

// touch notes that a room has news for its members.
func (s *Sync) touch(roomID string) {
	for u := range s.inRoom[roomID] {
		u.touch(roomID, s.news)
	}
}

// user gives a user with the rooms loaded: one statement at first, none afterwards.
func (s *Sync) user(ctx context.Context, id string) (*user, error) {
	for {
		if err := s.know(ctx, id); err != nil {
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

// know loads the rooms of those users whose rooms are not known here, in one statement.
func (s *Sync) know(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	if err := s.open(ctx); err != nil {
		return err
	}
	now := obs.Now().UnixMilli()
	s.mu.RLock()
	missing := false
	for _, id := range ids {
		if u := s.users[id]; u != nil && u.loaded {
			u.used.Store(now)
		} else {
			missing = true
		}
	}
	s.mu.RUnlock()
	if !missing {
		return nil
	}
	var mine, others []*user
	s.mu.Lock()
	for _, id := range ids {
		u := s.users[id]
		switch {
		case u == nil:
			u = &user{id: id, ready: make(chan struct{}), rooms: map[string]*place{}, built: make(chan struct{}, builtOfUser)}
			u.used.Store(now)
			s.users[id] = u
			mine = append(mine, u)
		case !u.loaded:
			others = append(others, u)
		}
	}
	s.mu.Unlock()
	if len(mine) > 0 {
		go s.load(mine)
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

const loadTime = 30 * time.Second

// load reads the rooms of users. Changes that the tail brings meanwhile are newer and win.
func (s *Sync) load(users []*user) {
	ctx, cancel := context.WithTimeout(context.Background(), loadTime)
	defer cancel()
	ids := make([]string, len(users))
	byID := make(map[string]*user, len(users))
	for i, u := range users {
		ids[i], byID[u.id] = u.id, u
	}
	list, err := s.Rooms.MembershipsOf(ctx, ids)
	if err == nil {
		err = s.reach(ctx, list)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		for _, m := range list {
			u := byID[m.UserID]
			if p := u.rooms[m.RoomID]; p == nil || p.pos < m.Pos {
				s.put(u, m.RoomID, &place{membership: m.Membership, eventID: m.EventID, sender: m.Sender, pos: m.Pos, forgotten: m.Forgotten})
			}
		}
	}
	for _, u := range users {
		u.err, u.loaded, u.floor = err, err == nil, s.news
		if err != nil {
			s.drop(u)
		}
		close(u.ready)
	}
}

// reach waits until the tail has brought the events of memberships, as the database may be ahead of it: a
// user must not be in a room by an event that an answer does not reach.
func (s *Sync) reach(ctx context.Context, list []rooms.Membership) error {
	var need [rooms.Shards]int64
	for _, m := range list {
		shard := s.Rooms.Stream().Shard(m.RoomID)
		need[shard] = max(need[shard], m.Pos)
	}
	for {
		s.mu.Lock()
		behind := false
		for shard, pos := range need {
			behind = behind || s.now.events[shard] < pos
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
	p := &place{membership: e.Membership(), eventID: e.ID, sender: e.Sender, pos: e.Pos}
	before := u.rooms[e.RoomID]
	if p.membership == event.MembershipJoin {
		switch {
		case before == nil && u.loaded, before != nil && before.membership != event.MembershipJoin:
			p.joined = e.Pos
		case before != nil:
			p.joined = before.joined
			if p.joined == 0 {
				p.joined = -before.pos
			}
		}
	}
	s.put(u, e.RoomID, p)
	u.touch(e.RoomID, s.news)
}

// forgetIdle drops users that nobody asked for in a while; the caller holds mu.
func (s *Sync) forgetIdle() {
	limit := obs.Now().Add(-10 * time.Minute).UnixMilli()
	for _, u := range s.users {
		if u.loaded && u.waits.Load() == 0 && u.used.Load() < limit {
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

// moment is what this process knew for a user at one time.
type moment struct {
	at     vector
	news   uint64
	places []placeIn // of the rooms that may have news, by room id
}

// placeIn is a place with its room.
type placeIn struct {
	room string
	*place
}

// look takes positions and rooms at once, so that no membership is newer than the positions. With known,
// only rooms with news after since are looked at.
func (s *Sync) look(u *user, m *moment, since uint64, known bool) {
	s.mu.RLock()
	s.heads(u, &m.at)
	m.news, m.places = s.news, m.places[:0]
	if known && since >= u.floor {
		for i := len(u.touches) - 1; i >= 0 && u.touches[i].news > since; i-- {
			room := u.touches[i].room
			if p := u.rooms[room]; p != nil {
				m.places = append(m.places, placeIn{room, p})
			}
		}
	} else {
		m.places = slices.Grow(m.places, len(u.rooms))
		for id, p := range u.rooms {
			m.places = append(m.places, placeIn{id, p})
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(m.places, func(a, b placeIn) int { return strings.Compare(a.room, b.room) })
	m.places = slices.CompactFunc(m.places, func(a, b placeIn) bool { return a.room == b.room })
}

// heads gives the positions up to which rows have come, for a user; the caller holds mu.
func (s *Sync) heads(u *user, v *vector) {
	copy(v[eventsAt:], s.now.events)
	copy(v[receiptsAt:], s.now.receipts)
	copy(v[typingAt:], s.now.typing)
	copy(v[presenceAt:], s.now.presence)
	copy(v[deviceListsAt:], s.now.deviceLists)
	v[toDeviceAt] = s.now.toDevice[s.Devices.ToDeviceStream().Shard(u.id)]
	v[accountDataAt] = s.now.accountData[s.Accounts.DataStream().Shard(u.id)]
}

// sharing tells which of some users share a room with u, or are u.
func (s *Sync) sharing(ctx context.Context, u *user, ids []string) (users, error) {
	out := users{}
	if err := s.know(ctx, ids...); err != nil {
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

func shareRoom(a, b map[string]*place) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	for id, p := range a {
		if p.membership == event.MembershipJoin {
			if q := b[id]; q != nil && q.membership == event.MembershipJoin {
				return true
			}
		}
	}
	return false
}
