package rooms

import (
	"testing"
	"time"

	"lyceum/matrix/event"
)

// An event may be read by two, and be evicted after the first cached it, while the second does.
func TestReplacersOfCachedEvents(t *testing.T) {
	r := &Rooms{replacers: map[string]string{}}
	var err error
	if r.cache, err = r.newCache(1000); err != nil {
		t.Fatal(err)
	}
	e := &Event{Event: &event.Event{}}
	e.ID, e.Replaces = "$new", "$old"
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		r.cacheEvents([]*Event{e}, 0)
		evicted := make(chan struct{})
		go func() {
			r.cache.Invalidate(e.ID) // as an eviction, which does not wait for cacheMu
			close(evicted)
		}()
		r.cacheEvents([]*Event{e}, 0)
		<-evicted
		_, cached := r.cache.GetEntryQuietly(e.ID)
		if known := r.replacer(e.Replaces) == e.ID; known != cached {
			t.Fatalf("the event is cached: %v, known as the one that replaced another: %v", cached, known)
		}
	}
}
