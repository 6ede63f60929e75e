package syncapi

import (
	"context"
	"slices"
	"sync"
	"time"
)

// fairQueue gives out the slots for large answers. Of the users that wait, the one that has used slots for the shortest time is next
// (start-time fair queueing: Goyal, Vin, Cheng 1996), so how long a user waits does not depend on how often others ask.
type fairQueue struct {
	mu          sync.Mutex
	free        int           // slots
	perUser     int           // most slots of one user at once
	virtualTime time.Duration // queueUser.used of the user that was let in last
	queue       []*queueUser  // users with waiting requests, in the order in which they came
}

// queueUser is a user of the queue. Its fields are guarded by the queue's mu.
type queueUser struct {
	used    time.Duration   // how long the user has used slots; raised to virtualTime when a request comes
	running int             // slots that the user has
	waiting []chan struct{} // a channel for each request that waits; closed when the request has a slot
}

func newFairQueue(slots, perUser int) *fairQueue { return &fairQueue{free: slots, perUser: perUser} }

// tryAcquire takes a slot if one is free. It reports whether it did.
func (f *fairQueue) tryAcquire(u *queueUser) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acquireLocked(u)
}

// acquireLocked is tryAcquire; the caller holds mu. While a slot is free, no user waits who may have it.
func (f *fairQueue) acquireLocked(u *queueUser) bool {
	if f.free == 0 || u.running == f.perUser {
		return false
	}
	u.used = max(u.used, f.virtualTime)
	f.virtualTime = u.used
	f.free--
	u.running++
	return true
}

// acquire waits for a slot until ctx ends.
func (f *fairQueue) acquire(ctx context.Context, u *queueUser) error {
	f.mu.Lock()
	if f.acquireLocked(u) {
		f.mu.Unlock()
		return nil
	}
	ready := make(chan struct{})
	if len(u.waiting) == 0 {
		u.used = max(u.used, f.virtualTime)
		f.queue = append(f.queue, u)
	}
	u.waiting = append(u.waiting, ready)
	f.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.Index(u.waiting, ready); i >= 0 {
		f.remove(u, i)
	} else { // it got a slot at the same time
		f.releaseLocked(u, 0)
	}
	return context.Cause(ctx)
}

// release gives a slot back that was used for so long.
func (f *fairQueue) release(u *queueUser, used time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.releaseLocked(u, used)
}

// releaseLocked is release; the caller holds mu.
func (f *fairQueue) releaseLocked(u *queueUser, used time.Duration) {
	f.free++
	u.running--
	u.used += used
	for f.free > 0 {
		var next *queueUser
		for _, u := range f.queue {
			if u.running < f.perUser && (next == nil || u.used < next.used) {
				next = u
			}
		}
		if next == nil {
			return
		}
		f.acquireLocked(next)
		ready := next.waiting[0]
		f.remove(next, 0)
		close(ready)
	}
}

// remove takes a waiting request of a user out of the queue; the caller holds mu.
func (f *fairQueue) remove(u *queueUser, i int) {
	u.waiting = slices.Delete(u.waiting, i, i+1)
	if len(u.waiting) == 0 {
		i := slices.Index(f.queue, u)
		f.queue = slices.Delete(f.queue, i, i+1)
	}
}
