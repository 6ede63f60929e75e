package rooms

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
	"lyceum/matrix/event"
)

// allocated is how many bytes something allocates.
func allocated(do func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc) //nolint:gosec // not so large
}

// TestAPageReadsAboutWhatItGives of a room with large events, as many pages are made at once.
func TestAPageReadsAboutWhatItGives(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		ctx := t.Context()
		room := h.alice.create(obj{"preset": "public_chat"})
		w := newPast(t, h.Rooms, room)
		first := w.pos
		root := w.add("a", h.alice.id, nil, event.Relation{})
		w.body = strings.Repeat("x", 60_000)
		var ids []string
		for range 150 {
			ids = append(ids, w.add("a", h.alice.id, nil, event.Relation{Target: root, Type: relThread}))
		}
		w.store()
		s, _, err := h.findMembershipView(ctx, h.alice.id, room)
		if err != nil {
			t.Fatal(err)
		}
		v := roomView{membershipView: s, upto: s.head.Pos}
		text := func(events []*Event) (n int) {
			for _, e := range events {
				n += len(e.JSON)
			}
			return n
		}

		all, err := h.Timeline(ctx, Page{RoomID: room, From: first, Limit: 1000})
		if err != nil || len(all) != 151 {
			t.Fatal(len(all), err)
		}
		reads := allocated(func() { _, err = h.Timeline(ctx, Page{RoomID: room, From: first, Limit: 36}) })
		if err != nil {
			t.Fatal(err)
		}
		for name, read := range map[string]func(s eventRange) (eventPage, error){
			"messages":  func(s eventRange) (eventPage, error) { return h.readRange(ctx, v, s) },
			"relations": func(s eventRange) (eventPage, error) { return h.pickVisible(ctx, v.membershipView, ids, s) },
		} {
			var f eventPage
			n := allocated(func() {
				f, err = read(eventRange{from: s.head.Pos, backward: true, limit: 140, filter: &event.Filter{}})
			})
			if size := text(f.events); err != nil || !f.more || size < pageBytes || size > pageBytes+1<<16 {
				t.Errorf("%s: %d bytes came, more: %t: %v", name, size, f.more, err)
			}
			t.Logf("%s: %d KiB allocated, reading the page alone %d", name, n>>10, reads>>10)
			if n > reads*2 {
				t.Errorf("%s: %d KiB were allocated, and reading the page alone takes %d", name, n>>10, reads>>10)
			}
		}
		n := allocated(func() { h.alice.Want(200, at1("GET", room, fmt.Sprintf("timestamp_to_event?dir=b&ts=%d", w.pos)), nil) })
		if t.Logf("timestamp_to_event: %d KiB", n>>10); n > reads {
			t.Errorf("timestamp_to_event: %d KiB were allocated, a page takes %d", n>>10, reads>>10)
		}

		a := h.alice.Want(200, at("GET", room, "context/"+esc(ids[75])+"?limit=1000&filter=%7B%22lazy_load_members%22:true%7D"), nil)
		if len(a.Body) > pageBytes+4<<16 {
			t.Errorf("context: %d bytes came", len(a.Body))
		}
		idOf := func(e gjson.Result) string { return e.Get("event_id").String() }
		var before, after []string
		for _, e := range a.Get("events_before").Array() {
			before = append(before, idOf(e))
		}
		for _, e := range a.Get("events_after").Array() {
			after = append(after, idOf(e))
		}
		slices.Reverse(before)
		if got := append(append(before, ids[75]), after...); len(before) == 0 || len(after) == 0 ||
			!slices.Equal(got, ids[75-len(before):76+len(after)]) {
			t.Errorf("context: %d events before and %d after, or not in order", len(before), len(after))
		}
		for name, want := range map[string]string{
			"dir=b&from=" + a.Get("start").String(): ids[74-len(before)],
			"dir=f&from=" + a.Get("end").String():   ids[76+len(after)],
		} {
			if got := idOf(h.alice.Want(200, at("GET", room, "messages?limit=1&"+name), nil).Get("chunk.0")); got != want {
				t.Errorf("%s goes on with %s, expected %s", name, got, want)
			}
		}
	})
}

// TestAPageEndsByBytes: one page after the other is the whole, however few bytes one has.
func TestAPageEndsByBytes(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		room := h.alice.create(obj{"preset": "public_chat"})
		w := newPast(t, h.Rooms, room)
		first := w.pos
		for n := range 30 {
			w.body = strings.Repeat("x", n%3*1000)
			w.add("a", h.alice.id, nil, event.Relation{})
		}
		w.store()
		for _, backward := range []bool{false, true} {
			for _, bytes := range []int{0, 1, 900, 1500, 5000, 1 << 20} {
				p := Page{RoomID: room, From: first, To: w.pos + 1, Backward: backward, Limit: 7, Bytes: bytes}
				if backward {
					p.From, p.To = p.To, p.From
				}
				var got []int64
				for whole := false; !whole; {
					events, err := h.Timeline(t.Context(), p)
					if err != nil {
						t.Fatal(err)
					}
					size := 0
					for i, e := range events {
						if got = append(got, e.Pos); i < len(events)-2 {
							size += len(e.JSON)
						}
						p.From = e.Pos
					}
					if whole = p.Complete(events); bytes > 0 && size >= bytes || len(events) == 0 && !whole {
						t.Fatalf("%+v: %d events came, which have %d bytes without the last two", p, len(events), size)
					}
				}
				if backward {
					slices.Reverse(got)
				}
				if len(got) != 30 || got[0] != first+1 || !slices.IsSorted(got) || len(slices.Compact(got)) != 30 {
					t.Errorf("%+v: found %v", p, got)
				}
			}
		}
	})
}

// TestALargeEventCountsWithItsText in the cache, which is made after the event came there.
func TestALargeEventCountsWithItsText(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		room := h.alice.create(obj{"preset": "public_chat"})
		long := strings.Repeat("x", 60_000)
		h.alice.state(room, "m.test", "", obj{"x": long})
		id := h.alice.state(room, "m.test", "", obj{"x": long + "y"})
		e, err := h.Event(t.Context(), id)
		if err != nil || len(e.PrevContent) < 60_000 {
			t.Fatal(len(e.PrevContent), err)
		}
		weight := int(e.weight())
		if has := len(e.JSON) + len(e.PrevContent) + cap(e.ClientJSON()); has > weight+weight/50 || weight > has+has/10 {
			t.Errorf("an event of %d bytes counts for %d", has, weight)
		}
		if small, err := h.Event(t.Context(), h.alice.say(room, "hello")); err != nil || small.weight() > cachedEvent {
			t.Errorf("a small event counts for %d, expected %d at most: %v", small.weight(), cachedEvent, err)
		}
	})
}
