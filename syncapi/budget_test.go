package syncapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"lyceum/accounts"
)

// TestTimelinesHaveABudget: an answer is bounded in bytes, and the client gets everything in the end.
func TestTimelinesHaveABudget(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		bob.sync()
		long := strings.Repeat("x", 60_000)
		var sent []string
		for range 40 { // more than memory keeps, and 2.4 MB
			sent = append(sent, alice.say(room, long))
		}
		for name, a := range map[string]func() int{
			"news":    func() int { return len(bob.peek("filter", `{"room":{"timeline":{"limit":100}}}`).Body) },
			"initial": func() int { return len(h.as(t, "bob").sync("filter", `{"room":{"timeline":{"limit":100}}}`).Body) },
		} {
			if size := a(); size > timelineBytes+200_000 {
				t.Errorf("%s: the answer has %d bytes", name, size)
			}
		}
		a := bob.sync("filter", `{"room":{"timeline":{"limit":100}}}`)
		same(t, "limited", in(a, "join", room, "timeline.limited"), true)
		got := in(a, "join", room, "timeline.events.#.event_id").Array()
		ids := make([]string, len(got))
		for i, id := range got {
			ids[len(got)-1-i] = id.String()
		}
		from := in(a, "join", room, "timeline.prev_batch").String()
		for len(ids) < len(sent) {
			m := bob.Want(200, "GET "+at(room, "messages?dir=b&limit=1000&from="+from), nil)
			if len(m.Body) > 2<<20+200_000 {
				t.Errorf("a page of /messages has %d bytes", len(m.Body))
			}
			for _, e := range m.Get("chunk").Array() {
				if e.Get("type").String() == "m.room.message" {
					ids = append(ids, e.Get("event_id").String())
				}
			}
			if from = m.Get("end").String(); from == "" {
				break
			}
		}
		if len(ids) != len(sent) {
			t.Fatalf("%d of %d messages came", len(ids), len(sent))
		}
		for i, id := range ids {
			if id != sent[len(sent)-1-i] {
				t.Fatalf("message %d from the end is %s, expected %s", i, id, sent[len(sent)-1-i])
			}
		}
	})
}

// TestManyRoomsHaveABudget: an answer with many rooms is bounded in bytes, but has the newest event of each room.
func TestManyRoomsHaveABudget(t *testing.T) {
	h := open(t, "sqlite")
	alice, bob := h.as(t, "alice"), h.as(t, "bob")
	long := strings.Repeat("x", 60_000)
	var rooms []string
	for range 12 {
		rooms = append(rooms, h.room(t, "alice", "bob"))
	}
	bob.sync()
	newest := map[string]string{}
	for _, room := range rooms {
		for range 16 {
			newest[room] = alice.say(room, long)
		}
	}
	a := bob.sync("filter", `{"room":{"timeline":{"limit":100}}}`)
	if len(a.Body) > answerBytes+timelineBytes {
		t.Errorf("the answer has %d bytes", len(a.Body))
	}
	for _, room := range rooms {
		events := in(a, "join", room, "timeline.events").Array()
		if len(events) == 0 || events[len(events)-1].Get("event_id").String() != newest[room] {
			t.Errorf("room %s gave %d events, without the newest", room, len(events))
		}
	}
}

// TestMessagesForADeviceHaveABudget: the rest comes with the next request.
func TestMessagesForADeviceHaveABudget(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		if _, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: "bob"}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Accounts.CreateDevice(t.Context(), id("bob"), "BOB", ""); err != nil {
			t.Fatal(err)
		}
		bob.sync()
		const messages = 40
		for n := range messages {
			alice.Want(
				200,
				fmt.Sprintf("PUT %s/sendToDevice/m.test/t%d", api, n),
				obj{"messages": obj{id("bob"): obj{"BOB": obj{"n": n, "x": strings.Repeat("x", 60_000)}}}},
			)
		}
		var got []int64
		for len(got) < messages {
			a := bob.sync()
			if len(a.Body) > 2<<20 {
				t.Errorf("the answer has %d bytes", len(a.Body))
			}
			for _, n := range a.Get("to_device.events.#.content.n").Array() {
				got = append(got, n.Int())
			}
			if len(a.Get("to_device.events").Array()) == 0 {
				break
			}
		}
		if len(got) != messages || !slices.IsSorted(got) {
			t.Errorf("messages %v came, expected %d in order", got, messages)
		}
	})
}

// TestATimelineReadsAboutWhatItGives: a timeline that is older than the window reads few more events than it returns.
func TestATimelineReadsAboutWhatItGives(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice := h.as(t, "alice")
		room := h.room(t, "alice")
		long := strings.Repeat("x", 60_000)
		for range 100 {
			alice.say(room, long)
		}
		q := &query{s: h.Sync, filter: &filter{}, scratch: &scratch{}}
		list, complete, err := q.newestEvents(t.Context(), eventRange{roomID: room, shard: h.Rooms.Stream().Shard(room), upto: 1 << 62}, 100)
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, e := range list {
			size += len(e.JSON)
		}
		if complete || size <= timelineBytes || size > 2*timelineBytes {
			t.Errorf("%d events of %d bytes were read, complete: %t", len(list), size, complete)
		}
	})
}
