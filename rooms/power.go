package rooms

import (
	"context"

	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// PowerAt computes the power levels of a state.
func (r *Rooms) PowerAt(ctx context.Context, v event.Version, root state.ID) (*auth.Power, error) {
	create, levels := state.Key{Type: event.TypeCreate}, state.Key{Type: event.TypePowerLevels}
	found, err := r.StateEvents(ctx, root, create, levels)
	if err != nil {
		return nil, err
	}
	pdu := func(k state.Key) *event.Event {
		if e := found[k]; e != nil {
			return e.Event
		}
		return nil
	}
	return auth.NewPower(v, pdu(create), pdu(levels)), nil
}
