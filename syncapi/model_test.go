package syncapi

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/rooms"
)

// watcher is a client that keeps what it gets as the specification says: the timeline of each room, with
// its gaps filled from /messages, and the state.
type watcher struct {
	*client
	name     string
	after    bool // asks for state_after
	timeline map[string][]string
	state    map[string]map[string]string
	in       map[string]bool
}

func newWatcher(c *client, name string, after bool) *watcher {
	return &watcher{
		client:   c,
		name:     name,
		after:    after,
		timeline: map[string][]string{},
		state:    map[string]map[string]string{},
		in:       map[string]bool{},
	}
}

func stateKey(e gjson.Result) string {
	return e.Get("type").String() + "|" + e.Get("state_key").String()
}

func (w *watcher) put(room string, e gjson.Result) {
	if w.state[room] == nil {
		w.state[room] = map[string]string{}
	}
	w.state[room][stateKey(e)] = e.Get("event_id").String()
}

// syncOnce syncs once with some limit and filter.
func (w *watcher) syncOnce(r *rand.Rand) {
	w.t.Helper()
	limit := []int{0, 1, 2, 5, 100}[r.IntN(5)]
	types := ""
	if r.IntN(4) == 0 {
		types = []string{`,"not_types":["m.room.topic","m.room.name"]`, `,"not_types":["m.room.member"]`}[r.IntN(2)]
	}
	more := []string{"filter", fmt.Sprintf(`{"room":{"timeline":{"limit":%d%s}}}`, limit, types), "set_presence", "offline"}
	if w.after {
		more = append(more, "use_state_after", "true")
	}
	if r.IntN(10) == 0 {
		more = append(more, "full_state", "true")
	}
	if r.IntN(10) == 0 {
		w.peek(more...) // the answer is lost
	}
	a := w.sync(more...)
	for room := range a.Get("rooms.invite").Map() {
		w.in[room] = false
	}
	for _, section := range []string{"join", "leave"} {
		for room, part := range a.Get("rooms." + section).Map() {
			w.apply(room, part, types != "")
			w.in[room] = section == "join"
		}
	}
}

func (w *watcher) apply(room string, part gjson.Result, filtered bool) {
	w.t.Helper()
	name := "state"
	if w.after {
		name = "state_after"
		if part.Get("state").Exists() || part.Get("timeline").Exists() && !part.Get(name).Exists() {
			w.t.Fatalf("state_after is missing: %s", part)
		}
	}
	for _, e := range part.Get(name + ".events").Array() {
		w.put(room, e)
	}
	var fresh []string
	for _, e := range part.Get("timeline.events").Array() {
		fresh = append(fresh, e.Get("event_id").String())
		if e.Get("state_key").Exists() && !w.after {
			w.put(room, e)
		}
	}
	have := w.timeline[room]
	limited := part.Get("timeline.limited").Bool()
	switch prev := part.Get("timeline.prev_batch").String(); {
	case limited && !w.in[room] && len(have) > 0: // back in a room: begin anew, as events may have come while away
		w.timeline[room], have = nil, nil
		if filtered { // what the filter left out is read too
			prev, fresh = "", nil
		}
		fresh = append(w.backfill(room, prev, nil), fresh...)
	case filtered:
		fresh = w.backfill(room, "", have)
	case limited:
		fresh = append(w.backfill(room, prev, have), fresh...)
	}
	for _, id := range fresh {
		if slices.Contains(have, id) {
			w.t.Fatalf("%s got %s twice", w.name, id)
		}
	}
	w.timeline[room] = append(have, fresh...)
}

// backfill reads /messages backwards from a token until the newest event that is there.
func (w *watcher) backfill(room, from string, have []string) (out []string) {
	w.t.Helper()
	for {
		q := "messages?dir=b&limit=3"
		if from != "" {
			q += "&from=" + url.QueryEscape(from)
		}
		m := w.Want(200, "GET "+at(room, q), nil)
		for _, e := range m.Get("chunk").Array() {
			id := e.Get("event_id").String()
			if slices.Contains(have, id) {
				slices.Reverse(out)
				return out
			}
			out = append(out, id)
		}
		if from = m.Get("end").String(); from == "" {
			slices.Reverse(out)
			return out
		}
	}
}

