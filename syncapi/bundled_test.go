package syncapi

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestWhatIsBundledCountsInTimelines: bundled events count in the size of an answer, and the client gets everything in the end.
func TestWhatIsBundledCountsInTimelines(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		bob.sync()
		long := strings.Repeat("x", 60_000)
		var sent []string
		for range 40 {
			sent = append(sent, alice.say(room, "small"))
		}
		for _, id := range sent {
			alice.send(room, "test.reply", obj{"body": long, "m.relates_to": obj{"rel_type": "m.thread", "event_id": id}})
		}
		filter := `{"room":{"timeline":{"limit":100,"types":["m.room.message"]}}}`
		for name, a := range map[string]func() int{
			"news":    func() int { return len(bob.peek("filter", filter).Body) },
			"initial": func() int { return len(h.as(t, "bob").sync("filter", filter).Body) },
		} {
			if size := a(); size > timelineBytes+200_000 {
				t.Errorf("%s: the answer has %d bytes", name, size)
			}
		}
		a := bob.sync("filter", filter)
		same(t, "limited", in(a, "join", room, "timeline.limited"), true)
		var ids []string
		for _, e := range in(a, "join", room, "timeline.events").Array() {
			if !e.Get("unsigned.m\\.relations.m\\.thread.latest_event").Exists() {
				t.Error("an event came without what is bundled")
			}
			ids = append(ids, e.Get("event_id").String())
		}
		slices.Reverse(ids)
		if len(ids) < 10 {
			t.Fatalf("%d events came", len(ids))
		}
		from := in(a, "join", room, "timeline.prev_batch").String()
		for from != "" && len(ids) < len(sent) {
			m := bob.Want(200, "GET "+at(room, "messages?dir=b&limit=40&from="+from+"&filter="+url.QueryEscape(`{"types":["m.room.message"]}`)), nil)
			for _, id := range m.Get("chunk.#.event_id").Array() {
				ids = append(ids, id.String())
			}
			from = m.Get("end").String()
		}
		if slices.Reverse(ids); !slices.Equal(ids, sent) {
			t.Errorf("%d of %d events came, or not in order", len(ids), len(sent))
		}

		// A state is whole, with all redactions.
		for n := range 24 {
			id := alice.state(room, "test.state", strconv.Itoa(n), obj{})
			alice.Want(200, "PUT "+at(room, "redact/"+url.PathEscape(id)+"/state"+strconv.Itoa(n)), obj{"reason": long})
		}
		bob.since = ""
		a = bob.sync("filter", `{"room":{"timeline":{"limit":1,"types":["m.room.message"]}}}`)
		redacted := 0
		for _, e := range in(a, "join", room, "state.events").Array() {
			if e.Get("type").String() == "test.state" && len(e.Get("unsigned.redacted_because.content.reason").String()) == len(long) {
				redacted++
			}
		}
		if redacted != 24 {
			t.Errorf("%d of 24 state events came with their redactions", redacted)
		}
	})
}
