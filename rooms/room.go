package rooms

import (
	"context"
	"fmt"

	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/platform/owned"
	"lyceum/platform/stream"
	"lyceum/rooms/state"
)

// room is the newest point of a room in the process that owns its shard, ahead of the database by what
// is queued: the state of owned.Owned.
type room struct {
	id            string
	absent        bool // there is no such room
	version       event.Version
	tree          state.Tree
	lastEventID   string // the newest event: the one forward extremity
	depth         int64
	state         map[state.Key]*Event // what was looked up of the state; nil for what is not there
	stateComplete bool                 // state holds all of the state, as while a room is made
	power         *auth.Power          // of the current state, nil when not computed
	recent        map[string]*Event    // the newest events by id, those that are not stored yet among them
	recentOrder   []string             // of recent
	eventCount    int64                // events applied since the room is in memory
	maxRecent     int                  // events in recent, besides those not stored yet
	maxState      int                  // of state that stays looked up: a large room whose members all speak
	txns          recentTxns
	bytes         int64 // about what all this takes in memory
}

func (r *Rooms) newRoom(id string) *room {
	return &room{id: id, maxRecent: r.RecentEvents, maxState: r.CachedState, txns: recentTxns{keep: r.RecentTxns}}
}

func (rm *room) init(v event.Version, tree state.Tree) {
	rm.version, rm.tree = v, tree
	rm.state, rm.recent = map[state.Key]*Event{}, map[string]*Event{}
}

// loadRoom reads a room for its owner.
func (r *Rooms) loadRoom(ctx context.Context, id string) (*room, error) {
	rm := r.newRoom(id)
	h, ok, err := r.Head(ctx, id)
	if err != nil || !ok {
		rm.absent = true
		return rm, err
	}
	rm.init(h.Version, r.Tree(h.Root))
	rm.lastEventID, rm.depth = h.EventID, h.Depth
	newest, err := r.Timeline(ctx, Page{RoomID: id, From: 1 << 62, Backward: true, Limit: max(1, r.RecentEvents/4)})
	if err != nil {
		return nil, err
	}
	for _, e := range newest {
		if e.Txn != "" {
			rm.txns.put(txnKey(e.Sender, e.Device, e.Txn), e.ID, rm.isStored)
		}
	}
	return rm, nil
}

