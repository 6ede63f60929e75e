package rooms

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"

	"lyceum/matrix/event"
)

// made is an event of TestPagesAreWholeWhereEachLooksAtLittle.
type made struct {
	id, typ, sender string
	rel             event.Relation
	pos             int64
}

// TestPagesAreWholeWhereEachLooksAtLittle pages through relations, messages and threads with small limits, where a request looks at a
// few rows, or has room for few bytes: together the pages hold what there is, in order, without gaps or doubles.
func TestPagesAreWholeWhereEachLooksAtLittle(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		seed := rand.Uint64()
		t.Log("seed", seed)
		random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // not for a secret
		oneOf := func(list ...string) string { return list[random.IntN(len(list))] }
		room := h.alice.create(
			obj{
				"preset":        "public_chat",
				"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": "joined"}}},
			},
		)
		h.carol.join(room)
		all := []made{}
		const half = 120
		write := func(w *past) {
			t.Helper()
			for range half {
				m := made{typ: oneOf("a", "b"), sender: oneOf(h.alice.id, h.carol.id)}
				if len(all) > 0 && random.IntN(4) > 0 {
					target := all[random.IntN(min(len(all), 20))]
					if random.IntN(2) == 0 {
						target = all[max(0, len(all)-1-random.IntN(30))]
					}
					m.rel = event.Relation{Target: target.id, Type: oneOf(relThread, relAnnotation, "x"), Key: fmt.Sprint(len(all))}
				}
				w.body = strings.Repeat("x", random.IntN(2)*random.IntN(2000))
				m.id = w.add(m.typ, m.sender, nil, m.rel)
				m.pos = w.pos
				all = append(all, m)
			}
			w.store()
		}
		// The first half takes the places of what was sent before bob came.
		before := newPast(t, h.Rooms, room)
		for range half {
			h.alice.say(room, "to be replaced")
		}
		h.bob.join(room)
		joined, _, err := h.Head(t.Context(), room)
		if err == nil {
			_, err = h.Process.DB.Exec(t.Context(), "DELETE FROM events WHERE room_id = $1 AND pos > $2 AND pos < $3", room, before.pos, joined.Pos)
		}
		if err != nil || joined.Pos != before.pos+half+1 {
			t.Fatal(joined.Pos, before.pos, err)
		}
		write(before)
		write(newPast(t, h.Rooms, room))
		byID := map[string]made{}
		for _, m := range all {
			byID[m.id] = m
		}

		few := 0 // pages that hold less than their limit and are not the last
		pages := func(p *person, path, next string) (ids []string) {
			t.Helper()
			limit, from := 1+random.IntN(6), ""
			for range 2000 {
				a := p.Want(200, path+fmt.Sprintf("&limit=%d", limit)+from, nil)
				chunk := a.Get("chunk").Array()
				for _, e := range chunk {
					ids = append(ids, e.Get("event_id").String())
				}
				if !a.Get(next).Exists() {
					return ids
				}
				if len(chunk) < limit {
					few++
				}
				from = "&from=" + a.Get(next).String()
			}
			t.Fatalf("%s has no end", path)
			return nil
		}
		check := func(what string, got []string, want []made) {
			t.Helper()
			ids := []string{}
			for _, m := range want {
				ids = append(ids, m.id)
			}
			if len(ids)+len(got) > 0 && !slices.Equal(ids, got) {
				t.Errorf("%s: expected %d events %v, found %d %v", what, len(ids), ids, len(got), got)
			}
		}
		some := func(list []made, want func(m made) bool) (out []made) {
			for _, m := range list {
				if want(m) {
					out = append(out, m)
				}
			}
			return out
		}
		for range 25 {
			h.ScanLimit, h.PageBytes = 1+random.IntN(12), 1+random.IntN(2)*random.IntN(8000)
			who, seen := h.alice, all
			if random.IntN(2) == 0 {
				who, seen = h.bob, some(all, func(m made) bool { return m.pos > joined.Pos })
			}
			order := func(list []made, dir string) []made {
				if dir == "b" {
					slices.Reverse(list)
				}
				return list
			}

			parent := seen[random.IntN(20)]
			if random.IntN(3) == 0 { // what is below it is less than a request may look at
				h.ScanLimit = 400
			}
			relType, typ, dir, depth := oneOf("", relThread, "x"), oneOf("", "a"), oneOf("b", "f"), 1+2*random.IntN(2)
			want := some(seen, func(m made) bool {
				if relType != "" && m.rel.Type != relType || typ != "" && m.typ != typ {
					return false
				}
				for range depth {
					if m.rel.Target == parent.id {
						return true
					}
					m = byID[m.rel.Target]
				}
				return false
			})
			path := "relations/" + esc(parent.id)
			if relType != "" {
				if path += "/" + relType; typ != "" {
					path += "/" + typ
				}
			} else {
				want = some(seen, func(m made) bool {
					for range depth {
						if m.rel.Target == parent.id {
							return true
						}
						m = byID[m.rel.Target]
					}
					return false
				})
			}
			path = at1("GET", room, path+fmt.Sprintf("?dir=%s&recurse=%t", dir, depth > 1))
			check(path, pages(who, path, "next_batch"), order(want, dir))

			h.ScanLimit = 1 + random.IntN(12)
			kind, dir := oneOf("a", "b", "none"), oneOf("b", "f")
			filter := event.Filter{Types: []string{kind}}
			keep := func(m made) bool { return m.typ == kind }
			switch random.IntN(5) {
			case 0:
				filter.Senders = []string{h.carol.id}
				keep = func(m made) bool { return m.typ == kind && m.sender == h.carol.id }
			case 1:
				filter.RelatedByRelTypes = []string{relThread}
				keep = func(m made) bool {
					return m.typ == kind && slices.ContainsFunc(all, func(x made) bool { return x.rel.Target == m.id && x.rel.Type == relThread })
				}
			case 2:
				filter.RelatedBySenders = []string{h.carol.id}
				keep = func(m made) bool {
					return m.typ == kind && slices.ContainsFunc(all, func(x made) bool { return x.rel.Target == m.id && x.sender == h.carol.id })
				}
			case 3:
				filter.Types[0] += "*" // which the database does not decide
			}
			text, _ := json.Marshal(filter)
			path = at("GET", room, "messages?dir="+dir+"&filter="+url.QueryEscape(string(text)))
			check(path, pages(who, path, "end"), order(some(seen, keep), dir))

			mine := oneOf("all", "participated")
			newest := map[string]made{}
			took := map[string]bool{}
			for _, m := range seen {
				if m.rel.Type == relThread {
					newest[m.rel.Target] = m
					took[m.rel.Target] = took[m.rel.Target] || m.sender == who.id || byID[m.rel.Target].sender == who.id
				}
			}
			threads := []made{}
			for target, m := range newest {
				if root := byID[target]; (who == h.alice || root.pos > joined.Pos) && (mine == "all" || took[target]) {
					threads = append(threads, made{id: target, pos: m.pos})
				}
			}
			slices.SortFunc(threads, func(a, b made) int { return int(b.pos - a.pos) })
			path = at1("GET", room, "threads?include="+mine)
			check(path, pages(who, path, "next_batch"), threads)
			if t.Failed() {
				t.Fatalf("with %d rows and %d bytes for a request", h.ScanLimit, h.PageBytes)
			}
		}
		if few == 0 {
			t.Error("expected pages that end before they are full")
		}
	})
}

