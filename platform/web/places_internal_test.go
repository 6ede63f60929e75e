package web

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/platform/caller"
)

func newTestPlaces() *places { return newPlaces(prometheus.NewGauge(prometheus.GaugeOpts{Name: "x"})) }

// callers counts those that are known.
func (p *places) callers() (n int) {
	for i := range p.shards {
		p.shards[i].mu.Lock()
		n += len(p.shards[i].callers)
		p.shards[i].mu.Unlock()
	}
	return n
}

func (q *callerPlaces) waits() int {
	q.shard.mu.Lock()
	defer q.shard.mu.Unlock()
	return len(q.waitingAgain) + len(q.waitingNew)
}

func TestPlacesGoInTheOrderOfArrival(t *testing.T) {
	p, alice, most := newTestPlaces(), caller.ID{User: "@alice:x"}, placeLimits{atWork: 1, waiting: 4}
	first, err := p.enter(t.Context(), alice, most, false)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order []string
	var all sync.WaitGroup
	for i, name := range []string{"1", "2", "again 1", "3", "again 2"} {
		all.Go(func() {
			q, err := p.enter(t.Context(), alice, most, name[0] == 'a')
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			q.leave()
		})
		for first.waits() <= i {
			time.Sleep(time.Millisecond)
		}
	}
	if other, err := p.enter(t.Context(), caller.ID{User: "@bob:x"}, most, false); err != nil {
		t.Errorf("another waits: %v", err)
	} else {
		other.leave()
	}
	first.leave()
	all.Wait()
	if want := []string{"again 1", "again 2", "1", "2", "3"}; !slices.Equal(order, want) {
		t.Errorf("found %q, expected %q", order, want)
	}
	if n := p.callers(); n != 0 {
		t.Errorf("%d callers are known who have no requests", n)
	}
}

// Many requests of a few callers, some of which leave while they wait: nobody has more than his share, and nothing stays.
func TestPlacesAreGivenBack(t *testing.T) {
	p, most := newTestPlaces(), placeLimits{atWork: 3, waiting: 10}
	var inside [5]atomic.Int64
	var refused, left atomic.Int64
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			for range 100 {
				who := rand.IntN(len(inside))
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rand.IntN(400))*time.Microsecond)
				q, err := p.enter(ctx, caller.ID{User: fmt.Sprint(who)}, most, rand.IntN(2) == 0)
				switch {
				case errors.Is(err, errTooManyWaiting):
					refused.Add(1)
				case err != nil:
					left.Add(1)
				default:
					if n := inside[who].Add(1); n > int64(most.atWork) {
						t.Errorf("%d at work", n)
					}
					time.Sleep(time.Duration(rand.IntN(100)) * time.Microsecond)
					inside[who].Add(-1)
					q.leave()
				}
				cancel()
			}
		})
	}
	all.Wait()
	if n := p.callers(); n != 0 {
		t.Errorf("%d callers are known who have no requests", n)
	}
	t.Log("refused", refused.Load(), "left", left.Load())
}

func BenchmarkPlaces(b *testing.B) {
	p, alice := newTestPlaces(), caller.ID{User: "@alice:example.org"}
	b.ReportAllocs()
	for b.Loop() {
		q, err := p.enter(b.Context(), alice, limitsOfUser, false)
		if err != nil {
			b.Fatal(err)
		}
		q.leave()
	}
}
