package syncapi

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/accounts"
	"lyceum/devices"
	"lyceum/matrix/event"
	"lyceum/platform/obs"
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

	tails  []*stream.Subscription
	parts  []stream.Part // of a vector
	layout *stream.Layout

	mu       sync.RWMutex
	now      heads
	news     uint64 // rows that the tails brought
	events   *recent[*rooms.Event]
	receipts *recent[*receipts.Receipt]
	typing   *recent[*typing.State]
	presence *byShard[*presence.Status]
	devices  *byShard[devices.ListChange]
	users    map[string]*user
	inRoom   map[string]map[*user]struct{} // users who are joined to a room, by room id
	late     map[*user]struct{}            // to be woken soon, for news that can wait
	unknown  map[string]struct{}           // users with such news whose rooms are not known here
	redacted map[string]struct{}           // events in memory as they were before a redaction
	related  map[string]struct{}           // events that newer ones refer to
	// looked: which events at or before these positions others refer to is not known.
	looked   []int64
	advanced chan struct{} // closed when an event comes; nil while nobody waits

	// Places for requests that build large answers, and for those that build others.
	heavy *turns
	built chan struct{}

	maxMoves int // membership events of a room that are read at once
	huge     int // bytes of an answer from which on it is sent as it is built

	lazy    *lazyMembers
	filters filters
	work    prometheus.Histogram // time that requests worked, from their arrival or from the news to the answer
}

// heads are the positions up to which the tails of this package have come, by stream and shard.
type heads struct {
	events, receipts, typing, presence, deviceLists, toDevice, accountData []int64
}

// New registers the tails of all streams.
func New(d Deps, c Config) *Sync {
	s := &Sync{
		Deps: d, config: c, users: map[string]*user{}, inRoom: map[string]map[*user]struct{}{}, late: map[*user]struct{}{},
		filters: newFilters(), lazy: newLazyMembers(), unknown: map[string]struct{}{}, redacted: map[string]struct{}{},
		related: map[string]struct{}{},
		heavy:   newTurns(heavyPlaces(d.Process.DB.Postgres())), built: make(chan struct{}, builtAtOnce), maxMoves: 2000, huge: hugeBytes,
		events: newRecent(
			c.Window,
			eventMemory,
			eventBytes,
		), receipts: newRecent(c.Window, receiptMemory, receiptBytes), typing: newRecent(2, typingMemory, typingBytes),
	}
	s.work = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "lyceum_sync_work_seconds", Help: "Time that /sync worked: from the request, or from the news it waited for, to the answer.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10},
	})
	follow(s, d.Rooms.Stream(), feed[*rooms.Event]{&s.now.events, d.Rooms.FromRowCached, s.event, func(start []int64) {
		s.events.start, s.looked = start, clone(start)
	}})
	follow(s, d.Receipts.Stream(), feed[*receipts.Receipt]{&s.now.receipts, copied(receipts.FromRow), s.receipt, func(start []int64) {
		s.receipts.start = start
	}})
	follow(s, d.Typing.Stream(), feed[*typing.State]{&s.now.typing, copied(typing.FromRow), s.typingChanged, func(start []int64) {
		s.typing.start = start
	}})
	follow(s, d.Presence.Stream(), feed[*presence.Status]{&s.now.presence, copied(presence.FromRow), s.presenceChanged, func(start []int64) {
		s.presence = newByShard[*presence.Status](2000, start)
	}})
	follow(
		s,
		d.Devices.DeviceListStream(),
		feed[devices.ListChange]{&s.now.deviceLists, copied(listChange), s.deviceList, func(start []int64) {
			s.devices = newByShard[devices.ListChange](2000, start)
		}},
	)
	follow(s, d.Devices.ToDeviceStream(), feed[string]{&s.now.toDevice, keyOf, s.forReceiver, nil})
	follow(s, d.Accounts.DataStream(), feed[*accounts.AccountDatum]{&s.now.accountData, datumOf, s.accountDatum, nil})
	s.parts = d.parts()
	s.layout = stream.NewLayout(s.parts...)
	d.Process.Go("sync.tidy", s.tidy)
	return s
}

// feed is how the rows of a stream come into memory.
type feed[T any] struct {
	at    *[]int64 // up to where the rows have come
	read  func(*stream.Row) (T, error)
	take  func(stream.Row, T)
	begin func(start []int64) // takes the positions behind which the rows begin; may be nil
}