// TestWatchersSeeTheTruth lets three users do random things in rooms, sync at any time with any limit, and compares
// what each client got with what is stored.
func TestWatchersSeeTheTruth(t *testing.T) {
	for seed := range uint64(12) {
		engine := []string{"sqlite", "postgres"}[seed%2]
		t.Run(fmt.Sprintf("%s/%d", engine, seed), func(t *testing.T) {
			h := open(t, engine)
			r := rand.New(rand.NewPCG(seed, 7))
			var all []string
			// alice is a member of all rooms and sees all; bob and carol come and go.
			people := []string{"alice", "bob", "carol"}
			var watchers []*watcher
			for i, name := range people {
				watchers = append(watchers, newWatcher(h.as(t, name), name, (seed+uint64(i))%2 == 0))
			}
			for i := range 2 {
				history := []string{"shared", "joined", "invited"}[(int(seed)/2+i)%3]
				all = append(all, h.as(t, "alice").create(obj{"preset": "public_chat", "initial_state": []obj{
					{"type": "m.room.history_visibility", "content": obj{"history_visibility": history}},
				}}))
			}
			for n := range 150 {
				who := people[r.IntN(3)]
				room := all[r.IntN(len(all))]
				c := h.http.As(who)
				switch k := r.IntN(20); {
				case k < 8:
					c.Call(fmt.Sprintf("PUT %s/m%d", at(room, "send/m.room.message"), n), obj{"msgtype": "m.text", "body": fmt.Sprint(n)})
				case k == 8:
					c.Call("PUT "+at(room, "state/m.room.name"), obj{"name": fmt.Sprint(n)})
				case k == 9:
					c.Call("PUT "+at(room, "state/m.room.topic"), obj{"topic": fmt.Sprint(n)})
				case k == 10:
					c.Call("PUT "+at(room, "state/m.room.member/"+url.PathEscape(id(who))), obj{"membership": "join", "displayname": fmt.Sprint(n)})
				case k == 11 && who != "alice":
					c.Call("POST "+at(room, "leave"), obj{})
				case k == 12:
					h.http.As("alice").Call("POST "+at(room, "kick"), obj{"user_id": id(people[1+r.IntN(2)])})
				case k < 16:
					c.Call("POST "+at(room, "join"), obj{})
				case k == 16:
					h.http.As("alice").Call("POST "+at(room, "invite"), obj{"user_id": id(people[1+r.IntN(2)])})
				}
				if r.IntN(3) == 0 {
					watchers[r.IntN(3)].syncOnce(r)
				}
			}
			for _, w := range watchers {
				w.syncOnce(r)
				if a := w.sync("set_presence", "offline"); a.Get("rooms").Exists() {
					t.Fatalf("%s is told more: %s", w.name, a.Body)
				}
				for _, room := range all {
					h.compare(t, w, room)
				}
			}
		})
	}
}

// compare checks what a watcher knows of a room against the database.
func (h *testNode) compare(t *testing.T, w *watcher, room string) {
	t.Helper()
	ctx := context.Background()
	events, err := h.Rooms.Timeline(ctx, rooms.Page{RoomID: room, Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	m, err := h.Rooms.Membership(ctx, id(w.name), room)
	if err != nil {
		t.Fatal(err)
	}
	joined := m.Membership == "join"
	if joined != w.in[room] {
		t.Fatalf("%s: the membership is %q, told was %v", w.name, m.Membership, w.in[room])
	}
	if !joined {
		return
	}
	visible, err := h.Rooms.CanSee(ctx, id(w.name), room, events)
	if err != nil {
		t.Fatal(err)
	}
	var truth []string
	own := map[string]bool{} // /sync tells them, though history visibility may hide them
	for i, e := range events {
		if visible[i] {
			truth = append(truth, e.ID)
		} else if e.Is("m.room.member", id(w.name)) {
			own[e.ID] = true
		}
	}
	if got := slices.DeleteFunc(w.timeline[room], func(id string) bool { return own[id] }); !slices.Equal(got, truth) {
		i := 0
		for i < min(len(got), len(truth)) && got[i] == truth[i] {
			i++
		}
		t.Fatalf("%s was told %d events of %d, not the same from %d on: %s; found %s", w.name, len(got), len(truth), i, events[i].JSON, got[i:])
	}
	entries, err := h.Rooms.Tree(events[len(events)-1].Root).All(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(w.state[room]) {
		t.Fatalf("%s: %d state events, told were %d", w.name, len(entries), len(w.state[room]))
	}
	for _, e := range entries {
		if got := w.state[room][e.Type+"|"+e.StateKey]; got != e.EventID {
			t.Fatalf("%s: the event of %s %q is %s, told was %s", w.name, e.Type, e.StateKey, e.EventID, got)
		}
	}
}
