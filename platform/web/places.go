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

// placeLimits bounds how many handlers of one caller work at once in a process, and how many further requests wait for that.
type placeLimits struct{ atWork, waiting int }

// A user has few handlers at work, so that one user leaves connections to PostgreSQL (14 of a process) and memory for others. platform/db
// decides who gets a connection when all are in use. An address gets more, since many people may share it.
var (
	limitsOfUser    = placeLimits{atWork: 8, waiting: 1000}
	limitsOfAddress = placeLimits{atWork: 128, waiting: 2000}
)

const (
	placeShards = 16
	maxSpare    = 64 // of a shard
)

// places bounds the work on the requests of each caller. Those that find no place wait in the order in which they came.
type places struct {
	seed    maphash.Seed
	waiting prometheus.Gauge
	shards  [placeShards]placeShard
}

type placeShard struct {
	mu      sync.Mutex
	callers map[caller.ID]*callerPlaces // of the callers with handlers at work
	spare   []*callerPlaces             // to be used again
}

// callerPlaces are the places of a caller with handlers at work. All fields are guarded by the mu of its shard. While a request waits, no
// place is free.
type callerPlaces struct {
	places       *places
	shard        *placeShard
	id           caller.ID
	atWork       int
	waitingAgain []chan struct{} // each is closed when its request has a place; requests that had one before, which go first
	waitingNew   []chan struct{}
}

func newPlaces(waiting prometheus.Gauge) *places {
	p := &places{seed: maphash.MakeSeed(), waiting: waiting}
	for i := range p.shards {
		p.shards[i].callers = map[caller.ID]*callerPlaces{}
	}
	return p
}

// errTooManyWaiting says that the caller has as many waiting requests as it may have.
var errTooManyWaiting = errors.New("the caller has too many requests under way")

// enter takes one of the places of a caller, and waits for it until ctx ends. again: the request had a place before.
func (p *places) enter(ctx context.Context, id caller.ID, most placeLimits, again bool) (*callerPlaces, error) {
	s := &p.shards[maphash.Comparable(p.seed, id)%placeShards]
	s.mu.Lock()
	q := s.callers[id]
	if q == nil {
		q = s.addCaller(p, id)
	}
	if q.atWork < most.atWork {
		q.atWork++
		s.mu.Unlock()
		return q, nil
	}
	waiters := q.waiters(again)
	if len(*waiters) >= most.waiting {
		s.mu.Unlock()
		return nil, errTooManyWaiting
	}
	ready := make(chan struct{})
	*waiters = append(*waiters, ready)
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

// addCaller makes the callerPlaces of a caller; mu is held.
func (s *placeShard) addCaller(p *places, id caller.ID) (q *callerPlaces) {
	if n := len(s.spare); n > 0 {
		q, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		q = &callerPlaces{places: p, shard: s}
	}
	q.id = id
	s.callers[id] = q
	return q
}

// waiters returns the list in which a request waits.
func (q *callerPlaces) waiters(again bool) *[]chan struct{} {
	if again {
		return &q.waitingAgain
	}
	return &q.waitingNew
}

// giveUp ends the wait of a request, which may have got a place meanwhile.
func (q *callerPlaces) giveUp(ready chan struct{}, again bool) {
	q.shard.mu.Lock()
	defer q.shard.mu.Unlock()
	waiters := q.waiters(again)
	if i := slices.Index(*waiters, ready); i >= 0 {
		*waiters = slices.Delete(*waiters, i, i+1)
		return
	}
	q.leaveLocked()
}

// leave gives a place back.
func (q *callerPlaces) leave() {
	q.shard.mu.Lock()
	defer q.shard.mu.Unlock()
	q.leaveLocked()
}

// leaveLocked is leave; the caller holds mu. The place goes to the next request that waits.
func (q *callerPlaces) leaveLocked() {
	for _, waiters := range [...]*[]chan struct{}{&q.waitingAgain, &q.waitingNew} {
		if len(*waiters) > 0 {
			close((*waiters)[0])
			*waiters = slices.Delete(*waiters, 0, 1)
			return
		}
	}
	if q.atWork--; q.atWork > 0 {
		return
	}
	s := q.shard
	delete(s.callers, q.id)
	if len(s.spare) < maxSpare {
		q.id, q.waitingAgain, q.waitingNew = caller.ID{}, nil, nil
		s.spare = append(s.spare, q)
	}
}

// lentPlace stands for a place that was given back for a while.
var lentPlace callerPlaces

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
		x.actingUser = x.request.UserID()
	}
	x.place.Store(q)
	x.addUnderWay(q)
	if x.body == nil { // else it is asked when that was read
		if err := x.refuseIfClientLeft(); err != nil {
			return err
		}
	}
	return x.request.recheckAtStart() // the wait may have been long
}

func (x *exchange) enter(again bool) (*callerPlaces, error) {
	r := &x.request
	most := limitsOfUser
	if r.UserID() == "" {
		most = limitsOfAddress
	}
	q, err := r.server.places.enter(r.Context(), r.callerID(), most, again)
	if errors.Is(err, errTooManyWaiting) || errors.Is(err, errLate) {
		return nil, errUnderWay(err)
	}
	return q, err
}

// LendPlace gives back the request's place among its caller's working handlers until RecheckAccess. Handlers call it before they wait for
// something that needs no connection to the database, or that has its own limits for each user, so that the caller's other requests need
// not wait as well. Reading a body and Waits lend the place too.
func (r *Request) LendPlace() { r.writer.lendPlace() }

func (x *exchange) lendPlace() {
	if q := x.place.Load(); q != nil && q != &lentPlace && x.place.CompareAndSwap(q, &lentPlace) {
		x.removeUnderWay()
		q.leave()
	}
}

// takePlaceAgain takes a lent place back, and waits for it.
func (x *exchange) takePlaceAgain() error {
	if x.place.Load() != &lentPlace {
		return nil
	}
	q, err := x.enter(true)
	if err != nil {
		return err
	}
	if !x.place.CompareAndSwap(&lentPlace, q) { // the answer began meanwhile
		q.leave()
		return nil
	}
	x.addUnderWay(q)
	return nil
}

// leavePlace gives the place back for good: the answer is ready, or the request is parked.
func (x *exchange) leavePlace() {
	if x.place.Load() == nil {
		return
	}
	if q := x.place.Swap(nil); q != nil && q != &lentPlace {
		x.removeUnderWay()
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
