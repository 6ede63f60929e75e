package web

import (
	"context"
	"hash/maphash"
	"slices"
	"sync"

	"lyceum/platform/caller"
)

// UnderWay knows the requests of each user that are at work in this process and may change something. Code that ends a token or locks a
// user waits for the requests that were authenticated before, so that the end is announced after all their changes.
type UnderWay struct {
	seed   maphash.Seed
	shards [placeShards]underWayShard
}

type underWayShard struct {
	mu     sync.Mutex
	byUser map[string][]*exchange // by user id
}

// NewUnderWay is for one Server.
func NewUnderWay() *UnderWay {
	u := &UnderWay{seed: maphash.MakeSeed()}
	for i := range u.shards {
		u.shards[i].byUser = map[string][]*exchange{}
	}
	return u
}

func (u *UnderWay) shard(userID string) *underWayShard {
	return &u.shards[maphash.String(u.seed, userID)%placeShards]
}

// Wait waits for those requests of a user that are at work now and not for others: later ones are authenticated again when they have a
// place, so this process must know by then that they are to be refused. The request of ctx itself does not count, nor does one that waits
// for its body.
func (u *UnderWay) Wait(ctx context.Context, userID string) error {
	if w := caller.Of(ctx); w != nil {
		w.StillAllowed = nil // it may have ended its own token
		u.removeWork(w)
	}
	for _, over := range u.endChannels(userID) {
		select {
		case <-over:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// endChannels returns, for each request at work, a channel that is closed at its end.
func (u *UnderWay) endChannels(userID string) (all []chan struct{}) {
	s := u.shard(userID)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.byUser[userID] {
		if x.ended == nil {
			x.ended = make(chan struct{})
		}
		all = append(all, x.ended)
	}
	return all
}

// removeWork removes a request that waits for others: otherwise two of them could wait for each other.
func (u *UnderWay) removeWork(w *caller.Work) {
	userID := w.ID().User
	s := u.shard(userID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.byUser[userID], func(x *exchange) bool { return x.work == w }); i >= 0 {
		s.remove(userID, i)
	}
}

// remove forgets one of the requests of a user. The caller holds mu.
func (s *underWayShard) remove(userID string, i int) {
	all := s.byUser[userID]
	if x := all[i]; x.ended != nil {
		close(x.ended)
		x.ended = nil
	}
	if all = slices.Delete(all, i, i+1); len(all) == 0 {
		delete(s.byUser, userID)
	} else {
		s.byUser[userID] = all
	}
}

// addUnderWay adds a request that has a place now, if it may change something, until the place is given back.
func (x *exchange) addUnderWay(q *callerPlaces) {
	if x.actingUser == "" {
		return
	}
	s := x.request.server.underWay.shard(x.actingUser)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.place.Load() == q { // else the answer began meanwhile
		s.byUser[x.actingUser] = append(s.byUser[x.actingUser], x)
	}
}

// removeUnderWay is called when a place was given back.
func (x *exchange) removeUnderWay() {
	if x.actingUser == "" {
		return
	}
	s := x.request.server.underWay.shard(x.actingUser)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.byUser[x.actingUser], x); i >= 0 {
		s.remove(x.actingUser, i)
	}
}
