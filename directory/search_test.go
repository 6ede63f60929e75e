package directory

import (
	"fmt"
	"net/url"
	"testing"

	"lyceum/platform/web/webtest"
)

func (h *house) search(c *webtest.Client, query string, criteria obj) webtest.Answer {
	h.t.Helper()
	a := c.Want(200, "POST "+v3+"/search"+query, obj{"search_categories": obj{"room_events": criteria}})
	return webtest.Answer{Status: a.Status, Body: []byte(a.Get("search_categories.room_events").Raw)}
}

// TestWhatWasSaidIsFoundAtOnce: also while the index is behind.
func TestWhatWasSaidIsFoundAtOnce(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		id := h.create(h.alice, obj{"preset": "public_chat"})
		other := h.create(h.bob, obj{"preset": "private_chat"})
		for i := range 20 {
			h.say(h.bob, other, fmt.Sprint("cheese of bob ", i))
			said := h.say(h.alice, id, fmt.Sprint("cheese number ", i))
			a := h.search(h.alice, "", obj{"search_term": "CHEESE number", "order_by": "recent", "keys": []string{"content.body"}})
			if a.Get("count").Int() != int64(i+1) ||
				a.Get("results.0.result.content.body").String() != fmt.Sprint("cheese number ", i) &&
					a.Get("results.1.result.event_id").String() != said {
				t.Fatalf("%d: %s", i, a.Body)
			}
		}
		if a := h.search(h.alice, "", obj{"search_term": "cheese", "keys": []string{"content.name"}}); a.Get("count").Int() != 0 {
			t.Fatalf("%s", a.Body)
		}
	})
}

// TestPagesOfASearch: a full page has a token, the last one has none, and each tells how many there are in all.
func TestPagesOfASearch(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		id := h.create(h.alice, obj{"preset": "public_chat"})
		for i := range 6 {
			h.say(h.alice, id, fmt.Sprint("cheese ", i))
		}
		query, sizes := "", []int{}
		for range 10 {
			a := h.search(h.alice, query, obj{"search_term": "cheese", "order_by": "recent", "filter": obj{"limit": 3}})
			sizes = append(sizes, len(a.Get("results").Array()))
			if a.Get("count").Int() != 6 {
				t.Errorf("%s", a.Body)
			}
			next := a.Get("next_batch").String()
			if next == "" {
				break
			}
			query = "?next_batch=" + url.QueryEscape(next)
		}
		if fmt.Sprint(sizes) != "[3 3 0]" {
			t.Error(sizes)
		}
	})
}

// TestSearchGoesOnInTheRoomBefore: who searches an upgraded room finds what was said in the rooms that it replaced, if there.
func TestSearchGoesOnInTheRoomBefore(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		old := h.create(h.alice, obj{"preset": "public_chat", "room_version": "9"})
		h.say(h.alice, old, "cheese before")
		now := old
		for _, version := range []string{"10", "12"} {
			now = h.alice.Want(200, "POST "+at(now, "upgrade"), obj{"new_version": version}).Get("replacement_room").String()
			h.say(h.alice, now, "cheese in "+version)
		}
		h.join(h.bob, now)
		search := func(c *webtest.Client, filter obj) int64 {
			return h.search(c, "", obj{"search_term": "cheese", "filter": filter}).Get("count").Int()
		}
		if n := search(h.alice, obj{"rooms": []string{now}}); n != 3 {
			t.Errorf("a member of all of them found %d", n)
		}
		if n := search(h.bob, obj{"rooms": []string{now}}); n != 1 {
			t.Errorf("a member of the newest found %d", n)
		}
		if n := search(h.alice, obj{"rooms": []string{now}, "not_rooms": []string{old}}); n != 2 {
			t.Errorf("without the oldest: %d", n)
		}
	})
}
