package rooms

import (
	"context"
	"fmt"
	"sync"

	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// room is the newest point of a room in the process that owns its shard, ahead of the database by what
// is queued.
type room struct {
	mu      sync.Mutex
	dead    bool // the shard was lost or a write failed: load it anew
	id      string
	version event.Version
	tree    state.Tree
	last    string // the newest event: the one forward extremity
	depth   int64
	state   map[state.Key]*Event // what was looked up of the state; nil for what is not there
	power   *auth.Power          // of the current state, nil when not computed
	recent  map[string]*Event    // the newest events by id, also those not stored yet
	order   []string             // of recent
	txns    recentTxns
	keep    int // newest events in recent
}

func (r *Rooms) newRoom(id string) *room {
	return &room{id: id, keep: r.Recent, txns: recentTxns{keep: r.Transactions}}
}

// room gives the room in memory, locked, and loads it when it is not there. The error is M_NOT_FOUND for
// a room that does not exist.
func (r *Rooms) room(ctx context.Context, id string) (*room, error) {
	for {
		r.mu.Lock()
		rm := r.owned[id]
		if rm == nil {
			rm = r.newRoom(id)
			r.owned[id] = rm
		}
		r.mu.Unlock()
		rm.mu.Lock()
		if rm.dead {
			rm.mu.Unlock()
			continue // dropShard has removed it from owned
		}
		if rm.last == "" {
			if err := r.load(ctx, rm); err != nil {
				r.forgetLocked(rm)
				rm.mu.Unlock()
				return nil, err
			}
		}
		return rm, nil
	}
}

func (r *Rooms) load(ctx context.Context, rm *room) error {
	h, ok, err := r.Head(ctx, rm.id)
	if err != nil {
		return err
	}
	if !ok {
		return matrix.NotFound("Unknown room")
	}
	rm.begin(h.Version, r.Tree(h.Root))
	rm.last, rm.depth = h.EventID, h.Depth
	newest, err := r.Timeline(ctx, Page{RoomID: rm.id, From: 1 << 62, Backward: true, Limit: max(1, r.Recent/4)})
	if err != nil {
		return err
	}
	for _, e := range newest {
		if e.Txn != "" {
			rm.txns.put(txnKey(e.Sender, e.Device, e.Txn), e.ID)
		}
	}
	return nil
}

func (rm *room) begin(v event.Version, tree state.Tree) {
	rm.version, rm.tree = v, tree
	rm.state, rm.recent = map[state.Key]*Event{}, map[string]*Event{}
}

// forgetLocked drops a room whose lock the caller holds.
func (r *Rooms) forgetLocked(rm *room) {
	rm.dead = true
	r.mu.Lock()
	if r.owned[rm.id] == rm {
		delete(r.owned, rm.id)
	}
	r.mu.Unlock()
}

// dropShard forgets the rooms of a shard. It waits for whoever builds an event on one, so nothing built on
// it is queued afterwards.
func (r *Rooms) dropShard(shard int) {
	r.mu.Lock()
	var gone []*room
	for id, rm := range r.owned {
		if r.stream.Shard(id) == shard {
			gone = append(gone, rm)
		}
	}
	r.mu.Unlock()
	for _, rm := range gone {
		rm.mu.Lock()
		r.forgetLocked(rm)
		rm.mu.Unlock()
	}
}

// lookup reads state keys into memory; the caller holds the lock.
func (r *Rooms) lookup(ctx context.Context, rm *room, keys ...state.Key) error {
	var missing []state.Key
	for _, k := range keys {
		if _, known := rm.state[k]; !known {
			missing = append(missing, k)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	found, err := r.stateOf(ctx, rm, missing)
	if err != nil {
		return err
	}
	for _, k := range missing {
		rm.state[k] = found[k]
	}
	return nil
}

// stateOf reads state of the room's tree, where an event may be so new that it is not stored yet.
func (r *Rooms) stateOf(ctx context.Context, rm *room, keys []state.Key) (map[state.Key]*Event, error) {
	out := make(map[state.Key]*Event, len(keys))
	ids := map[string]state.Key{}
	var list []string
	for _, k := range keys {
		id, err := rm.tree.Get(ctx, k)
		if err != nil {
			return nil, err
		}
		if id == "" {
			continue
		}
		if e := rm.recent[id]; e != nil {
			out[k] = e
			continue
		}
		ids[id] = k
		list = append(list, id)
	}
	events, err := r.Events(ctx, list)
	if err != nil {
		return nil, err
	}
	for id, k := range ids {
		if events[id] == nil {
			return nil, fmt.Errorf("room %s: the state names event %s, which is not stored", rm.id, id)
		}
		out[k] = events[id]
	}
	return out, nil
}

// Get implements auth.State over what lookup has read.
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

// apply makes e the newest event.
func (rm *room) apply(e *Event, tree state.Tree) {
	rm.tree, rm.last, rm.depth = tree, e.ID, e.Depth
	if e.IsState() {
		rm.state[state.Key{Type: e.Type, StateKey: *e.StateKey}] = e
		if e.Type == event.TypePowerLevels || e.Type == event.TypeCreate {
			rm.power = nil
		}
	}
	rm.recent[e.ID] = e
	rm.order = append(rm.order, e.ID)
	if len(rm.order) > rm.keep {
		delete(rm.recent, rm.order[0])
		rm.order = rm.order[1:]
	}
	if len(rm.state) > 5000 { // a large room whose members all speak
		rm.state = map[state.Key]*Event{}
	}
}

func txnKey(sender, device, txn string) string { return sender + "\x00" + device + "\x00" + txn }
