package syncapi

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/accounts"
	"lyceum/devices"
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

// Deps are the domains that the package reads.
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

	subscriptions []*stream.Subscription
	parts         []stream.Part // of a vector
	layout        *stream.Layout

	mu       sync.RWMutex
	received receivedPositions
	sequence uint64 // how many rows the subscriptions have brought; it orders the news of this process
	events   *windows[*rooms.Event]
	receipts *windows[*receipts.Receipt]
	typing   *windows[*typing.State]
	presence *shardWindows[*presence.Status]
	devices  *shardWindows[devices.ListChange]
	users    map[string]*user
	inRoom   map[string]map[*user]struct{} // users who are joined to a room, by room id
	// delayedWakes are the users who are signalled by tidy, for news that can wait.
	delayedWakes map[*user]struct{}
	// unknownUsers have such news for the users who share a room with them, but their rooms are not known here.
	unknownUsers map[string]struct{}
	redacted     map[string]struct{} // events in memory that are as they were before a redaction
	related      map[string]struct{} // events that events after relatedSince refer to
	relatedSince []int64             // positions by shard
	advanced     chan struct{}       // closed when rows have come; nil while nobody waits

	largeSlots *fairQueue
	smallSlots chan struct{}

	maxMemberEvents int // membership events of a room that are read at once
	streamedBytes   int // bytes of an answer from which on it is sent while it is built

	lazy    *lazyMembers
	filters filters
	work    prometheus.Histogram // time that requests worked, from their arrival or from the news to the answer
}

// New subscribes to all streams.
func New(d Deps, c Config) *Sync {
	s := &Sync{
		Deps: d, config: c, filters: newFilters(), lazy: newLazyMembers(),
		users: map[string]*user{}, inRoom: map[string]map[*user]struct{}{},
		delayedWakes: map[*user]struct{}{}, unknownUsers: map[string]struct{}{},
		redacted: map[string]struct{}{}, related: map[string]struct{}{},
		largeSlots: newFairQueue(largeSlotLimits(d.Process.DB.Postgres())), smallSlots: make(chan struct{}, smallAtOnce),
		maxMemberEvents: 2000, streamedBytes: streamedBytes,
		events:   newWindows(c.Window, eventMemory, eventBytes),
		receipts: newWindows(c.Window, receiptMemory, receiptBytes),
		typing:   newWindows(2, typingMemory, typingBytes),
	}
	s.work = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "lyceum_sync_work_seconds", Help: "Time that /sync worked: from the request, or from the news it waited for, to the answer.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10},
	})
	s.subscribeAll()
	s.parts = d.parts()
	s.layout = stream.NewLayout(s.parts...)
	d.Process.Go("sync.tidy", s.tidy)
	return s
}

// tidy is a background part. It signals users for news that can wait, and drops rows and users that were not used for some time.
func (s *Sync) tidy(ctx context.Context) error {
	soon := time.NewTicker(2 * time.Second)
	defer soon.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-soon.C:
		}
		if err := s.wakeDelayed(ctx); err != nil && ctx.Err() == nil {
			s.Process.Log.Warn("some clients are not woken for news of others", "error", err)
		}
		if n%60 == 0 {
			s.mu.Lock()
			s.events.evictIdle(5)
			s.receipts.evictIdle(5)
			s.typing.evictIdle(5)
			s.forgetIdle()
			s.mu.Unlock()
		}
	}
}

// wakeDelayed signals the users whose signal was delayed. The rooms of unknownUsers are read first, in one statement for all of them.
func (s *Sync) wakeDelayed(ctx context.Context) error {
	s.mu.Lock()
	ids := make([]string, 0, len(s.unknownUsers))
	for id := range s.unknownUsers {
		ids = append(ids, id)
	}
	clear(s.unknownUsers)
	s.mu.Unlock()
	err := s.loadUsers(ctx, ids...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if u := s.users[id]; u != nil && u.loaded {
			s.wakeSharing(id)
		} else if err != nil { // the rooms are read the next time
			s.unknownUsers[id] = struct{}{}
		}
	}
	for u := range s.delayedWakes {
		u.signal()
	}
	clear(s.delayedWakes)
	if err != nil {
		return fmt.Errorf("read the rooms of %d users: %w", len(ids), err)
	}
	return nil
}
