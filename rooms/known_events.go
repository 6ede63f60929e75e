package rooms

import (
	"context"

	"lyceum/platform/owned"
)

// knownEvents are events of a room that a request needs and that are not its state, read once while the room stays in memory.
type knownEvents struct {
	room         *room
	events       map[string]*Event
	dup          *duplicate
	txnQueried   bool   // the database was asked for the event of the transaction
	txnQueriedAt int64  // events of the room when it was asked
	txn          string // which is this; "" when there is none
}

// get finds an event; nil when there is none.
func (k *knownEvents) get(r *Rooms, c *owned.Change[room], id string) (*Event, error) {
	if e := c.State().recent[id]; e != nil {
		return e, nil
	}
	if e, known := k.events[id]; known {
		return e, nil
	}
	return nil, c.Need(func(ctx context.Context) (func(*room), error) {
		e, err := r.Event(ctx, id)
		if err != nil {
			return nil, err
		}
		return func(*room) {
			if k.events == nil {
				k.events = map[string]*Event{}
			}
			k.events[id] = e
		}, nil
	})
}
