package modeltest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/platform/db"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// finish ends all faults and checks what is left.
func (h *history) finish() {
	h.note("the faults end")
	for _, m := range h.live() {
		m.recover()
	}
	for slot, m := range h.members {
		if m == nil {
			h.join(slot)
		}
	}
	for _, o := range h.ops {
		if !o.lost {
			h.await(o)
		}
	}
	h.alive("after the faults")
	for _, who := range users {
		h.spread(who)
	}
	for _, m := range h.members {
		for _, who := range []string{"alice", "bob"} {
			h.insist("sync", func(int) *op { return h.sync(who, m) })
		}
	}
	h.sound(h.members[0])
	for slot, m := range h.members {
		h.must(m.leave(15*time.Second), "restart")
		h.members[slot] = nil
	}
	h.note("all processes start again")
	for slot := range h.members {
		h.join(slot)
	}
	h.alive("after a restart")
	h.workedOff()
	h.reader["alice"].since = ""
	h.insist("sync", func(int) *op { return h.sync("alice", h.members[0]) })
	h.sound(h.members[0])
}

// workedOff holds that the consumers come to the end of their streams. A row that failed until the faults ended is tried again when
// its pause is over.
func (h *history) workedOff() {
	for try := 1; ; try++ {
		waits := ""
		for _, st := range h.members[0].process.Streams.All() {
			done, err := st.Consumed(context.Background())
			h.must(err, "read the cursors of consumers")
			if all := st.Positions(); !slices.Equal(done, all) {
				waits += fmt.Sprintf("%s: %v of %v; ", st.Name(), done, all)
			}
		}
		switch {
		case waits == "":
			return
		case try == 3*int(patience/time.Second):
			h.fail("consumers do not come to the end: %s", waits)
		}
		time.Sleep(time.Second)
	}
}

// alive holds that each room takes a message.
func (h *history) alive(when string) {
	for _, room := range h.rooms {
		h.insist(when+", send", func(try int) *op { return h.say(h.creator[room], room, h.members[try%len(h.members)]) })
	}
}

// tries are how often something may fail once nothing is broken any more: a pool does not notice at once that its
// connections were cut.
const tries = 15

