package directory

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

// TestASearchAmongLargeEventsEndsByBytes: an answer has about 2 MiB of results, and the next one goes on behind them.
func TestASearchAmongLargeEventsEndsByBytes(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		const size = 60_000
		id := h.create(h.alice, obj{"preset": "public_chat"})
		var ids []string
		for n := range 60 {
			ids = append(ids, h.say(h.alice, id, "cheese "+strings.Repeat("x", size-n*100)))
		}
		slices.Sort(ids)
		h.indexed()
		for name, criteria := range map[string]obj{
			"recent":  {"order_by": "recent"},
			"rank":    {"order_by": "rank"},
			"context": {"order_by": "rank", "event_context": obj{"before_limit": 3, "after_limit": 3}, "include_state": true},
		} {
			criteria["search_term"], criteria["filter"] = "cheese", obj{"limit": 50}
			var got []string
			for query, pages := "", 0; ; pages++ {
				a := h.alice.Want(200, "POST "+v3+"/search"+query, obj{"search_categories": obj{"room_events": criteria}})
				if len(a.Body) > searchBytes+8*size {
					t.Errorf("%s: an answer has %d bytes", name, len(a.Body))
				}
				r := a.Get("search_categories.room_events")
				if pages == 0 && r.Get("count").Int() != int64(len(ids)) || pages > len(ids) {
					t.Fatalf("%s: found %d in page %d, expected %d", name, r.Get("count").Int(), pages, len(ids))
				}
				for _, e := range r.Get("results.#.result.event_id").Array() {
					got = append(got, e.String())
				}
				next := r.Get("next_batch").String()
				if next == "" {
					break
				}
				query = "?next_batch=" + url.QueryEscape(next)
			}
			slices.Sort(got)
			if !slices.Equal(got, ids) {
				t.Errorf("%s: %d results came, expected %d", name, len(got), len(ids))
			}
		}
	})
}
