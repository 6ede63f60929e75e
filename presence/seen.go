package presence

import (
	"context"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

const (
	stripes    = 32
	maxWaiting = 10_000
	tellers    = 8
	// refresh is how often the owner of a user hears of a device whose state stays.
	refresh = 25 * time.Second
)

// stripe holds some of the users whom this process serves.
type stripe struct {
	mu    sync.Mutex
	users map[string]*user
}

// user is what this process saw of a user.
type user struct {
	devices map[string]device
	next    time.Time // when the owner is told again
	waiting bool      // to be told
}

type device struct {
	state string
	at    time.Time
}

// report tells the owner of a user about the devices that one process serves.
type report struct {
	Devices []sighting `json:"devices,omitempty"`
	Message *string    `json:"message,omitempty"`
	Active  bool       `json:"active,omitempty"` // the user did something, just now
}

type sighting struct {
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
			s.users = map[string]*user{}
		}
		u = &user{devices: map[string]device{}}
		s.users[userID] = u
	}
	before, known := u.devices[deviceID]
	if state == Offline && !known {
		return
	}
	u.devices[deviceID] = device{state, now}
	if known && before.state == state && now.Before(u.next) || u.waiting {
		return
	}
	select {
	case p.told <- userID:
		u.waiting = true
	default: // too many at once: the next request tells
	}
}

// tellOwners tells the owners of users what Seen noted.
func (p *Presence) tellOwners(ctx context.Context) error {
	var wg sync.WaitGroup
	for range tellers {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case id := <-p.told:
					p.tellOwner(ctx, id)
				}
			}
		})
	}
	wg.Wait()
	return nil
}

func (p *Presence) tellOwner(ctx context.Context, userID string) {
	now := p.Now()
	s := &p.local[xxhash.Sum64String(userID)%stripes]
	s.mu.Lock()
	u := s.users[userID]
	if u == nil {
		s.mu.Unlock()
		return
	}
	var r report
	for id, d := range u.devices {
		r.Devices = append(r.Devices, sighting{id, d.state, now.Sub(d.at).Milliseconds()})
		if d.state == Offline {
			delete(u.devices, id)
		}
	}
	u.waiting, u.next = false, now.Add(refresh)
	s.mu.Unlock()
	if _, err := p.tell(ctx, userID, r); err != nil && ctx.Err() == nil {
		p.Process.Log.Warn("the presence of a user could not be told", "user", userID, "error", err)
		s.mu.Lock()
		u.next = now
		s.mu.Unlock()
	}
}

// forget drops devices that are gone.
func (p *Presence) forget() {
	limit := p.Now().Add(-p.config.OfflineAfter.D())
	for i := range p.local {
		s := &p.local[i]
		s.mu.Lock()
		for id, u := range s.users {
			for device, d := range u.devices {
				if d.at.Before(limit) {
					delete(u.devices, device)
				}
			}
			if len(u.devices) == 0 && !u.waiting {
				delete(s.users, id)
			}
		}
		s.mu.Unlock()
	}
}
