package stateres

import (
	"errors"
	"fmt"

	"lyceum/matrix/auth"
	"lyceum/matrix/event"
)

// ErrVersion tells that the room version has another algorithm.
var ErrVersion = errors.New("room version has no state resolution v2")

// MissingError names an event the resolution needs and Events does not have.
type MissingError struct{ ID string }

// Error names the event.
func (e *MissingError) Error() string {
	return fmt.Sprintf("state resolution needs event %s, which is not at hand: fetch it and resolve again", e.ID)
}

// State maps keys to event ids.
type State = map[auth.Key]string

// Events gives what the resolution reads.
type Events struct {
	// Get gives an event of the states or of their auth chains, nil when it
	// is not at hand.
	Get func(id string) *event.Event
	// Rejected reports whether an event was rejected; such events do not
	// stand in for absent state. nil means none was.
	Rejected func(id string) bool
}

// Resolve gives the resolution of sets, the states after each prev_event
// (room versions, "State resolution"). The result is a new map. Errors are
// *MissingError or ErrVersion.
func Resolve(v event.Version, sets []State, ev Events) (State, error) {
	unconflicted, conflicted := Split(sets)
	return ResolveSplit(v, unconflicted, conflicted, ev)
}

// Split divides states into the entries equal in all and, for each state, the
// entries that are not.
func Split(sets []State) (unconflicted State, conflicted []State) {
	if len(sets) == 0 {
		return State{}, nil
	}
	unconflicted = make(State, len(sets[0]))
	conflicted = make([]State, len(sets))
	for i, set := range sets {
		conflicted[i] = State{}
	keys:
		for k, id := range set {
			for j, other := range sets {
				if j != i && other[k] != id {
					conflicted[i][k] = id
					continue keys
				}
			}
			if i == 0 {
				unconflicted[k] = id
			}
		}
	}
	return unconflicted, conflicted
}

// ResolveSplit is Resolve for a caller that knows already where its states
// differ: unconflicted holds what is equal in all, conflicted[i] the rest of
// state i.
func ResolveSplit(v event.Version, unconflicted State, conflicted []State, ev Events) (State, error) {
	out := make(State, len(unconflicted)+8)
	for k, id := range unconflicted {
		out[k] = id
	}
	work := 0
	for _, set := range conflicted {
		work += len(set)
	}
	if work == 0 {
		return out, nil
	}
	if v.StateRes == event.StateResV1 || v.ID == "" {
		return nil, fmt.Errorf("%w: %q", ErrVersion, v.ID)
	}
	r := &resolver{v: v, ev: ev, unconflicted: unconflicted, conflicted: conflicted, index: make(map[string]int32, 2*work)}
	if err := r.fullConflictedSet(); err != nil {
		return nil, err
	}
	if err := r.findCreate(); err != nil {
		return nil, err
	}
	power := r.sortPower(r.powerEvents())

	state := &checkState{r: r, resolved: map[auth.Key]int32{}}
	if v.StateRes == event.StateResV2 {
		state.base = unconflicted
	}
	if err := state.apply(power); err != nil {
		return nil, err
	}
	rest, err := r.sortMainline(state.get(auth.Key{Type: event.TypePowerLevels}))
	if err != nil {
		return nil, err
	}
	if err := state.apply(rest); err != nil {
		return nil, err
	}
	for k, n := range state.resolved {
		if _, ok := unconflicted[k]; !ok {
			out[k] = r.nodes[n].e.ID
		}
	}
	return out, nil
}
