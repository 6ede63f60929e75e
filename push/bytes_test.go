package push

import (
	"fmt"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"

	"lyceum/rooms/roomstest"
)

// TestFewOfManyLargeEventsAreRead: a page of notifications reads few of many large events, and all of them are counted.
func TestFewOfManyLargeEventsAreRead(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		const said, size = 90, 60_000
		room := n.Room(t, "alice", "bob")
		long := strings.Repeat("x", size)
		var ids []string
		for range said {
			ids = append(ids, n.Say(t, "alice", room, long))
		}
		slices.Reverse(ids)
		path := roomstest.API + "/rooms/" + url.PathEscape(room)
		n.HTTP.As("alice").Want(200, "PUT "+path+"/redact/"+url.PathEscape(ids[said-1])+"/r", obj{})
		ids = ids[:said-1]
		n.wantUnread(t, "bob", room, len(ids), 0) // read in several parts
		n.wantUnread(t, "bob", room, len(ids), 0)

		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		list := n.HTTP.As("bob").Want(200, "GET "+roomstest.API+"/notifications?limit=1", nil)
		runtime.ReadMemStats(&after)
		if list.Get("notifications.#").Int() != 1 {
			t.Fatalf("found %d notifications", list.Get("notifications.#").Int())
		}
		if got := int(after.TotalAlloc - before.TotalAlloc); got > said*size {
			t.Errorf("one of %d notifications allocates %d KiB, which is more than all of them have", said, got>>10)
		}

		var got []string
		for from := ""; ; {
			list := n.HTTP.As("bob").Want(200, "GET "+roomstest.API+"/notifications?limit=50"+from, nil)
			if len(list.Body) > pageBytes+2*size {
				t.Errorf("a page has %d bytes", len(list.Body))
			}
			for _, e := range list.Get("notifications.#.event.event_id").Array() {
				got = append(got, e.String())
			}
			next := list.Get("next_token").String()
			if next == "" {
				break
			}
			from = "&from=" + fmt.Sprint(next)
		}
		slices.Sort(got)
		slices.Sort(ids)
		if !slices.Equal(got, ids) {
			t.Errorf("%d notifications came, expected %d", len(got), len(ids))
		}
	})
}