// follow registers the tail of a stream. What a row says is read before the lock is taken.
func follow[T any](s *Sync, st *stream.Stream, f feed[T]) {
	var values []T
	var failed []error
	t := st.Subscribe(func(rows []stream.Row) {
		values, failed = values[:0], failed[:0]
		for i := range rows {
			v, err := f.read(&rows[i])
			values, failed = append(values, v), append(failed, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, row := range rows {
			s.news++
			if err := failed[i]; err != nil {
				s.Process.Log.Error("a row could not be read", "stream", st.Name(), "shard", row.Shard, "position", row.Pos, "error", err)
			} else {
				f.take(row, values[i])
			}
			(*f.at)[row.Shard] = row.Pos
		}
		clear(values)
		if s.advanced != nil {
			close(s.advanced)
			s.advanced = nil
		}
	}, "sync").OnStart(func(start []int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		// Compacted streams skip positions, so those of the streams count, not those of rows.
		*f.at = clone(start)
		if f.begin != nil {
			f.begin(start)
		}
	})
	s.tails = append(s.tails, t)
}

// open makes the streams come, in a process that has not the role.
func (s *Sync) open(ctx context.Context) error {
	for _, t := range s.tails {
		if err := t.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func copied[T any](read func(stream.Row) (T, error)) func(*stream.Row) (T, error) {
	return func(row *stream.Row) (T, error) { return read(*row) }
}

func keyOf(row *stream.Row) (string, error) { return row.Key, nil }

func listChange(row stream.Row) (devices.ListChange, error) {
	return devices.DecodeDeviceList(row), nil
}

func datumOf(row *stream.Row) (*accounts.AccountDatum, error) {
	if d, ok := row.Value.(*accounts.AccountDatum); ok {
		return d, nil
	}
	d := &accounts.AccountDatum{}
	return d, json.Unmarshal(row.Data, d)
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
	if target := rooms.RelationTarget(e); target != "" {
		if len(s.related) >= relatedKept {
			clear(s.related)
			s.looked = clone(s.now.events)
		}
		s.related[target] = struct{}{}
	}
	if e.Redacts != "" {
		s.events.each(e.RoomID, func(old *rooms.Event) {
			if old.ID == e.Redacts || old.Replaces == e.Redacts { // or tells what it replaced
				s.redacted[old.ID] = struct{}{}
			}
		})
	}
	s.touch(e.RoomID)
}

func (s *Sync) receipt(row stream.Row, r *receipts.Receipt) {
	s.receipts.add(row.Shard, r.RoomID, row.Pos, r)
	s.Presence.MarkActive(r.UserID, r.TS)
	if r.Type != receipts.TypePrivate {
		s.touch(r.RoomID)
	} else if u := s.users[r.UserID]; u != nil {
		u.touch(r.RoomID, s.news)
	}
}

func (s *Sync) typingChanged(row stream.Row, t *typing.State) {
	s.typing.add(row.Shard, t.RoomID, row.Pos, t)
	for _, userID := range t.Users {
		s.Presence.MarkActive(userID, obs.Now().UnixMilli())
	}
	s.touch(t.RoomID)
}

func (s *Sync) presenceChanged(row stream.Row, p *presence.Status) {
	s.presence.add(row.Shard, row.Pos, p)
	s.wakeMates(p.UserID)
}

func (s *Sync) deviceList(row stream.Row, c devices.ListChange) {
	s.devices.add(row.Shard, row.Pos, c)
	if c.Viewer != "" {
		if u := s.users[c.Viewer]; u != nil {
			u.signal()
		}
		return
	}
	u := s.users[c.UserID]
	if u == nil || !u.loaded {
		s.unknown[c.UserID] = struct{}{}
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
			if other.served.Load() {
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

func (s *Sync) accountDatum(row stream.Row, d *accounts.AccountDatum) {
	u := s.users[row.Key]
	switch {
	case u == nil:
	case d.RoomID != "":
		u.touch(d.RoomID, s.news)
	default:
		if d.Type == ignoredUsers { // it hides invites
			for id, p := range u.rooms {
				if p.membership == event.MembershipInvite {
					u.touch(id, s.news)
				}
			}
		}
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
			s.events.prune(5)
			s.receipts.prune(5)
			s.typing.prune(5)
			s.forgetIdle()
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
		} else if err != nil { // they are read the next time
			s.unknown[id] = struct{}{}
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
