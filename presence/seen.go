package presence

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"lyceum/platform/stream"
	"lyceum/rooms"
)

const (
	stripes       = 32
	maxWaiting    = 10_000
	reportWorkers = 8
	// reportInterval is how often the owner of a user hears of a device whose state stays, and that the user is still active; far below
	// idle_after.
	reportInterval = 25 * time.Second
)

// stripe holds some of the users whom this process serves.
type stripe struct {
	mu    sync.Mutex
	users map[string]*localUser
}

// localUser is what this process saw of a user.
type localUser struct {
	devices  deviceList
	next     time.Time // when the owner is told again
	queued   bool      // to be told
	active   int64     // ms; the newest activity that the owner knows of or is to be told
	reported int64     // ms; the newest activity that the owner was told
}

type device struct {
	id, state string
	at        time.Time
}

// deviceList are the devices of a user, in any order, each once: most users have one or two.
type deviceList []device

func (l deviceList) index(id string) int {
	return slices.IndexFunc(l, func(d device) bool { return d.id == id })
}

func (l *deviceList) put(d device) {
	if i := l.index(d.id); i >= 0 {
		(*l)[i] = d
	} else {
		*l = append(*l, d)
	}
}

func (l *deviceList) drop(is func(d device) bool) { *l = slices.DeleteFunc(*l, is) }

// ownerReport tells the owner of a user about the devices that one process serves.
type ownerReport struct {
	Devices []deviceState `json:"devices,omitempty"`
	Message *string       `json:"message,omitempty"`
	Active  bool          `json:"active,omitempty"` // the user did something, just now
	// ActiveAt is when the user did something, in ms; 0 for nothing new.
	ActiveAt int64 `json:"active_at,omitempty"`
}

type deviceState struct {
	ID    string `json:"id"`
	State string `json:"state"`
	Age   int64  `json:"age,omitempty"` // ms
}

// Seen notes that a device syncs, with the set_presence of its request ("" is online). It works in memory.
// Call it when a request begins and when it ends: a device that is not seen for offline_after is gone.
func (p *Presence) Seen(_ context.Context, userID, deviceID, state string) {
	if !p.config.Enabled {
		return
	}
	if state != Unavailable && state != Offline {
		state = Online
	}
	now := p.Now()
	s := &p.local[xxhash.Sum64String(userID)%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[userID]
	if u == nil {
		if state == Offline { // as if the device did not sync at all
			return
		}
		if s.users == nil {
			s.users = map[string]*localUser{}
		}
		u = &localUser{}
		s.users[userID] = u
	}
	i := u.devices.index(deviceID)
	if state == Offline && i < 0 {
		return
	}
	same := i >= 0 && u.devices[i].state == state
	u.devices.put(device{deviceID, state, now})
	if same && now.Before(u.next) || u.queued {
		return
	}
	p.queueReport(u, userID)
}

// queueReport has the owner told of a user; the caller holds the stripe's lock. It tells whether that will be.
func (p *Presence) queueReport(u *localUser, userID string) bool {
	if u.queued {
		return true
	}
	select {
	case p.pending <- userID:
		u.queued = true
	default: // too many at once: the next request or event tells
	}
	return u.queued
}

// noteSenders is a subscription to the events stream in processes with the role sync: a user who sends something is active. Only the
// processes that serve a user's devices note it, since they tell the owner of them anyway; a user without devices is offline whatever they
// do. For most rows it costs one look-up in a map.
func (p *Presence) noteSenders(rows []stream.Row) {
	now := p.Now().UnixMilli()
	for _, row := range rows {
		header, ok := rooms.RowHeaderOf(row)
		if !ok {
			continue // package rooms reports it
		}
		s := &p.local[xxhash.Sum64(header.Sender)%stripes]
		s.mu.Lock()
		// An application service may give its events any time.
		if u := s.users[string(header.Sender)]; u != nil {
			p.noteActivity(u, string(header.Sender), min(header.OriginServerTS, now))
		}
		s.mu.Unlock()
	}
}

// MarkActive records that a user did something at a time in ms that shows in another stream, such as a receipt or a typing notice. It works
// in memory.
func (p *Presence) MarkActive(userID string, at int64) {
	if !p.config.Enabled {
		return
	}
	s := &p.local[xxhash.Sum64String(userID)%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[userID]; u != nil {
		p.noteActivity(u, userID, min(at, p.Now().UnixMilli()))
	}
}

// noteActivity notes activity of which the owner is told now and then; the caller holds the stripe's lock.
func (p *Presence) noteActivity(u *localUser, userID string, at int64) {
	if at-u.active < reportInterval.Milliseconds() {
		return
	}
	before := u.active
	if u.active = at; !p.queueReport(u, userID) {
		u.active = before
	}
}

// sendReports tells the owners of users what Seen noted.
func (p *Presence) sendReports(ctx context.Context) error {
	var wg sync.WaitGroup
	for range reportWorkers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case id := <-p.pending:
					p.sendReport(ctx, id)
				}
			}
		})
	}
	wg.Wait()
	return nil
}

func (p *Presence) sendReport(ctx context.Context, userID string) {
	now := p.Now()
	s := &p.local[xxhash.Sum64String(userID)%stripes]
	s.mu.Lock()
	u := s.users[userID]
	if u == nil {
		s.mu.Unlock()
		return
	}
	var r ownerReport
	for _, d := range u.devices {
		r.Devices = append(r.Devices, deviceState{d.id, d.state, now.Sub(d.at).Milliseconds()})
	}
	u.devices.drop(func(d device) bool { return d.state == Offline })
	if u.active > u.reported {
		r.ActiveAt, u.reported = u.active, u.active
	}
	u.queued, u.next = false, now.Add(reportInterval)
	s.mu.Unlock()
	if _, err := p.reportToOwner(ctx, userID, r); err != nil && ctx.Err() == nil {
		p.Process.Log.Warn("the presence of a user could not be told", "user", userID, "error", err)
		s.mu.Lock()
		u.next, u.active, u.reported = now, 0, 0 // all of it is told again
		s.mu.Unlock()
	}
}

// dropExpired drops devices that are gone.
func (p *Presence) dropExpired() {
	limit := p.Now().Add(-p.config.OfflineAfter.D())
	for i := range p.local {
		s := &p.local[i]
		s.mu.Lock()
		for id, u := range s.users {
			u.devices.drop(func(d device) bool { return d.at.Before(limit) })
			if len(u.devices) == 0 && !u.queued {
				delete(s.users, id)
			}
		}
		s.mu.Unlock()
	}
}
