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

// TestTurns: each user asks so often at once, and uses each place for a second. Who has used less goes first.
func TestTurns(t *testing.T) {
	type ask struct {
		after time.Duration
		user  string
		times int
	}
	for name, c := range map[string]struct {
		places, ofUser int
		asks           []ask
		want           []string // users in the order of their turns
	}{
		"one user, in order":   {1, 1, []ask{{0, "a", 3}}, []string{"a", "a", "a"}},
		"two users take turns": {1, 1, []ask{{0, "a", 3}, {0, "b", 3}}, []string{"a", "b", "a", "b", "a", "b"}},
		"a newcomer passes many requests": {1, 1, []ask{{0, "a", 4}, {0, "b", 4}, {2500 * time.Millisecond, "c", 1}}, []string{
			"a", "b",
			"a", "b", "c", "a", "b", "a", "b",
		}},
		"nobody saves up by staying away": {1, 1, []ask{{0, "a", 4}, {1500 * time.Millisecond, "b", 3}}, []string{
			"a", "a", "b", "a", "b",
			"a", "b",
		}},
		"one user does not have all places":  {2, 1, []ask{{0, "a", 3}, {500 * time.Millisecond, "b", 1}}, []string{"a", "b", "a", "a"}},
		"several places of one user at once": {3, 2, []ask{{0, "a", 4}, {0, "b", 1}}, []string{"a", "a", "b", "a", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				turns := newTurns(c.places, c.ofUser)
				lines := map[string]*line{}
				var mu sync.Mutex
				var got []string
				for _, a := range c.asks {
					if lines[a.user] == nil {
						lines[a.user] = &line{}
					}
				}
				var began time.Duration
				for _, a := range c.asks {
					time.Sleep(a.after - began)
					began = a.after
					for range a.times {
						l := lines[a.user]
						go func() {
							if err := turns.enter(context.Background(), l); err != nil {
								t.Error(err)
							}
							mu.Lock()
							got = append(got, a.user)
							mu.Unlock()
							time.Sleep(time.Second)
							turns.leave(l, time.Second)
						}()
						synctest.Wait()
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if !slices.Equal(got, c.want) {
					t.Errorf("found %v, expected %v", got, c.want)
				}
				if turns.free != c.places || len(turns.queue) != 0 {
					t.Errorf("%d places are free of %d, %d users wait", turns.free, c.places, len(turns.queue))
				}
			})
		})
	}
}

// TestTurnsEndWithTheirRequest: one that goes away keeps no place, also when it gets one in the same moment.
func TestTurnsEndWithTheirRequest(t *testing.T) {
	turns := newTurns(1, 1)
	inside := &line{}
	if !turns.try(inside) {
		t.Fatal("no place")
	}
	gone := errors.New("gone")
	for i := range 100 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			l := &line{}
			ended := make(chan error)
			go func() { ended <- turns.enter(ctx, l) }()
			go cancel(gone)
			if i%2 == 1 {
				turns.leave(inside, 0)
			}
			switch err := <-ended; {
			case err == nil:
				turns.leave(l, 0)
			case !errors.Is(err, gone):
				t.Error(err)
			}
			if i%2 == 1 && !turns.try(inside) {
				t.Fatal("the place is lost")
			}
		})
	}
	turns.leave(inside, 0)
	if turns.free != 1 || len(turns.queue) != 0 {
		t.Errorf("%d places are free, %d users wait", turns.free, len(turns.queue))
	}
}
