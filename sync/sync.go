package sync

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"lyceum/accounts"
	"lyceum/devices"
	"lyceum/matrix/event"
	"lyceum/platform/role"
	"lyceum/platform/stream"
	"lyceum/presence"
	"lyceum/push"
	"lyceum/receipts"
	"lyceum/rooms"
	"lyceum/typing"
)

// Config is the section "sync".
type Config struct {
	Window     int `yaml:"window" default:"50" min:"10" help:"Newest events of each room kept in memory."`
	MaxTimeout int `yaml:"max_timeout_seconds" default:"90" min:"1" help:"Longest time in seconds that a request waits for news."`
}

// Deps is what the package is given.
type Deps struct {
	Process  *role.Process
	Accounts *accounts.Accounts
	Devices  *devices.Devices
	Rooms    *rooms.Rooms
	Receipts *receipts.Receipts
	Typing   *typing.Typing
	Presence *presence.Presence
	Push     *push.Push
}

// Sync is the package's one object.
type Sync struct {
	Deps
	config Config

	mu       sync.RWMutex
	started  bool
	now      heads
	news     uint64 // rows that the tails brought
	events   *recent[*rooms.Event]
	receipts *recent[*receipts.Receipt]
	typing   *recent[*typing.State]
	presence *byShard[*presence.Status]
	devices  *byShard[string]
	users    map[string]*user
	inRoom   map[string]map[*user]struct{} // users who are joined to a room, by room id
	late     map[*user]struct{}            // to be woken soon, for news that can wait
	unknown  map[string]struct{}           // users with such news whose rooms are not known here
	redacted map[string]struct{}           // events in memory whose text is the one before a redaction
	related  map[string]struct{}           // events that newer ones refer to
	// looked: which events at or before these positions others refer to is not known.
	looked   []int64
	advanced chan struct{} // closed when an event comes; nil while nobody waits

	lazy    lazyMembers
	filters filters
}

// heads are the positions up to which the tails of this package have come, by stream and shard.
type heads struct {
	events, receipts, typing, presence, deviceLists, toDevice, accountData []int64
}

// New registers the tails of all streams.
func New(d Deps, c Config) *Sync {
	s := &Sync{
		Deps: d, config: c, users: map[string]*user{}, inRoom: map[string]map[*user]struct{}{}, late: map[*user]struct{}{},
		filters: newFilters(), unknown: map[string]struct{}{}, redacted: map[string]struct{}{}, related: map[string]struct{}{},
		events: newRecent[*rooms.Event](c.Window), receipts: newRecent[*receipts.Receipt](c.Window), typing: newRecent[*typing.State](2),
	}
	follow(s, d.Rooms.Stream(), &s.now.events, d.Rooms.FromRow, s.event)
	follow(s, d.Receipts.Stream(), &s.now.receipts, receipts.FromRow, s.receipt)
	follow(s, d.Typing.Stream(), &s.now.typing, typing.FromRow, s.typingChanged)
	follow(s, d.Presence.Stream(), &s.now.presence, presence.FromRow, s.presenceChanged)
	follow(s, d.Devices.DeviceListStream(), &s.now.deviceLists, keyOf, s.deviceList)
	follow(s, d.Devices.ToDeviceStream(), &s.now.toDevice, keyOf, s.forReceiver)
	follow(s, d.Accounts.DataStream(), &s.now.accountData, roomOfDatum, s.accountDatum)
	d.Process.Go("sync.tidy", s.tidy)
	return s
}

