package sync

import (
	"context"
	"fmt"
	"maps"
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
	events   *recent[*rooms.Event]
	receipts *recent[*receipts.Receipt]
	typing   *recent[*typing.State]
	presence *byShard[*presence.Status]
	devices  *byShard[string]
	users    map[string]*user
	inRoom   map[string]map[*user]struct{} // users with a place in a room, by room id
	late     map[*user]struct{}            // to be woken soon, for news that can wait
	related  map[string]struct{}           // events that newer ones refer to
	lazy     lazyMembers
}

// heads are the positions up to which the tails of this package have come, by stream and shard.
type heads struct {
	events, receipts, typing, presence, deviceLists, toDevice, accountData []int64
}

// New registers the tails of all streams.
func New(d Deps, c Config) *Sync {
	s := &Sync{
		Deps: d, config: c, users: map[string]*user{}, inRoom: map[string]map[*user]struct{}{},
		late: map[*user]struct{}{}, related: map[string]struct{}{},
		events: newRecent[*rooms.Event](c.Window), receipts: newRecent[*receipts.Receipt](c.Window), typing: newRecent[*typing.State](2),
	}
	tail := func(st *stream.Stream, fn func(row stream.Row) error, at *[]int64) {
		st.Tail(func(rows []stream.Row) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.begin()
			for _, row := range rows {
				if err := fn(row); err != nil {
					d.Process.Log.Error("a row could not be read", "stream", st.Name(), "shard", row.Shard, "position", row.Pos, "error", err)
				}
				(*at)[row.Shard] = row.Pos
			}
		})
	}
	tail(d.Rooms.Stream(), s.event, &s.now.events)
	tail(d.Receipts.Stream(), s.receipt, &s.now.receipts)
	tail(d.Typing.Stream(), s.typingChanged, &s.now.typing)
	tail(d.Presence.Stream(), s.presenceChanged, &s.now.presence)
	tail(d.Devices.DeviceListStream(), s.deviceList, &s.now.deviceLists)
	tail(d.Devices.ToDeviceStream(), s.forReceiver, &s.now.toDevice)
	tail(d.Accounts.DataStream(), s.forReceiver, &s.now.accountData)
	d.Process.Go("sync.tidy", s.tidy)
	return s
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
	s.presence = newByShard[*presence.Status](2000, s.now.presence)
	s.devices = newByShard[string](2000, s.now.deviceLists)
}

func clone(v []int64) []int64 { return append([]int64(nil), v...) }

// event takes a row of the events stream; the caller holds mu, as for the functions below.
func (s *Sync) event(row stream.Row) error {
	e, err := s.Rooms.FromRow(row)
	if err != nil {
		return err
	}
	if e.Pos == 0 {
		return fmt.Errorf("event %s has no position", e.ID)
	}
	s.events.add(row.Shard, e.RoomID, row.Pos, e)
	if e.IsState() && e.Type == event.TypeMember {
		s.memberChanged(e)
	}
	if target := rooms.Target(e); target != "" {
		if len(s.related) > 50_000 {
			clear(s.related)
		}
		s.related[target] = struct{}{}
	}
	for u := range s.inRoom[e.RoomID] {
		u.signal()
	}
	return nil
}

func (s *Sync) receipt(row stream.Row) error {
	r, err := receipts.FromRow(row)
	if err != nil {
		return err
	}
	s.receipts.add(row.Shard, r.RoomID, row.Pos, r)
	for u := range s.inRoom[r.RoomID] {
		if r.Type != "m.read.private" || r.UserID == u.id {
			u.signal()
		}
	}
	return nil
}

func (s *Sync) typingChanged(row stream.Row) error {
	t, err := typing.FromRow(row)
	if err != nil {
		return err
	}
	s.typing.add(row.Shard, t.RoomID, row.Pos, t)
	for u := range s.inRoom[t.RoomID] {
		u.signal()
	}
	return nil
}

func (s *Sync) presenceChanged(row stream.Row) error {
	p, err := presence.FromRow(row)
	if err != nil {
		return err
	}
	s.presence.add(row.Shard, row.Pos, p)
	if u := s.users[p.UserID]; u != nil {
		for id, m := range u.rooms {
			if m.membership == event.MembershipJoin {
				maps.Copy(s.late, s.inRoom[id])
			}
		}
	}
	return nil
}

func (s *Sync) deviceList(row stream.Row) error {
	s.devices.add(row.Shard, row.Pos, row.Key)
	u := s.users[row.Key]
	if u == nil { // its rooms are not known here
		for _, other := range s.users {
			s.late[other] = struct{}{}
		}
		return nil
	}
	u.signal()
	for id, m := range u.rooms {
		if m.membership == event.MembershipJoin {
			for other := range s.inRoom[id] {
				other.signal()
			}
		}
	}
	return nil
}

// forReceiver wakes the user whose id is the key of the row.
func (s *Sync) forReceiver(row stream.Row) error {
	if u := s.users[row.Key]; u != nil {
		u.signal()
	}
	return nil
}

// vector is the newest point for a user.
func (s *Sync) vector(userID string) (v vector) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	copy(v[eventsAt:], s.now.events)
	copy(v[receiptsAt:], s.now.receipts)
	copy(v[typingAt:], s.now.typing)
	copy(v[presenceAt:], s.now.presence)
	copy(v[deviceListsAt:], s.now.deviceLists)
	v[toDeviceAt] = s.now.toDevice[s.Devices.ToDeviceStream().Shard(userID)]
	v[accountDataAt] = s.now.accountData[s.Accounts.DataStream().Shard(userID)]
	return v
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
		s.mu.Lock()
		for u := range s.late {
			u.signal()
		}
		clear(s.late)
		if n%60 == 0 && s.started {
			s.events.prune(5)
			s.receipts.prune(5)
			s.typing.prune(5)
			s.forgetIdle()
		}
		s.mu.Unlock()
	}
}
