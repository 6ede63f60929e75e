package syncapi

import (
	"context"
	"slices"
	"sync"
	"time"
)

// turns are places for work on large answers. Of the users that wait, the one that has used them less goes first (start-time
// fair queueing: Goyal, Vin, Cheng 1996), so how long one waits does not depend on how often others ask.
type turns struct {
	mu     sync.Mutex
	free   int
	ofUser int           // most places of one user at once
	now    time.Duration // what the user had used that was let in last
	queue  []*line       // those with waiting requests, in the order in which they came
}

// line is a user at the turns. All is guarded by their mu.
type line struct {
	used    time.Duration // of places, at least turns.now when a request comes
	inside  int
	waiting []chan struct{} // closed when it has a place
}

func newTurns(places, ofUser int) *turns { return &turns{free: places, ofUser: ofUser} }

// try takes a place if there is one.
func (t *turns) try(l *line) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.take(l)
}

// take is try; the caller holds mu. Where a place is free nobody waits who may have it.
func (t *turns) take(l *line) bool {
	if t.free == 0 || l.inside == t.ofUser {
		return false
	}
	l.used = max(l.used, t.now)
	t.now = l.used
	t.free--
	l.inside++
	return true
}

// enter waits for a place until ctx ends.
func (t *turns) enter(ctx context.Context, l *line) error {
	t.mu.Lock()
	if t.take(l) {
		t.mu.Unlock()
		return nil
	}
	ready := make(chan struct{})
	if len(l.waiting) == 0 {
		l.used = max(l.used, t.now)
		t.queue = append(t.queue, l)
	}
	l.waiting = append(l.waiting, ready)
	t.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(l.waiting, ready); i >= 0 {
		t.remove(l, i)
	} else { // it was let in meanwhile
		t.giveBack(l, 0)
	}
	return context.Cause(ctx)
}

// leave gives a place back that was used for so long.
func (t *turns) leave(l *line, used time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.giveBack(l, used)
}

// giveBack is leave; the caller holds mu.
func (t *turns) giveBack(l *line, used time.Duration) {
	t.free++
	l.inside--
	l.used += used
	for t.free > 0 {
		var next *line
		for _, l := range t.queue {
			if l.inside < t.ofUser && (next == nil || l.used < next.used) {
				next = l
			}
		}
		if next == nil {
			return
		}
		t.take(next)
		ready := next.waiting[0]
		t.remove(next, 0)
		close(ready)
	}
}

// remove takes a request out of those that wait; the caller holds mu.
func (t *turns) remove(l *line, i int) {
	l.waiting = slices.Delete(l.waiting, i, i+1)
	if len(l.waiting) == 0 {
		i := slices.Index(t.queue, l)
		t.queue = slices.Delete(t.queue, i, i+1)
	}
}