// TestARequestLooksAtFewRows: one that finds nothing ends where it has looked at Deps.Look rows, and says where to go on.
func TestARequestLooksAtFewRows(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		h.ScanLimit = 5
		room := h.alice.create(obj{"preset": "public_chat"})
		h.bob.join(room)
		w := newPast(t, h.Rooms, room)
		root := w.add("a", h.alice.id, nil, event.Relation{})
		for i := range 20 {
			w.add("a", h.alice.id, nil, event.Relation{Target: root, Type: relAnnotation, Key: fmt.Sprint(i)})
		}
		for range 20 {
			w.add("a", h.alice.id, nil, event.Relation{Target: root, Type: relThread})
		}
		w.store()
		if err := h.Accounts.PutAccountData(t.Context(), h.bob.id, "", "m.ignored_user_list",
			encodeJSON(obj{"ignored_users": obj{h.alice.id: obj{}}})); err != nil {
			t.Fatal(err)
		}
		from := PositionToken(w.pos)
		none := "&from=" + from + "&filter=" + url.QueryEscape(`{"types":["none"]}`)
		relations := "relations/" + esc(root)
		for path, next := range map[string]string{
			at("GET", room, "messages?dir=b&limit=3"+none):                        "end",
			at1("GET", room, relations+"/m.thread/none?dir=b&limit=3&from="+from): "next_batch",
			at1("GET", room, relations+"/m.thread/none?recurse=true&from="+from):  "next_batch",
			at1("GET", room, "threads?from="+from):                                "next_batch",
		} {
			a := h.bob.Want(200, path, nil)
			if got, want := a.Get(next).String(), PositionToken(w.pos-5); len(a.Get("chunk").Array()) > 0 || got != want {
				t.Errorf("%s: expected no event and to go on from %s, found %s", path, want, a.Body)
			}
		}
	})
}