// loadState makes sure that some state keys are in memory, with the way to them in the tree: what fn returns to Do when they
// are not.
func (r *Rooms) loadState(c *owned.Change[room], keys ...state.Key) error {
	rm := c.State()
	var missing []state.Key
	for _, k := range keys {
		if _, known := rm.state[k]; !known && !rm.stateComplete {
			missing = append(missing, k)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	tree := rm.tree
	return c.Need(func(ctx context.Context) (func(rm *room), error) {
		preloaded, bytes, err := tree.Preload(ctx, missing...)
		if err != nil {
			return nil, err
		}
		ids := make(map[state.Key]string, len(missing))
		var list []string
		for _, k := range missing {
			id, err := preloaded.Get(ctx, k)
			if err != nil {
				return nil, err
			}
			if ids[k] = id; id != "" {
				list = append(list, id)
			}
		}
		// Every event of the state that is not stored yet is in memory, so what is missing here is stored.
		events, err := r.Events(ctx, list)
		if err != nil {
			return nil, err
		}
		for _, id := range list {
			if events[id] == nil {
				return nil, fmt.Errorf("room %s: the state names event %s, which is not stored", rm.id, id)
			}
		}
		return func(rm *room) {
			if rm.tree.Root() != tree.Root() {
				return // the state moved on: it is looked up again
			}
			rm.tree = preloaded
			rm.bytes += int64(bytes)
			for k, id := range ids {
				rm.setState(k, rm.asRedacted(events[id]))
			}
		}, nil
	})
}

// setState notes what a key of the state is; nil for nothing.
func (rm *room) setState(k state.Key, e *Event) {
	if _, known := rm.state[k]; !known {
		rm.bytes += 100
		if e != nil {
			rm.bytes += e.Memory()
		}
	}
	rm.state[k] = e
}

// Get implements auth.State over what loadState has read.
func (rm *room) Get(typ, stateKey string) *event.Event {
	if e := rm.state[state.Key{Type: typ, StateKey: stateKey}]; e != nil {
		return e.Event
	}
	return nil
}

// Power implements auth.PoweredState.
func (rm *room) Power() *auth.Power {
	if rm.power == nil {
		rm.power = auth.NewPower(rm.version, rm.Get(event.TypeCreate, ""), rm.Get(event.TypePowerLevels, ""))
	}
	return rm.power
}

// apply makes e the newest event. ticket is of its write; nil while the event is only tried out.
func (rm *room) apply(e *Event, tree state.Tree, ticket *stream.Ticket) {
	e.ticket = ticket
	rm.tree, rm.lastEventID, rm.depth = tree, e.ID, e.Depth
	if e.IsState() {
		rm.setState(state.Key{Type: e.Type, StateKey: *e.StateKey}, e)
		if e.Type == event.TypePowerLevels || e.Type == event.TypeCreate {
			rm.power = nil
		}
	}
	if e.redact != nil {
		rm.redacted(e.redact)
	}
	if e.Txn != "" {
		rm.txns.put(txnKey(e.Sender, e.Device, e.Txn), e.ID, rm.isStored)
	}
	rm.recent[e.ID] = e
	rm.recentOrder = append(rm.recentOrder, e.ID)
	rm.eventCount++
	rm.bytes += e.Memory()
	for len(rm.recentOrder) > rm.maxRecent && rm.recent[rm.recentOrder[0]].stored() {
		old := rm.recent[rm.recentOrder[0]]
		delete(rm.recent, old.ID)
		rm.recentOrder = rm.recentOrder[1:]
		rm.bytes -= old.Memory()
	}
	if len(rm.state) > rm.maxState && !rm.stateComplete {
		rm.evictState()
	}
}

// evictState drops what was looked up of the state, but for what is not stored yet.
func (rm *room) evictState() {
	before := rm.state
	rm.state, rm.bytes = map[state.Key]*Event{}, 0
	unstored := map[state.ID]bool{}
	for _, e := range rm.recent {
		rm.bytes += e.Memory()
		for _, n := range e.newNodes() {
			unstored[n.ID] = true
			rm.bytes += int64(len(n.Text))
		}
	}
	for k, e := range before {
		if e != nil && !e.stored() {
			rm.setState(k, e)
		}
	}
	rm.tree = rm.tree.Unload(unstored)
}

// redacted puts the redacted text of an event in its place.
func (rm *room) redacted(e *Event) {
	if rm.recent[e.ID] != nil {
		rm.recent[e.ID] = e
	}
	if e.IsState() {
		k := state.Key{Type: e.Type, StateKey: *e.StateKey}
		if now := rm.state[k]; now != nil && now.ID == e.ID {
			rm.state[k] = e
			rm.power = nil
		}
	}
}

// asRedacted is an event as it is with the redactions that are not stored yet, or may not have been when it was read.
func (rm *room) asRedacted(e *Event) *Event {
	for _, r := range rm.recent {
		if e != nil && r.redact != nil && r.redact.ID == e.ID {
			return r.redact
		}
	}
	return e
}

// stored tells that an event is in the database, as far as its owner can know.
func (e *Event) stored() bool { return e.ticket == nil || e.ticket.Decided() }

// isStored is Event.stored of an event of the room: those that are not stored yet are all in memory.
func (rm *room) isStored(id string) bool {
	e := rm.recent[id]
	return e == nil || e.stored()
}

// memory is what owned.Spec asks for.
func (rm *room) memory() int64 { return rm.bytes + 600 + 150*int64(len(rm.txns.ring)) }

// existingRoom gives the room in memory, or M_NOT_FOUND.
func existingRoom(c *owned.Change[room]) (*room, error) {
	if rm := c.State(); !rm.absent {
		return rm, nil
	}
	return nil, matrix.NotFound("Unknown room")
}
