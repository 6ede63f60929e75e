package web

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"

	"lyceum/platform/caller"
)

// UnderWay knows the requests of each user that are at work in this process and may change something. Code that ends a token or locks a
// user waits for the requests that were let in before, so that the end is announced after all their changes.
type UnderWay struct {
	seed   maphash.Seed
	shards [placeShards]underWayShard
}

type underWayShard struct {
	mu sync.Mutex
	by map[string][]*exchange // by user id
}

// NewUnderWay is for one Server.
func NewUnderWay() *UnderWay {
	u := &UnderWay{seed: maphash.MakeSeed()}
	for i := range u.shards {
		u.shards[i].by = map[string][]*exchange{}
	}
	return u
}

func (u *UnderWay) shard(userID string) *underWayShard {
	return &u.shards[maphash.String(u.seed, userID)%placeShards]
}

// Wait waits for those requests of a user that are at work now and not for others: those that come to work later must be asked again, so
// what refuses them must be known to this process. The request of ctx itself does not count, nor does one that waits for its body.
func (u *UnderWay) Wait(ctx context.Context, userID string) error {
	if w := caller.Of(ctx); w != nil {
		w.Again = nil // it may have ended its own token
		u.leave(w)
	}
	for _, over := range u.now(userID) {
		select {
		case <-over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// now returns, for each request at work, a channel that is closed at its end.
func (u *UnderWay) now(userID string) (all []chan struct{}) {
	s := u.shard(userID)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.by[userID] {
		if x.over == nil {
			x.over = make(chan struct{})
		}
		all = append(all, x.over)
	}
	return all
}

// leave removes a request that waits for others: otherwise two of them could wait for each other.
func (u *UnderWay) leave(w *caller.Work) {
	userID := w.ID().User
	s := u.shard(userID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.by[userID], func(x *exchange) bool { return x.work == w }); i >= 0 {
		s.remove(userID, i)
	}
}

// remove forgets one of the requests of a user. The caller holds mu.
func (s *underWayShard) remove(userID string, i int) {
	all := s.by[userID]
	if x := all[i]; x.over != nil {
		close(x.over)
		x.over = nil
	}
	if all = slices.Delete(all, i, i+1); len(all) == 0 {
		delete(s.by, userID)
	} else {
		s.by[userID] = all
	}
}

// beginAct adds a request that has a place now, if it may change something, until the place is given back.
func (x *exchange) beginAct(q *queue) {
	if x.actor == "" {
		return
	}
	s := x.request.server.underWay.shard(x.actor)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.place.Load() == q { // else the answer began meanwhile
		s.by[x.actor] = append(s.by[x.actor], x)
	}
}

// endAct is called when a place was given back.
func (x *exchange) endAct() {
	if x.actor == "" {
		return
	}
	s := x.request.server.underWay.shard(x.actor)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.by[x.actor], x); i >= 0 {
		s.remove(x.actor, i)
	}
}
