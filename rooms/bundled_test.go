package rooms

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
	"lyceum/matrix/event"
)

// TestWhatIsBundledCounts: small events with large edits, threads and redactions make no large answer, little is held for one,
// and its pages are the whole.
func TestWhatIsBundledCounts(t *testing.T) {
	const count = 120
	serve(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		room := h.alice.create(obj{"preset": "public_chat"})
		w := newPast(t, h.Rooms, room)
		first := w.pos
		root := w.add("a", h.alice.id, nil, event.Relation{})
		var ids []string
		for range count {
			ids = append(ids, w.add("a", h.alice.id, nil, event.Relation{Target: root, Type: relReference}))
		}
		until := w.pos
		long := strings.Repeat("x", 55_000)
		for n, id := range ids {
			if n%2 == 0 { // the older of the edits have no m.new_content behind the first
				w.body = long + `","m.new_content":{"body":"edited"},"x":"`
				w.add("a", h.alice.id, nil, event.Relation{Target: id, Type: relReplace})
				if n%4 == 0 {
					w.body = long
					w.add("a", h.alice.id, nil, event.Relation{Target: id, Type: relReplace})
				}
			} else {
				w.body = long
				w.add("a", h.alice.id, nil, event.Relation{Target: id, Type: relThread})
			}
		}
		w.body = ""
		w.store()
		least := allocated(func() {
			if _, err := h.Timeline(ctx, Page{RoomID: room, From: until, Limit: 2 * pageBytes / 55_000}); err != nil {
				t.Fatal(err)
			}
		})
		whole := func(e gjson.Result, at string) {
			n := slices.Index(ids, e.Get("event_id").String())
			rel := e.Get("unsigned.m\\.relations")
			if n < 0 {
				return
			}
			if n%2 == 0 && rel.Get("m\\.replace.content.m\\.new_content.body").String() != "edited" ||
				n%2 == 1 && !rel.Get("m\\.thread.latest_event.content.body").Exists() {
				t.Errorf("%s: event %d came without what is bundled", at, n)
			}
		}
		pages := func(name, path, from, token string, want []string) {
			ask := at1
			if strings.HasPrefix(path, "messages") {
				ask = at
			}
			var got []string
			for n := 0; ; n++ {
				var a gjson.Result
				size := 0
				spent := allocated(func() {
					reply := h.alice.Want(200, ask("GET", room, path+from), nil)
					a, size = gjson.ParseBytes(reply.Body), len(reply.Body)
				})
				if size > pageBytes+200_000 {
					t.Errorf("%s: an answer of %d bytes came", name, size)
				}
				t.Logf("%s: %d KiB were allocated, as much as is given takes %d to read", name, spent>>10, least>>10)
				if spent > 7*least {
					t.Errorf("%s: %d KiB were allocated, as much as is given takes %d to read", name, spent>>10, least>>10)
				}
				for _, e := range a.Get("chunk").Array() {
					whole(e, name)
					got = append(got, e.Get("event_id").String())
				}
				if from = a.Get(token).String(); from == "" || n > 100 {
					break
				}
				from = "&from=" + from
			}
			if got = slices.DeleteFunc(got, func(id string) bool { return !slices.Contains(want, id) }); !slices.Equal(got, want) {
				t.Errorf("%s: %d of %d events came, or not in order", name, len(got), len(want))
			}
		}
		backward := slices.Clone(ids)
		slices.Reverse(backward)
		var roots []string
		for n, id := range backward {
			if (len(ids)-1-n)%2 == 1 {
				roots = append(roots, id)
			}
		}
		pages("messages", "messages?dir=b&limit=1000", "&from="+PositionToken(until), "end", backward)
		pages(
			"messages forward",
			fmt.Sprintf("messages?dir=f&limit=%d&to=%s", count+1, PositionToken(until)),
			"&from="+PositionToken(first),
			"end",
			ids,
		)
		pages("relations", "relations/"+esc(root)+"/m.reference?limit=1000", "", "next_batch", backward)
		pages("threads", "threads?limit=1000", "", "next_batch", roots)

		a := h.alice.Want(200, at("GET", room, "context/"+esc(ids[60])+"?limit=240&filter=%7B%22lazy_load_members%22:true%7D"), nil)
		if len(a.Body) > pageBytes+200_000 {
			t.Errorf("context: %d bytes came", len(a.Body))
		}
		before, after := a.Get("events_before").Array(), a.Get("events_after").Array()
		if len(before) < 10 || len(after) < 10 || len(before) > 50 || len(after) > 50 {
			t.Fatalf("context: %d events before and %d after", len(before), len(after))
		}
		for name, want := range map[string]string{
			"dir=b&from=" + a.Get("start").String(): ids[59-len(before)],
			"dir=f&from=" + a.Get("end").String():   ids[61+len(after)],
		} {
			if got := h.alice.Want(200, at("GET", room, "messages?limit=1&"+name), nil).Get("chunk.0.event_id").String(); got != want {
				t.Errorf("%s goes on with %s, expected %s", name, got, want)
			}
		}
	})
}
