package syncapi

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// TestKeyChangesTellWhatSyncTold lets users join and leave, and their devices change, at random. It compares GET
// /keys/changes, between any two tokens, with who shared rooms then and with what /sync said between them; and device_lists.left of
// /sync with who shared rooms before.
func TestKeyChangesTellWhatSyncTold(t *testing.T) {
	for _, most := range []int{1, 3} { // things that happen between two answers
		t.Run(fmt.Sprint("at most ", most), func(t *testing.T) { keyChanges(t, most) })
	}
}

func keyChanges(t *testing.T, most int) {
	run(t, func(t *testing.T, h *testNode) {
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
			sharing map[string]bool
			changed map[string]bool // what /sync said since the point before
		}
		var points []point
		sharing := func() map[string]bool { // of alice
			out := map[string]bool{}
			for _, members := range in {
				for who, is := range members {
					if is && who != "alice" && members["alice"] {
						out[who] = true
					}
				}
			}
			return out
		}
		for n := range 80 {
			shared := sharing() // at any time since the point before
			for range r.IntN(most + 1) {
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
				maps.Copy(shared, sharing())
			}
			a := alice.sync("set_presence", "offline")
			p := point{a.Get("next_batch").String(), sharing(), map[string]bool{}}
			for _, who := range a.Get("device_lists.changed").Array() {
				p.changed[who.String()] = true
			}
			left := texts(a.Get("device_lists.left"))
			for _, who := range left {
				if name := who[1:strings.IndexByte(who, ':')]; !shared[name] || p.sharing[name] {
					t.Errorf("%s left at point %d, shared a room %v, shares one %v", name, n, shared[name], p.sharing[name])
				}
			}
			if n > 0 {
				for name := range points[n-1].sharing {
					if !p.sharing[name] && !slices.Contains(left, id(name)) {
						t.Errorf("%s did not leave at point %d", name, n)
					}
				}
			}
			points = append(points, p)
		}
		for range 150 {
			i := r.IntN(len(points))
			j := i + r.IntN(len(points)-i)
			want := []string{}
			for who := range points[i].sharing {
				if !points[j].sharing[who] {
					want = append(want, id(who))
				}
			}
			slices.Sort(want)
			q := url.Values{"from": {points[i].token}, "to": {points[j].token}}
			answer := alice.Want(200, "GET "+api+"/keys/changes?"+q.Encode(), nil)
			same(t, fmt.Sprintf("who left between %d and %d", i, j), texts(answer.Get("left")), want)
			if most > 1 { // who came to one room and left it between two answers, while in another, is told by one of the two
				continue
			}
			said := map[string]bool{}
			for _, p := range points[i+1 : max(i+1, j+1)] {
				for who := range p.changed {
					if name := who[1:strings.IndexByte(who, ':')]; name == "alice" || points[j].sharing[name] {
						said[who] = true
					}
				}
			}
			same(
				t,
				fmt.Sprintf("who changed between %d and %d", i, j),
				texts(answer.Get("changed")),
				slices.AppendSeq([]string{}, slices.Values(userSet(said).sorted())),
			)
		}
	})
}

// TestLeftAreThoseWhoShared: device_lists.left has the users who shared a room with the user and share none any more, and nobody
// else, whoever joins and leaves after the user left.
func TestLeftAreThoseWhoShared(t *testing.T) {
	for _, c := range []struct {
		before string // bob's answer
		steps  string
		left   string
		also   string // who came to the room while bob was in it: /keys/changes compares the two ends only
	}{
		{steps: "bob leave, dave join, erin join", left: "alice carol"},
		{steps: "alice kick bob, dave join", left: "alice carol"},
		{steps: "alice ban bob, dave join, erin join", left: "alice carol"},
		{steps: "bob leave, carol leave", left: "alice carol"},
		{steps: "carol leave, bob leave", left: "alice carol"},
		{steps: "alice ban bob, carol leave", left: "alice carol"},
		{steps: "alice ban bob, carol leave, dave join, carol join", left: "alice carol"},
		{steps: "carol leave, dave join, bob leave", left: "alice carol", also: "dave"},
		{steps: "dave join, dave leave, bob leave, erin join", left: "alice carol", also: "dave"},
		{steps: "bob leave, dave join, alice invite bob", left: "alice carol"},
		{steps: "bob leave, bob join", left: ""},
		{steps: "bob leave, carol leave, bob join", left: "carol"},
		{steps: "bob leave, bob join, carol leave", left: "carol"},
		{steps: "carol leave, bob leave, bob join", left: "carol"},
		{steps: "bob leave, dave join, dave leave, bob join", left: ""},
		{steps: "dave join, bob leave, dave leave, bob join", left: "", also: "dave"},
		{steps: "bob leave, carol leave, bob join, bob leave, dave join", left: "alice carol"},
		{steps: "carol leave", left: "carol"},
		{before: "bob leave", steps: "carol leave, bob join, alice say hello", left: ""},
		{before: "bob leave", steps: "bob join, carol leave, dave join", left: "", also: "carol"},
		{before: "bob leave", steps: "carol leave, bob join, bob leave, dave join", left: ""},
		{before: "bob leave, alice invite bob", steps: "dave join, bob leave", left: ""},
	} {
		t.Run(c.before+"; "+c.steps, func(t *testing.T) {
			run(t, func(t *testing.T, h *testNode) {
				bob, room := h.as(t, "bob"), h.room(t, "alice", "bob", "carol")
				steps := func(list string) {
					if list != "" {
						h.steps(t, room, strings.Split(list, ", ")...)
					}
				}
				steps(c.before)
				bob.sync("set_presence", "offline")
				steps(c.steps)
				most := h.maxMemberEvents
				for _, few := range []bool{false, true} {
					if h.maxMemberEvents = most; few { // as if they were too many to be read
						h.maxMemberEvents = 1
					}
					a := bob.peek("set_presence", "offline")
					shared, also := named(c.left), named(c.also)
					left := texts(a.Get("device_lists.left"))
					same(
						t,
						fmt.Sprintf("left, few %v", few),
						slices.DeleteFunc(slices.Clone(left), func(who string) bool { return slices.Contains(also, who) }),
						shared,
					)
					for _, who := range texts(a.Get("device_lists.changed")) {
						if slices.Contains(left, who) {
							t.Errorf("%s is among changed and left", who)
						}
					}
					q := url.Values{"from": {bob.since}, "to": {a.Get("next_batch").String()}}
					same(t, "left by /keys/changes", texts(bob.Want(200, "GET "+api+"/keys/changes?"+q.Encode(), nil).Get("left")), shared)
				}
			})
		})
	}
}

func named(names string) []string {
	out := []string{}
	for _, name := range strings.Fields(names) {
		out = append(out, id(name))
	}
	return out
}

func texts(list gjson.Result) []string {
	out := []string{}
	for _, v := range list.Array() {
		out = append(out, v.String())
	}
	return out
}
