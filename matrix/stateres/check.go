package stateres

import (
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
)

// checkState is the state that the iterative auth checks build. For the event
// being checked it falls back on that event's own auth events.
type checkState struct {
	r        *resolver
	base     State // the unconflicted state, nil for version 2.1
	resolved map[auth.Key]int32
	current  int32
	err      error
}

// get gives an entry of the state itself.
func (s *checkState) get(k auth.Key) *event.Event {
	if n, ok := s.resolved[k]; ok {
		return s.r.nodes[n].e
	}
	if id, ok := s.base[k]; ok {
		n, err := s.r.node(id)
		if err != nil {
			s.err = err
			return nil
		}
		return s.r.nodes[n].e
	}
	return nil
}

// Get is what the authorisation rules see.
func (s *checkState) Get(typ, stateKey string) *event.Event {
	if e := s.get(auth.Key{Type: typ, StateKey: stateKey}); e != nil {
		return e
	}
	if typ == event.TypeCreate && !s.r.v.CreateInAuthEvents {
		return s.r.create
	}
	list, err := s.r.expand(s.current)
	if err != nil {
		s.err = err
		return nil
	}
	for _, a := range list {
		e := s.r.nodes[a].e
		if e.Is(typ, stateKey) && (s.r.ev.Rejected == nil || !s.r.ev.Rejected(e.ID)) {
			return e
		}
	}
	return nil
}

// Power implements auth.PoweredState.
func (s *checkState) Power() *auth.Power {
	return s.r.power(s.Get(event.TypeCreate, ""), s.Get(event.TypePowerLevels, ""))
}

// apply runs the iterative auth checks over a sorted list.
func (s *checkState) apply(list []int32) error {
	for _, n := range list {
		e := s.r.nodes[n].e
		if !e.IsState() {
			continue
		}
		s.current = n
		denied := auth.Allowed(s.r.v, e, s)
		if s.err != nil {
			return s.err
		}
		if denied == nil {
			s.resolved[auth.KeyOf(e)] = n
		}
	}
	return nil
}
