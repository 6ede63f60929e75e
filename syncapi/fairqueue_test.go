package syncapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestFairQueue: each user asks so many times at once, and uses each slot for a second. The user who has used less is next.
func TestFairQueue(t *testing.T) {
	type ask struct {
		after time.Duration
		user  string
		times int
	}
	for name, c := range map[string]struct {
		slots, perUser int
		asks           []ask
		want           []string // users in the order in which they got slots
	}{
		"one user, in order":  {1, 1, []ask{{0, "a", 3}}, []string{"a", "a", "a"}},
		"two users alternate": {1, 1, []ask{{0, "a", 3}, {0, "b", 3}}, []string{"a", "b", "a", "b", "a", "b"}},
		"a newcomer passes many requests": {1, 1, []ask{{0, "a", 4}, {0, "b", 4}, {2500 * time.Millisecond, "c", 1}}, []string{
			"a", "b",
			"a", "b", "c", "a", "b", "a", "b",
		}},
		"nobody saves up by staying away": {1, 1, []ask{{0, "a", 4}, {1500 * time.Millisecond, "b", 3}}, []string{
			"a", "a", "b", "a", "b",
			"a", "b",
		}},
		"one user does not have all slots":  {2, 1, []ask{{0, "a", 3}, {500 * time.Millisecond, "b", 1}}, []string{"a", "b", "a", "a"}},
		"several slots of one user at once": {3, 2, []ask{{0, "a", 4}, {0, "b", 1}}, []string{"a", "a", "b", "a", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				queue := newFairQueue(c.slots, c.perUser)
				queueUsers := map[string]*queueUser{}
				var mu sync.Mutex
				var got []string
				for _, a := range c.asks {
					if queueUsers[a.user] == nil {
						queueUsers[a.user] = &queueUser{}
					}
				}
				var began time.Duration
				for _, a := range c.asks {
					time.Sleep(a.after - began)
					began = a.after
					for range a.times {
						l := queueUsers[a.user]
						go func() {
							if err := queue.acquire(context.Background(), l); err != nil {
								t.Error(err)
							}
							mu.Lock()
							got = append(got, a.user)
							mu.Unlock()
							time.Sleep(time.Second)
							queue.release(l, time.Second)
						}()
						synctest.Wait()
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if !slices.Equal(got, c.want) {
					t.Errorf("found %v, expected %v", got, c.want)
				}
				if queue.free != c.slots || len(queue.queue) != 0 {
					t.Errorf("%d slots are free of %d, %d users wait", queue.free, c.slots, len(queue.queue))
				}
			})
		})
	}
}

// TestSlotsEndWithTheirRequest: a request that goes away keeps no slot, also when it gets one at the same time.
func TestSlotsEndWithTheirRequest(t *testing.T) {
	queue := newFairQueue(1, 1)
	running := &queueUser{}
	if !queue.tryAcquire(running) {
		t.Fatal("no slot")
	}
	gone := errors.New("gone")
	for i := range 100 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			l := &queueUser{}
			ended := make(chan error)
			go func() { ended <- queue.acquire(ctx, l) }()
			go cancel(gone)
			if i%2 == 1 {
				queue.release(running, 0)
			}
			switch err := <-ended; {
			case err == nil:
				queue.release(l, 0)
			case !errors.Is(err, gone):
				t.Error(err)
			}
			if i%2 == 1 && !queue.tryAcquire(running) {
				t.Fatal("the slot is lost")
			}
		})
	}
	queue.release(running, 0)
	if queue.free != 1 || len(queue.queue) != 0 {
		t.Errorf("%d slots are free, %d users wait", queue.free, len(queue.queue))
	}
}
