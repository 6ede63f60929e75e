package stateres

import (
	"cmp"
	"container/heap"
	"slices"

	"lyceum/matrix/auth"
	"lyceum/matrix/event"
)

// authOfType gives the state event of that type and the empty state key among
// the auth events of n, -1 when there is none.
func (r *resolver) authOfType(n int32, typ string) (int32, error) {
	list, err := r.expand(n)
	if err != nil {
		return -1, err
	}
	for _, a := range list {
		if r.nodes[a].e.Is(typ, "") {
			return a, nil
		}
	}
	return -1, nil
}

// power parses power levels once per pair of events.
func (r *resolver) power(create, levels *event.Event) *auth.Power {
	k := [2]*event.Event{create, levels}
	p := r.powers[k]
	if p == nil {
		p = auth.NewPower(r.v, create, levels)
		if r.powers == nil {
			r.powers = map[[2]*event.Event]*auth.Power{}
		}
		r.powers[k] = p
	}
	return p
}

// senderLevel gives the power level of the sender of n by the auth events of
// n.
func (r *resolver) senderLevel(n int32) int64 {
	create := r.create
	if r.v.CreateInAuthEvents {
		create = nil
		if c, err := r.authOfType(n, event.TypeCreate); err == nil && c >= 0 {
			create = r.nodes[c].e
		}
	}
	var levels *event.Event
	if l, err := r.authOfType(n, event.TypePowerLevels); err == nil && l >= 0 {
		levels = r.nodes[l].e
	}
	return r.power(create, levels).UserLevel(r.nodes[n].e.Sender)
}

// byPower is a heap: greater power first, then older, then the smaller id.
type byPower struct {
	r    *resolver
	heap []int32
}

func (h *byPower) Len() int { return len(h.heap) }
func (h *byPower) Less(i, j int) bool {
	x, y := &h.r.nodes[h.heap[i]], &h.r.nodes[h.heap[j]]
	if x.level != y.level {
		return x.level > y.level
	}
	if x.e.OriginServerTS != y.e.OriginServerTS {
		return x.e.OriginServerTS < y.e.OriginServerTS
	}
	return x.e.ID < y.e.ID
}
func (h *byPower) Swap(i, j int) { h.heap[i], h.heap[j] = h.heap[j], h.heap[i] }
func (h *byPower) Push(x any)    { h.heap = append(h.heap, x.(int32)) }
func (h *byPower) Pop() any {
	n := h.heap[len(h.heap)-1]
	h.heap = h.heap[:len(h.heap)-1]
	return n
}

// sortPower gives the reverse topological power ordering of the picked
// events (Kahn's algorithm over the auth events among them).
func (r *resolver) sortPower(list []int32) []int32 {
	children := make(map[int32][]int32, len(list))
	ready := &byPower{r: r}
	for _, n := range list {
		r.nodes[n].level = r.senderLevel(n)
		for _, a := range r.nodes[n].auth {
			if r.nodes[a].picked {
				r.nodes[n].waits++
				children[a] = append(children[a], n)
			}
		}
		if r.nodes[n].waits == 0 {
			ready.heap = append(ready.heap, n)
		}
	}
	heap.Init(ready)
	out := make([]int32, 0, len(list))
	for ready.Len() > 0 {
		n := heap.Pop(ready).(int32)
		out = append(out, n)
		for _, c := range children[n] {
			if r.nodes[c].waits--; r.nodes[c].waits == 0 {
				heap.Push(ready, c)
			}
		}
	}
	return out
}

// outside is the mainline position of events that no mainline event stands
// behind: infinite.
const outside = int32(1<<31 - 1)

// sortMainline gives the events of the full conflicted set that were not
// picked, in the mainline ordering based on levels (nil when the partial
// state has no power levels).
func (r *resolver) sortMainline(levels *event.Event) ([]int32, error) {
	if levels != nil {
		n, err := r.node(levels.ID)
		if err != nil {
			return nil, err
		}
		for i := int32(1); n >= 0 && r.nodes[n].mainline == 0; i++ {
			r.nodes[n].mainline = i
			if n, err = r.authOfType(n, event.TypePowerLevels); err != nil {
				return nil, err
			}
		}
	}
	type entry struct{ n, position int32 }
	var list []entry
	for _, n := range r.full {
		if r.nodes[n].picked {
			continue
		}
		p, err := r.position(n)
		if err != nil {
			return nil, err
		}
		list = append(list, entry{n, p})
	}
	slices.SortFunc(list, func(a, b entry) int {
		x, y := r.nodes[a.n].e, r.nodes[b.n].e
		return cmp.Or(
			-cmp.Compare(a.position, b.position),
			cmp.Compare(x.OriginServerTS, y.OriginServerTS),
			cmp.Compare(x.ID, y.ID),
		)
	})
	out := make([]int32, len(list))
	for i, e := range list {
		out[i] = e.n
	}
	return out, nil
}

// position gives the mainline position of n. Power levels events on the way
// remember it.
func (r *resolver) position(n int32) (int32, error) {
	var way []int32
	p := outside
	r.mark++
	for {
		l, err := r.authOfType(n, event.TypePowerLevels)
		if err != nil {
			return 0, err
		}
		// A seen event means a cycle, which only forged ids can make.
		if l < 0 || r.nodes[l].seen == r.mark {
			break
		}
		if m := r.nodes[l].mainline; m != 0 {
			p = m
			break
		}
		r.nodes[l].seen = r.mark
		way = append(way, l)
		n = l
	}
	for _, l := range way {
		r.nodes[l].mainline = p
	}
	return p, nil
}