// follow registers the tail of a stream. What a row says is read before the lock is taken.
func follow[T any](s *Sync, st *stream.Stream, at *[]int64, read func(stream.Row) (T, error), take func(stream.Row, T)) {
	st.Tail(func(rows []stream.Row) {
		values, failed := make([]T, len(rows)), make([]error, len(rows))
		for i, row := range rows {
			values[i], failed[i] = read(row)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.begin()
		for i, row := range rows {
			s.news++
			if err := failed[i]; err != nil {
				s.Process.Log.Error("a row could not be read", "stream", st.Name(), "shard", row.Shard, "position", row.Pos, "error", err)
			} else {
				take(row, values[i])
			}
			(*at)[row.Shard] = row.Pos
		}
		if s.advanced != nil {
			close(s.advanced)
			s.advanced = nil
		}
	})
}

func keyOf(row stream.Row) (string, error) { return row.Key, nil }

// roomOfDatum gives the room of a piece of account data, "" for a global one.
func roomOfDatum(row stream.Row) (string, error) {
	if d, ok := row.Value.(*accounts.AccountDatum); ok {
		return d.RoomID, nil
	}
	var d accounts.AccountDatum
	err := json.Unmarshal(row.Data, &d)
	return d.RoomID, err
}

// begin takes the positions at which this process began to listen; the caller holds mu. Compacted streams
// skip positions, so those of the streams count, not those of rows.
func (s *Sync) begin() {
	if s.started {
		return
	}
	s.started = true
	start := func(st *stream.Stream) []int64 { return st.Started() }
	s.now = heads{
		events: start(s.Rooms.Stream()), receipts: start(s.Receipts.Stream()), typing: start(s.Typing.Stream()),
		presence: start(s.Presence.Stream()), deviceLists: start(s.Devices.DeviceListStream()),
		toDevice: start(s.Devices.ToDeviceStream()), accountData: start(s.Accounts.DataStream()),
	}
	s.events.start, s.receipts.start, s.typing.start = clone(s.now.events), clone(s.now.receipts), clone(s.now.typing)
	s.looked = clone(s.now.events)
	s.presence = newByShard[*presence.Status](2000, s.now.presence)
	s.devices = newByShard[string](2000, s.now.deviceLists)
}

func clone(v []int64) []int64 { return append([]int64(nil), v...) }

const relatedKept = 50_000

// event takes a row of the events stream; the caller holds mu, as for the functions below.
func (s *Sync) event(row stream.Row, e *rooms.Event) {
	if e.Pos == 0 {
		s.Process.Log.Error("an event has no position", "event", e.ID)
		return
	}
	s.events.add(row.Shard, e.RoomID, row.Pos, e)
	if e.IsState() && e.Type == event.TypeMember {
		s.memberChanged(e)
	}
	if target := rooms.Target(e); target != "" {
		if len(s.related) >= relatedKept {
			clear(s.related)
			s.looked = clone(s.now.events)
		}
		s.related[target] = struct{}{}
	}
	if e.Redacts != "" && s.events.holds(e.RoomID, func(old *rooms.Event) bool { return old.ID == e.Redacts }) {
		s.redacted[e.Redacts] = struct{}{}
	}
	s.touch(e.RoomID)
}

func (s *Sync) receipt(row stream.Row, r *receipts.Receipt) {
	s.receipts.add(row.Shard, r.RoomID, row.Pos, r)
	if r.Type != receipts.TypePrivate {
		s.touch(r.RoomID)
	} else if u := s.users[r.UserID]; u != nil {
		u.touch(r.RoomID, s.news)
	}
}

func (s *Sync) typingChanged(row stream.Row, t *typing.State) {
	s.typing.add(row.Shard, t.RoomID, row.Pos, t)
	s.touch(t.RoomID)
}

func (s *Sync) presenceChanged(row stream.Row, p *presence.Status) {
	s.presence.add(row.Shard, row.Pos, p)
	s.wakeMates(p.UserID)
}

func (s *Sync) deviceList(row stream.Row, userID string) {
	s.devices.add(row.Shard, row.Pos, userID)
	u := s.users[userID]
	if u == nil || !u.loaded {
		s.unknown[userID] = struct{}{}
		return
	}
	u.signal()
	for id, m := range u.rooms {
		if m.membership == event.MembershipJoin {
			for other := range s.inRoom[id] {
				other.signal()
			}
		}
	}
}

// wakeMates notes that those who share a room with a user are to be woken soon.
func (s *Sync) wakeMates(userID string) {
	u := s.users[userID]
	if u == nil || !u.loaded {
		s.unknown[userID] = struct{}{}
		return
	}
	for id, m := range u.rooms {
		if m.membership != event.MembershipJoin {
			continue
		}
		for other := range s.inRoom[id] {
			if other.waits.Load() > 0 {
				s.late[other] = struct{}{}
			}
		}
	}
}

// forReceiver wakes the user whose id is the key of the row.
func (s *Sync) forReceiver(row stream.Row, _ string) {
	if u := s.users[row.Key]; u != nil {
		u.signal()
	}
}

func (s *Sync) accountDatum(row stream.Row, roomID string) {
	u := s.users[row.Key]
	switch {
	case u == nil:
	case roomID != "":
		u.touch(roomID, s.news)
	default:
		u.signal()
	}
}

// tidy wakes users for news that can wait, and forgets users who are gone.
func (s *Sync) tidy(ctx context.Context) error {
	soon := time.NewTicker(2 * time.Second)
	defer soon.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-soon.C:
		}
		if err := s.wakeLate(ctx); err != nil && ctx.Err() == nil {
			s.Process.Log.Warn("some clients are not woken for news of others", "error", err)
		}
		if n%60 == 0 {
			s.mu.Lock()
			if s.started {
				s.events.prune(5)
				s.receipts.prune(5)
				s.typing.prune(5)
				s.forgetIdle()
			}
			s.mu.Unlock()
		}
	}
}

// wakeLate wakes the users for whom news waited. The rooms of people who are not known here are read first,
// in one statement for all of them.
func (s *Sync) wakeLate(ctx context.Context) error {
	s.mu.Lock()
	ids := make([]string, 0, len(s.unknown))
	for id := range s.unknown {
		ids = append(ids, id)
	}
	clear(s.unknown)
	s.mu.Unlock()
	err := s.know(ctx, ids...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if u := s.users[id]; u != nil && u.loaded {
			s.wakeMates(id)
		}
	}
	for u := range s.late {
		u.signal()
	}
	clear(s.late)
	if err != nil {
		return fmt.Errorf("read the rooms of %d users: %w", len(ids), err)
	}
	return nil
}
