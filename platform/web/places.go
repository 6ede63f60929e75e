package web

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/platform/caller"
)

// share bounds how many handlers of one caller work at once in a process, and how many further requests wait for that.
type share struct{ atWork, waiting int }

// A user has few handlers at work, so that one user leaves connections to PostgreSQL (14 of a process) and memory for others. platform/db
// decides who gets a connection when all are in use. An address gets more, since many people may share it.
var (
	shareOfUser    = share{atWork: 8, waiting: 1000}
	shareOfAddress = share{atWork: 128, waiting: 2000}
)

const (
	placeShards = 16
	spareQueues = 64 // of a shard
)

// places bounds the work on the requests of each caller. Those that find no place wait in the order in which they came.
type places struct {
	seed    maphash.Seed
	waiting prometheus.Gauge
	shards  [placeShards]placeShard
}

type placeShard struct {
	mu    sync.Mutex
	by    map[caller.ID]*queue // of the callers with handlers at work
	spare []*queue             // to be used again
}

// queue is a caller with handlers at work. All is guarded by the mu of its shard. While somebody waits no place is free.
type queue struct {
	places *places
	shard  *placeShard
	id     caller.ID
	atWork int
	back   []chan struct{} // closed when it has a place: those that had one before, who go first
	fresh  []chan struct{}
}

func newPlaces(waiting prometheus.Gauge) *places {
	p := &places{seed: maphash.MakeSeed(), waiting: waiting}
	for i := range p.shards {
		p.shards[i].by = map[caller.ID]*queue{}
	}
	return p
}

// errPlaces says that as many requests wait as may.
var errPlaces = errors.New("the caller has too many requests under way")

// enter takes one of the places of a caller, and waits for it until ctx ends. again: the request had a place before.
func (p *places) enter(ctx context.Context, id caller.ID, most share, again bool) (*queue, error) {
	s := &p.shards[maphash.Comparable(p.seed, id)%placeShards]
	s.mu.Lock()
	q := s.by[id]
	if q == nil {
		q = s.queue(p, id)
	}
	if q.atWork < most.atWork {
		q.atWork++
		s.mu.Unlock()
		return q, nil
	}
	line := q.line(again)
	if len(*line) >= most.waiting {
		s.mu.Unlock()
		return nil, errPlaces
	}
	ready := make(chan struct{})
	*line = append(*line, ready)
	s.mu.Unlock()
	p.waiting.Inc()
	defer p.waiting.Dec()
	select {
	case <-ready:
		return q, nil
	case <-ctx.Done():
		q.giveUp(ready, again)
		return nil, context.Cause(ctx)
	}
}

// queue makes the queue of a caller; mu is held.
func (s *placeShard) queue(p *places, id caller.ID) (q *queue) {
	if n := len(s.spare); n > 0 {
		q, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		q = &queue{places: p, shard: s}
	}
	q.id = id
	s.by[id] = q
	return q
}

// line returns the list in which a request waits.
func (q *queue) line(again bool) *[]chan struct{} {
	if again {
		return &q.back
	}
	return &q.fresh
}

// giveUp ends the wait of a request, which may have got a place meanwhile.
func (q *queue) giveUp(ready chan struct{}, again bool) {
	q.shard.mu.Lock()
	defer q.shard.mu.Unlock()
	line := q.line(again)
	if i := slices.Index(*line, ready); i >= 0 {
		*line = slices.Delete(*line, i, i+1)
		return
	}
	q.pass()
}

// leave gives a place back.
func (q *queue) leave() {
	q.shard.mu.Lock()
	defer q.shard.mu.Unlock()
	q.pass()
}

// pass is leave; the caller holds mu.
func (q *queue) pass() {
	for _, line := range [...]*[]chan struct{}{&q.back, &q.fresh} {
		if len(*line) > 0 {
			close((*line)[0])
			*line = slices.Delete(*line, 0, 1)
			return
		}
	}
	if q.atWork--; q.atWork > 0 {
		return
	}
	s := q.shard
	delete(s.by, q.id)
	if len(s.spare) < spareQueues {
		q.id, q.back, q.fresh = caller.ID{}, nil, nil
		s.spare = append(s.spare, q)
	}
}

// lent stands for a place that was given back for a while.
var lent queue

// takePlace takes a place for the handler of a request, and waits for it. Requests of other processes need none: a client's request already
// waits for them, perhaps with a place. Routes that are open to all without a rate limit need none either: load balancers probe them,
// perhaps from an address that many clients share, and a process that lets a probe wait would count as dead.
func (x *exchange) takePlace() error {
	if route := &x.endpoint.route; route.Auth == Fleet || route.Auth == None && route.Limit == "" {
		return nil
	}
	q, err := x.enter(false)
	if err != nil {
		return err
	}
	if !x.request.reads() {
		x.actor = x.request.UserID()
	}
	x.place.Store(q)
	x.beginAct(q)
	if x.body == nil { // else it is asked when that was read
		if err := x.wanted(); err != nil {
			return err
		}
	}
	return x.request.askAtWork() // the wait may have been long
}

func (x *exchange) enter(again bool) (*queue, error) {
	r := &x.request
	most := shareOfUser
	if r.UserID() == "" {
		most = shareOfAddress
	}
	q, err := r.server.places.enter(r.Context(), r.callerID(), most, again)
	if errors.Is(err, errPlaces) || errors.Is(err, errLate) {
		return nil, errUnderWay(err)
	}
	return q, err
}

// LendPlace gives back the request's place among its caller's working handlers until AskAgain. Handlers call it before they wait for
// something that needs no connection to the database, or that has its own limits for each user, so that the caller's other requests need
// not wait as well. Reading a body and Waits lend the place too.
func (r *Request) LendPlace() { r.writer.lendPlace() }

func (x *exchange) lendPlace() {
	if q := x.place.Load(); q != nil && q != &lent && x.place.CompareAndSwap(q, &lent) {
		x.endAct()
		q.leave()
	}
}

// takePlaceAgain takes a lent place back, and waits for it.
func (x *exchange) takePlaceAgain() error {
	if x.place.Load() != &lent {
		return nil
	}
	q, err := x.enter(true)
	if err != nil {
		return err
	}
	if !x.place.CompareAndSwap(&lent, q) { // the answer began meanwhile
		q.leave()
		return nil
	}
	x.beginAct(q)
	return nil
}

// endPlace gives the place back for good: the answer is ready, or the request is parked.
func (x *exchange) endPlace() {
	if x.place.Load() == nil {
		return
	}
	if q := x.place.Swap(nil); q != nil && q != &lent {
		x.endAct()
		q.leave()
	}
}

// errUnderWay is the answer to a caller with too many requests under way, and to a request whose time ended while it waited for the others.
func errUnderWay(cause error) *Error {
	e := limitExceeded(retryShare)
	e.Message, e.Cause = "You have too many requests under way: let them end before the next", cause
	return e
}

// callerID is caller as an ID, without an allocation.
func (r *Request) callerID() caller.ID {
	if id := r.UserID(); id != "" {
		return caller.ID{User: id}
	}
	return caller.ID{Network: network(r.RemoteIP())}
}
