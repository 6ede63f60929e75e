package sync

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"testing"
)

// TestKeyChangesTellWhoLeft lets people come and go at random and compares GET /keys/changes, between any two
// tokens, with who shared rooms then.
func TestKeyChangesTellWhoLeft(t *testing.T) {
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
			token string
			mates map[string]bool
		}
		var points []point
		for range 40 {
			for range r.IntN(3) {
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
			p := point{alice.sync("set_presence", "offline").Get("next_batch").String(), map[string]bool{}}
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
			got := []string{}
			q := url.Values{"from": {points[i].token}, "to": {points[j].token}}
			for _, v := range alice.Want(200, "GET "+api+"/keys/changes?"+q.Encode(), nil).Get("left").Array() {
				got = append(got, v.String())
			}
			same(t, fmt.Sprintf("who left between %d and %d", i, j), got, want)
		}
	})
}