// insist holds that an operation works in the end.
func (h *history) insist(what string, start func(try int) *op) {
	for try := 1; ; try++ {
		o := start(try)
		h.await(o)
		if o.status == 200 {
			return
		}
		if try == tries || o.status == 403 {
			h.fail("%s: %v, after %d tries", what, o, try)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// row is a stored event.
type row struct {
	shard                 int
	pos                   int64
	room, id, typ, sender string
	stateKey              *string
	json, root            []byte
	prev                  []string
	depth                 int64
	membership            string
}

// sound holds what must be true of the stored rows, whatever happened. m reads the trees.
func (h *history) sound(m *member) {
	ctx := context.Background()
	rows, err := db.List(func(r db.Row) (e row, err error) {
		err = r.Scan(&e.shard, &e.pos, &e.room, &e.id, &e.typ, &e.stateKey, &e.sender, &e.json, &e.root)
		j := gjson.ParseBytes(e.json)
		for _, p := range j.Get("prev_events").Array() {
			e.prev = append(e.prev, p.String())
		}
		e.depth, e.membership = j.Get("depth").Int(), j.Get("content.membership").String()
		return e, err
	})(h.control.Query(ctx, "SELECT shard, pos, room_id, event_id, type, state_key, sender, json, root FROM events ORDER BY shard, pos"))
	h.must(err, "read all events")
	h.positions(rows)
	h.absent(rows)
	last := map[string]*row{}
	states := map[string]map[state.Key]string{}
	members := map[string]map[string]string{}
	for i := range rows {
		e := &rows[i]
		before := last[e.room]
		switch {
		case before == nil && (e.typ != "m.room.create" || len(e.prev) > 0):
			h.fail("room %s begins with %s", e.room, e.json)
		case before == nil:
			states[e.room], members[e.room] = map[state.Key]string{}, map[string]string{}
		case len(e.prev) != 1 || e.prev[0] != before.id || e.depth != before.depth+1:
			h.fail(
				"event %s at %d/%d of room %s names %v before it at depth %d; stored before it is %s at depth %d", e.id, e.shard, e.pos, e.room,
				e.prev, e.depth, before.id, before.depth,
			)
		}
		last[e.room] = e
		h.mayAct(e, members[e.room])
		if e.stateKey != nil {
			states[e.room][state.Key{Type: e.typ, StateKey: *e.stateKey}] = e.id
			if e.typ == "m.room.member" {
				members[e.room][*e.stateKey] = e.membership
			}
		}
		h.tree(ctx, m, e, states[e.room])
	}
	for room, want := range members {
		got, err := db.Map[string, string](h.control.Query(ctx, "SELECT user_id, membership FROM memberships WHERE room_id = $1", room))
		h.must(err, "read memberships")
		if fmt.Sprint(got) != fmt.Sprint(want) {
			h.fail("room %s: the table of memberships says %v, the events say %v", room, got, want)
		}
	}
	for id, o := range h.acked {
		if !slices.ContainsFunc(rows, func(e row) bool { return e.id == id }) {
			h.fail("%v: acknowledged, and not stored at the end", o)
		}
	}
	for id, by := range h.shown {
		if !slices.ContainsFunc(rows, func(e row) bool { return e.id == id }) {
			h.fail("event %s was shown and is not stored: %s", id, by)
		}
	}
	for _, o := range h.ops {
		if (o.kind == "toDevice" || o.kind == "receipt") && o.settled && o.status == 200 {
			o.check(o) // a receipt never goes back
		}
	}
	h.heads()
}

// leases are the stored positions of shards, by the names of their leases.
func (h *history) leases(prefix string) map[string]int64 {
	held, err := db.Map[string, int64](h.control.Query(context.Background(), "SELECT name, pos FROM leases WHERE name LIKE $1", prefix+"%"))
	h.must(err, "read the leases")
	return held
}

// leaseName is the name of the lease of a shard.
func leaseName(stream string, shard int) string { return fmt.Sprintf("stream/%s/%04d", stream, shard) }

// heads holds that no row stands behind the position of its lease: what comes late must not move a lease back.
func (h *history) heads() {
	for _, stream := range []string{"receipts", "typing", "presence", "to_device"} {
		newest, err := db.Map[int, int64](h.control.Query(context.Background(), "SELECT shard, MAX(pos) FROM "+stream+" GROUP BY shard"))
		h.must(err, "read positions")
		// Then the leases: what a client did not wait for may be stored between the two.
		leases := h.leases("stream/")
		for shard, pos := range newest {
			if at := leases[leaseName(stream, shard)]; at < pos {
				h.fail("stream %s, shard %d: the lease stands at %d, a row at %d", stream, shard, at, pos)
			}
		}
	}
}

// positions holds that the rows of a shard are 1, 2, 3, … and that the lease stands at the last.
func (h *history) positions(rows []row) {
	last := map[int]int64{}
	for _, e := range rows {
		if e.pos != last[e.shard]+1 {
			h.fail("shard %d: position %d follows %d", e.shard, e.pos, last[e.shard])
		}
		last[e.shard] = e.pos
	}
	leases := h.leases("stream/events/")
	for shard := range rooms.Shards {
		if at := leases[leaseName("events", shard)]; at != last[shard] {
			h.fail("shard %d: the lease stands at %d, the last row at %d", shard, at, last[shard])
		}
	}
}

// absent holds that nothing is stored of what was refused, and nothing twice.
func (h *history) absent(rows []row) {
	n := map[string]int{}
	refused := map[string]*op{}
	done := map[string]bool{}
	for _, o := range h.ops {
		if o.marker == "" || o.kind == "toDevice" || o.kind == "presence" {
			continue
		}
		n[o.marker] = 0
		if o.settled && o.refused() {
			refused[o.marker] = o
		} else {
			done[o.marker] = true // or not known
		}
	}
	for _, e := range rows {
		for m := range n {
			if bytes.Contains(e.json, []byte(`"`+m+`"`)) {
				n[m]++
			}
		}
	}
	for m, k := range n {
		if o := refused[m]; o != nil && !done[m] && k > 0 && !h.setting.known.refusedAfterMove {
			h.fail("%v: refused and stored", o)
		}
		if k > 1 {
			h.fail("%s is stored %d times", m, k)
		}
	}
}

// mayAct holds that nobody acts on a membership that has ended.
func (h *history) mayAct(e *row, members map[string]string) {
	is := members[e.sender]
	switch {
	case e.typ == "m.room.create", is == "join":
		return
	case e.typ == "m.room.member" && e.stateKey != nil && *e.stateKey == e.sender:
		if is != "ban" || e.membership == "ban" { // joins, leaves, rejects
			return
		}
	}
	h.fail("event %s at %d/%d of room %s: %s acts with the membership %q: %s", e.id, e.shard, e.pos, e.room, e.sender, is, e.json)
}

// tree holds that the state after an event is readable and what the events before it make it.
func (h *history) tree(ctx context.Context, m *member, e *row, want map[state.Key]string) {
	entries, err := m.rooms.Tree(state.IDFrom(e.root)).All(ctx)
	if err != nil {
		h.fail("the state after event %s at %d/%d can not be read: %v", e.id, e.shard, e.pos, err)
	}
	same := len(entries) == len(want)
	got := map[state.Key]string{}
	for _, x := range entries {
		got[x.Key] = x.EventID
		same = same && want[x.Key] == x.EventID
	}
	if !same {
		h.fail("the state after event %s at %d/%d of room %s is %v, the events make it %v", e.id, e.shard, e.pos, e.room, got, want)
	}
}
