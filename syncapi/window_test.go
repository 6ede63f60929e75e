package syncapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestWindowsAreBoundedInBytes compares the rows in memory with all rows, whatever was evicted: what windows say that they know is
// true, and they take no more bytes than they may.
func TestWindowsAreBoundedInBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type row struct {
			pos  int64
			size int
		}
		const shards, budget = 2, 2000
		r := newWindows(rapid.IntRange(1, 4).Draw(t, "keep"), budget, func(v row) int { return v.size })
		r.start = []int64{5, 7}
		next := []int64{6, 8}
		all := map[string][]row{}
		key := func() (string, int) {
			k := rapid.IntRange(0, 9).Draw(t, "key")
			return fmt.Sprint(k), k % shards
		}
		check := func() {
			sum, kept := 0, 0
			for k, s := range r.byKey {
				n := 0
				for _, it := range s.rows {
					n += it.value.size
				}
				if s.base != nil {
					n += s.base.size
				}
				if n != s.bytes || (n > 0) != (s.element != nil) {
					t.Fatalf("key %s: %d bytes were counted, found %d, place %v", k, s.bytes, n, s.element != nil)
				}
				sum, kept = sum+n, kept+len(s.rows)
			}
			if sum != r.bytes || sum > budget {
				t.Fatalf("%d bytes were counted, found %d, at most %d are allowed", r.bytes, sum, budget)
			}
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			k, shard := key()
			switch rapid.IntRange(0, 5).Draw(t, "op") {
			case 0, 1, 2:
				v := row{next[shard], rapid.SampledFrom([]int{1, 100, 500, 1500, 2500}).Draw(t, "size")}
				next[shard]++
				all[k] = append(all[k], v)
				r.append(shard, k, v.pos, v)
			case 3:
				r.evictIdle(rapid.IntRange(0, 2).Draw(t, "rounds"))
			case 4:
				r.replace(k, func(v row) bool { return v.pos%2 == 0 }, row{next[shard] - 1, 300})
			case 5: // as a reader does who had to ask the database
				at := next[shard] - 1
				if i := newestAt(all[k], func(v row) bool { return v.pos <= at }); i >= 0 {
					r.setBase(k, at, all[k][i])
				}
			}
			check()
			after := rapid.Int64Range(0, next[shard]).Draw(t, "after")
			upto := rapid.Int64Range(after, next[shard]).Draw(t, "upto")
			rows, ok := r.between(shard, k, after, upto)
			if ok {
				var want, got []int64
				for _, v := range all[k] {
					if v.pos > after && v.pos <= upto {
						want = append(want, v.pos)
					}
				}
				for _, it := range rows {
					got = append(got, it.pos)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("since %d to %d: expected %v, found %v", after, upto, want, got)
				}
			}
			newer := slices.ContainsFunc(all[k], func(v row) bool { return v.pos > after })
			if after >= r.start[shard] && r.hasAfter(shard, k, after) != newer {
				t.Fatalf("changed after %d: expected %v", after, newer)
			}
		}
	})
}

func newestAt[T any](list []T, is func(T) bool) int {
	for i := len(list) - 1; i >= 0; i-- {
		if is(list[i]) {
			return i
		}
	}
	return -1
}

// TestMemoryOfManyRoomsHasABudget fills many rooms with long events: what is evicted is read from the database.
func TestMemoryOfManyRoomsHasABudget(t *testing.T) {
	h := open(t, "sqlite")
	const budget = 2 << 20
	h.mu.Lock()
	h.events.budget = budget
	h.mu.Unlock()
	alice, bob := h.as(t, "alice"), h.as(t, "bob")
	long := strings.Repeat("x", 50_000)
	var ids []string
	for range 8 {
		ids = append(ids, h.room(t, "alice", "bob"))
	}
	bob.sync()
	sent := map[string][]string{}
	for range 5 {
		for _, room := range ids {
			sent[room] = append(sent[room], alice.say(room, long))
		}
	}
	h.mu.RLock()
	found, counted := 0, h.events.bytes
	for _, s := range h.events.byKey {
		for _, it := range s.rows {
			found += eventBytes(it.value)
		}
	}
	h.mu.RUnlock()
	if found > budget || counted > budget {
		t.Errorf("%d bytes of events are in memory, %d were counted, at most %d are allowed", found, counted, budget)
	}
	got := map[string][]string{}
	for range 10 { // an answer has a budget too
		a := bob.sync("filter", `{"room":{"timeline":{"limit":100}}}`)
		for _, room := range ids {
			var more []string
			for _, id := range in(a, "join", room, "timeline.events.#.event_id").Array() {
				more = append(more, id.String())
			}
			got[room] = append(got[room], more...)
		}
	}
	for _, room := range ids {
		newest := got[room][max(0, len(got[room])-1):]
		if len(newest) == 0 || newest[0] != sent[room][len(sent[room])-1] {
			t.Errorf("room %s: expected the end %v, found %v", room, sent[room], got[room])
		}
	}
}
