package stateres

import (
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
)

// node is one event of the auth graph.
type node struct {
	e    *event.Event
	auth []int32 // its auth events; nil until expanded

	expanded   bool
	conflicted bool // in the conflicted state set
	full       bool // in the full conflicted set
	picked     bool // among the power events of step 1
	seen       int32
	chains     int32 // number of states whose auth chain has it
	level      int64 // power level of the sender, for the power ordering
	waits      int32 // auth events of the ordering not yet placed
	mainline   int32 // 1 + position, 0 when not known
}

type resolver struct {
	v            event.Version
	ev           Events
	unconflicted State
	conflicted   []State

	index  map[string]int32
	nodes  []node
	full   []int32 // the full conflicted set
	mark   int32   // stamp of the current walk
	create *event.Event
	powers map[[2]*event.Event]*auth.Power
}

// node gives the number of an event, reading it when it is new.
func (r *resolver) node(id string) (int32, error) {
	if n, ok := r.index[id]; ok {
		return n, nil
	}
	e := r.ev.Get(id)
	if e == nil {
		return 0, &MissingError{ID: id}
	}
	n := int32(len(r.nodes))
	r.index[id] = n
	r.nodes = append(r.nodes, node{e: e})
	return n, nil
}

// expand reads the auth events of a node.
func (r *resolver) expand(n int32) ([]int32, error) {
	if r.nodes[n].expanded {
		return r.nodes[n].auth, nil
	}
	ids := r.nodes[n].e.AuthEvents
	list := make([]int32, len(ids))
	for i, id := range ids {
		a, err := r.node(id)
		if err != nil {
			return nil, err
		}
		list[i] = a
	}
	r.nodes[n].auth, r.nodes[n].expanded = list, true
	return list, nil
}

// walk visits the auth chain of the given nodes, each event once; the nodes
// themselves only when they are in the chain of another. visit may stop the
// walk.
func (r *resolver) walk(from []int32, visit func(n int32) (stop bool)) error {
	r.mark++
	stack := append(make([]int32, 0, 64), from...)
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		list, err := r.expand(n)
		if err != nil {
			return err
		}
		for _, a := range list {
			if r.nodes[a].seen == r.mark {
				continue
			}
			r.nodes[a].seen = r.mark
			if visit(a) {
				return nil
			}
			stack = append(stack, a)
		}
	}
	return nil
}

func (r *resolver) addFull(n int32) {
	if !r.nodes[n].full {
		r.nodes[n].full = true
		r.full = append(r.full, n)
	}
}

// fullConflictedSet finds the conflicted state set, the auth difference and,
// for version 2.1, the conflicted state subgraph.
func (r *resolver) fullConflictedSet() error {
	var reached []int32 // in the auth chain of at least one state
	for _, set := range r.conflicted {
		from := make([]int32, 0, len(set))
		for _, id := range set {
			n, err := r.node(id)
			if err != nil {
				return err
			}
			r.nodes[n].conflicted = true
			r.addFull(n)
			from = append(from, n)
		}
		err := r.walk(from, func(n int32) bool {
			if r.nodes[n].chains == 0 {
				reached = append(reached, n)
			}
			r.nodes[n].chains++
			return false
		})
		if err != nil {
			return err
		}
	}
	if err := r.authDifference(reached); err != nil {
		return err
	}
	if r.v.StateRes == event.StateResV21 {
		r.subgraph()
	}
	return nil
}

// authDifference adds the events that are in the auth chain of some states
// but not of all. An unconflicted event and what it reaches is in all chains,
// so the chains of those are walked only while a candidate is left. Counting
// the events of a state as part of its chain changes no conflicted event, and
// keeps unconflicted ones out, as other servers do.
func (r *resolver) authDifference(reached []int32) error {
	open := 0
	for _, n := range reached {
		if int(r.nodes[n].chains) < len(r.conflicted) {
			open++
		}
	}
	if open == 0 {
		return nil
	}
	cover := func(n int32) (done bool) {
		if c := r.nodes[n].chains; c > 0 && int(c) < len(r.conflicted) {
			r.nodes[n].chains = int32(len(r.conflicted))
			open--
		}
		return open == 0
	}
	from := make([]int32, 0, len(r.unconflicted))
	for _, id := range r.unconflicted {
		n, err := r.node(id)
		if err != nil {
			return err
		}
		cover(n)
		from = append(from, n)
	}
	if open > 0 {
		if err := r.walk(from, cover); err != nil {
			return err
		}
	}
	for _, n := range reached {
		if int(r.nodes[n].chains) < len(r.conflicted) {
			r.addFull(n)
		}
	}
	return nil
}

// subgraph adds every event on a path of auth events between two events of
// the conflicted state set. All nodes below were expanded by the walks of the
// chains.
func (r *resolver) subgraph() {
	// Upwards from each conflicted event over the reversed edges, within what
	// conflicted events reach.
	r.mark++
	var stack, found []int32
	for _, n := range r.full {
		if r.nodes[n].conflicted {
			r.nodes[n].seen = r.mark
			stack = append(stack, n)
		}
	}
	below := make([]bool, len(r.nodes))
	for _, n := range stack {
		below[n] = true
	}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		found = append(found, n)
		for _, a := range r.nodes[n].auth {
			if !below[a] {
				below[a] = true
				stack = append(stack, a)
			}
		}
	}
	parents := make([][]int32, len(r.nodes))
	for _, n := range found {
		for _, a := range r.nodes[n].auth {
			parents[a] = append(parents[a], n)
		}
		if r.nodes[n].conflicted {
			stack = append(stack, n)
		}
	}
	for len(stack) > 0 {
		n := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, p := range parents[n] {
			if r.nodes[p].seen != r.mark {
				r.nodes[p].seen = r.mark
				r.addFull(p)
				stack = append(stack, p)
			}
		}
	}
}

// findCreate finds the create event, which room version 12 does not name in
// auth_events.
func (r *resolver) findCreate() error {
	key := auth.Key{Type: event.TypeCreate}
	id, ok := r.unconflicted[key]
	if !ok && r.v.RoomIDIsCreateHash {
		room := r.nodes[r.full[0]].e.RoomID
		if len(room) > 1 {
			id = "$" + room[1:]
		}
	}
	if id == "" {
		return nil
	}
	n, err := r.node(id)
	if err != nil {
		return err
	}
	r.create = r.nodes[n].e
	return nil
}

// isPower reports whether e is a power event: one that may take a right away.
func isPower(e *event.Event) bool {
	switch e.Type {
	case event.TypePowerLevels, event.TypeJoinRules:
		return e.StateKey != nil
	case event.TypeMember:
		if e.StateKey == nil || *e.StateKey == e.Sender {
			return false
		}
		m := e.Membership()
		return m == event.MembershipLeave || m == event.MembershipBan
	}
	return false
}

// powerEvents picks the power events of the full conflicted set and what of
// it their auth chains hold. The chains are followed inside the full
// conflicted set only. The specification does not say so for version 2, but
// the servers that speak it do, and all must find the same state; in version
// 2.1 the subgraph makes both the same.
func (r *resolver) powerEvents() []int32 {
	var list []int32
	pick := func(n int32) {
		if !r.nodes[n].picked {
			r.nodes[n].picked = true
			list = append(list, n)
		}
	}
	for _, n := range r.full {
		if isPower(r.nodes[n].e) {
			pick(n)
		}
	}
	for i := 0; i < len(list); i++ {
		for _, a := range r.nodes[list[i]].auth {
			if r.nodes[a].full {
				pick(a)
			}
		}
	}
	return list
}
