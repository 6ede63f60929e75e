package db

import (
	"context"
	"slices"
	"sync"
	"time"

	"lyceum/platform/caller"
)

// gate gives out the connections of a pool. Of the waiting callers, the one that has used connections for the shortest time goes first
// (start-time fair queueing: Goyal, Vin, Cheng 1996); requests of one caller keep their order. The gate stands before the pool: a request
// that waits in the pool itself already holds a connection, or a place that others wait for.
//
// When there are several connections, one caller never has all of them, and more than half only while no caller with fewer waits.
// Background work, which has no caller, goes first until it has half of the connections, and then alternates with the callers, so that
// neither blocks the other.
type gate struct {
	start time.Time
	half  int // of the connections
	most  int // of one caller

	mu          sync.Mutex
	free        int           // below 0 when work that holds a connection took another: it does not wait
	virtualTime time.Duration // virtual time: the least use of connections among the waiting callers
	by          map[caller.ID]*callerQueue
	background  callerQueue    // background work, which has no caller
	hadTurn     bool           // background, last
	queue       []*callerQueue // those with waiting requests, in the order in which they came
	spare       []*callerQueue // to be used again
	swept       time.Duration

	waits  int64
	waited time.Duration
}

// callerQueue are the requests of a caller at the gate. All fields are guarded by the mu of the gate.
type callerQueue struct {
	id      caller.ID
	used    time.Duration // time of connections used, at least gate.virtualTime when a request comes
	inside  int
	waiting []chan struct{} // closed when it has a connection
	last    time.Duration   // when it last gave a connection back
}

const (
	keepIdle       = time.Second // how long the use of an idle caller is remembered
	maxSpareQueues = 64
)

func newGate(connections int) *gate {
	return &gate{
		start: time.Now(), free: connections, half: max(1, connections/2), most: max(1, connections-1), by: map[caller.ID]*callerQueue{},
	}
}

// turn is a connection that was given out. The zero turn is none.
type turn struct {
	gate  *gate // nil when only the work counts it
	queue *callerQueue
	work  *caller.Work
	began time.Duration
}

// enter waits for a connection until ctx ends. Work that already holds a connection, or a place that others wait for, does not wait here:
// that could be a deadlock. A nil gate lets every caller in and only counts the connection of the work.
func (g *gate) enter(ctx context.Context) (t turn, err error) {
	t.work = caller.Of(ctx)
	if g != nil {
		if t.queue, err = g.admit(ctx, t.work); err != nil {
			return turn{}, err
		}
		t.gate, t.began = g, g.clock()
	}
	if t.work != nil {
		t.work.HeldResources.Add(1)
	}
	return t, nil
}

// leave gives the connection back, once.
func (t *turn) leave() {
	if t.work != nil {
		t.work.HeldResources.Add(-1)
	}
	if t.gate != nil {
		t.gate.leave(t.queue, t.began)
	}
	*t = turn{}
}

func (g *gate) clock() time.Duration { return time.Since(g.start) }

func (g *gate) admit(ctx context.Context, w *caller.Work) (*callerQueue, error) {
	g.mu.Lock()
	l := g.queueOf(w)
	if len(l.waiting) == 0 {
		l.used = max(l.used, g.virtualTime)
	}
	if g.mayTake(l) || w != nil && w.HeldResources.Load() > 0 {
		if l != &g.background && len(g.queue) == 0 {
			g.virtualTime = l.used
		}
		g.take(l)
		g.mu.Unlock()
		return l, nil
	}
	ready := make(chan struct{})
	if len(l.waiting) == 0 {
		g.queue = append(g.queue, l)
	}
	l.waiting = append(l.waiting, ready)
	g.mu.Unlock()
	return l, g.wait(ctx, l, ready)
}

// queueOf returns the queue of the caller of work; mu is held.
func (g *gate) queueOf(w *caller.Work) *callerQueue {
	if w == nil {
		return &g.background
	}
	id := w.ID()
	l := g.by[id]
	if l != nil {
		return l
	}
	if n := len(g.spare); n > 0 {
		l, g.spare = g.spare[n-1], g.spare[:n-1]
	} else {
		l = &callerQueue{}
	}
	*l = callerQueue{id: id, waiting: l.waiting[:0]}
	g.by[id] = l
	return l
}

// wait ends when the request has a connection, or with an error.
func (g *gate) wait(ctx context.Context, l *callerQueue, ready chan struct{}) (err error) {
	began := g.clock()
	select {
	case <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waits++
	g.waited += g.clock() - began
	if err == nil {
		return nil
	}
	if i := slices.Index(l.waiting, ready); i >= 0 {
		g.remove(l, i)
	} else { // it got a connection meanwhile
		g.giveBack(l)
	}
	return err
}

// leave gives a connection back that was used since began.
func (g *gate) leave(l *callerQueue, began time.Duration) {
	now := g.clock()
	g.mu.Lock()
	defer g.mu.Unlock()
	l.used += now - began
	l.last = now
	g.giveBack(l)
	if now-g.swept >= keepIdle {
		g.sweep(now)
	}
}

// giveBack frees a connection and gives it to the request whose turn it is. mu is held, here and in all functions below.
func (g *gate) giveBack(l *callerQueue) {
	g.free++
	l.inside--
	for next := g.next(); next != nil; next = g.next() {
		g.advance()
		g.hadTurn = next == &g.background
		g.take(next)
		close(next.waiting[0])
		g.remove(next, 0)
	}
}

// mayTake reports whether a connection is free that the caller may have at once.
func (g *gate) mayTake(l *callerQueue) bool {
	return g.free > 0 && (l.inside < g.most || l == &g.background)
}

func (g *gate) take(l *callerQueue) {
	g.free--
	l.inside++
}

// next is the queue whose turn it is; nil when no connection is free, or nobody waits who may have it.
func (g *gate) next() (next *callerQueue) {
	for _, l := range g.queue {
		if g.mayTake(l) && (next == nil || g.goesBefore(l, next)) {
			next = l
		}
	}
	return next
}

// goesBefore reports whether a gets a connection before b.
func (g *gate) goesBefore(a, b *callerQueue) bool {
	if a, b := g.rank(a), g.rank(b); a != b {
		return a < b
	}
	if a.used != b.used {
		return a.used < b.used
	}
	return a.inside < b.inside
}

// rank orders queues before their use is compared: the lowest goes first.
func (g *gate) rank(l *callerQueue) int {
	switch {
	case l.inside >= g.half:
		return 2
	case l != &g.background:
		return 1
	case g.hadTurn:
		return 2
	}
	return 0
}

// advance raises the use that a new caller starts with to the least of the waiting callers, so that an idle caller saves up no advantage.
func (g *gate) advance() {
	var least *callerQueue
	for _, l := range g.queue {
		if l != &g.background && (least == nil || l.used < least.used) {
			least = l
		}
	}
	if least != nil {
		g.virtualTime = max(g.virtualTime, least.used)
	}
}

// remove takes a request out of those that wait.
func (g *gate) remove(l *callerQueue, i int) {
	l.waiting = slices.Delete(l.waiting, i, i+1)
	if len(l.waiting) == 0 {
		i := slices.Index(g.queue, l)
		g.queue = slices.Delete(g.queue, i, i+1)
	}
}

// sweep forgets the callers that asked for nothing of late.
func (g *gate) sweep(now time.Duration) {
	g.swept = now
	for id, l := range g.by {
		if l.inside == 0 && len(l.waiting) == 0 && now-l.last >= keepIdle {
			delete(g.by, id)
			if len(g.spare) < maxSpareQueues {
				g.spare = append(g.spare, l)
			}
		}
	}
}
