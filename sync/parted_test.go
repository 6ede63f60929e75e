package sync

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// TestKeyChangesTellWhatSyncTold lets people come and go, and their devices change, at random and compares GET
// /keys/changes, between any two tokens, with who shared rooms then and with what /sync said between them.
func TestKeyChangesTellWhatSyncTold(t *testing.T) {
	run(t, func(t *testing.T, h *house) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		alice := h.as(t, "alice")
		var ids []string
		in := map[string]map[string]bool{}
		for range 3 {
			room := h.room(t, "dave")
			ids = append(ids, room)
			in[room] = map[string]bool{"dave": true}
		}
		type point struct {
			token   string
			mates   map[string]bool
			changed map[string]bool // what /sync said since the point before
		}
		var points []point
		for range 80 {
			for range r.IntN(2) {
				if r.IntN(4) == 0 {
					if err := h.Devices.DevicesRemoved(t.Context(), id(names[r.IntN(4)]), []string{"OLD"}); err != nil {
						t.Fatal(err)
					}
					continue
				}
				room, who := ids[r.IntN(len(ids))], names[r.IntN(3)]
				switch {
				case !in[room][who]:
					h.as(t, who).do(room, "join", nil)
				case r.IntN(3) == 0: // the same membership once more
					h.as(t, who).state(room, "m.room.member", id(who), obj{"membership": "join", "displayname": fmt.Sprint(r.IntN(9))})
					continue
				case r.IntN(3) == 0:
					h.as(t, "dave").do(room, "kick", obj{"user_id": id(who)})
				default:
					h.as(t, who).do(room, "leave", nil)
				}
				in[room][who] = !in[room][who]
			}
			a := alice.sync("set_presence", "offline")
			p := point{a.Get("next_batch").String(), map[string]bool{}, map[string]bool{}}
			for _, who := range a.Get("device_lists.changed").Array() {
				p.changed[who.String()] = true
			}
			for _, members := range in {
				for who, is := range members {
					if is && who != "alice" && members["alice"] {
						p.mates[who] = true
					}
				}
			}
			points = append(points, p)
		}
		for range 150 {
			i := r.IntN(len(points))
			j := i + r.IntN(len(points)-i)
			want := []string{}
			for who := range points[i].mates {
				if !points[j].mates[who] {
					want = append(want, id(who))
				}
			}
			slices.Sort(want)
			q := url.Values{"from": {points[i].token}, "to": {points[j].token}}
			list := func(v gjson.Result) []string {
				out := []string{}
				for _, v := range v.Array() {
					out = append(out, v.String())
				}
				return out
			}
			answer := alice.Want(200, "GET "+api+"/keys/changes?"+q.Encode(), nil)
			same(t, fmt.Sprintf("who left between %d and %d", i, j), list(answer.Get("left")), want)
			said := map[string]bool{}
			for _, p := range points[i+1 : max(i+1, j+1)] {
				for who := range p.changed {
					if name := who[1:strings.IndexByte(who, ':')]; name == "alice" || points[j].mates[name] {
						said[who] = true
					}
				}
			}
			same(t, fmt.Sprintf("who changed between %d and %d", i, j), list(answer.Get("changed")), slices.AppendSeq([]string{}, slices.Values(sorted(said))))
		}
	})
}
