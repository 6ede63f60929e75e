package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/platform/owned"
	"lyceum/platform/role"
	"lyceum/platform/stream"
	"lyceum/rooms/state"
)

// Send asks the owner of a room for one new event of the user Sender. The names in JSON travel between processes, so they stay when a
// field gets a better name.
type Send struct {
	Sender   string          `json:"sender"`
	Device   string          `json:"device"` // of the sender, whose transaction it is; may be empty
	Txn      string          `json:"txn"`    // what makes a retry safe; made by the server when empty
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key,omitempty"`
	Content  json.RawMessage `json:"content"`
	Redacts  string          `json:"redacts,omitempty"`
	TS       int64           `json:"ts,omitempty"` // ms, 0 for now
	// SkipIfMembership: when the sender's membership is this already, nothing is sent and no event id comes back.
	SkipIfMembership string `json:"unless,omitempty"`
	// IfMembership: the membership of the user whose m.room.member this is must be one of these, else M_FORBIDDEN.
	IfMembership []string `json:"while,omitempty"`
	// ProfileVersion is the version of the target's profile that this m.room.member is made of, 0 for none: when there is another by now, the
	// room gets that soon. The target must be an active user of this server, else M_FORBIDDEN.
	ProfileVersion int64 `json:"profile,omitempty"`
	// RequireActive: the target of this m.room.member must be an active user of this server, else M_FORBIDDEN; the profile is not
	// compared.
	RequireActive bool `json:"active,omitempty"`
	// RequireGuestAccess: the room must let guests join, else M_GUEST_ACCESS_FORBIDDEN.
	RequireGuestAccess bool `json:"guest,omitempty"`
	// MoveAliasesTo gets the aliases of the room with the event; "" for nobody.
	MoveAliasesTo string `json:"heir,omitempty"`
	// IfReplaces: the state event that this one replaces must be this one, "" for none, else M_BAD_STATE.
	IfReplaces *string `json:"over,omitempty"`

	canonical bool // Content is canonical JSON
}

// sendCall is the name of appendEvent between processes.
const sendCall = "rooms.send"

type sendResult struct {
	EventID string `json:"event_id"`
}

// Send adds an event to a room and returns its id when it is durable. Errors are *matrix.Error.
func (r *Rooms) Send(ctx context.Context, roomID string, req Send) (string, error) {
	if !matrix.ValidRoomID(roomID) {
		return "", matrix.InvalidParam("Expected a room id such as !opaque:example.org")
	}
	if req.Txn == "" {
		req.Txn = serverTxnPrefix + r.Process.NewID()
	}
	if r.beforeOwnerCall != nil {
		r.beforeOwnerCall()
	}
	call := role.OwnerCall{Stream: r.stream, Name: sendCall, Key: roomID}
	res, err := role.CallOwner(ctx, r.Process, call, req, r.appendEvent)
	return res.EventID, err
}

// appendEvent runs on the owner of the room. It builds the event on the newest state, checks it, appends it to the events stream,
// and waits until it is stored. The function that it gives to owned.Do runs again when that had to read something first.
func (r *Rooms) appendEvent(ctx context.Context, roomID string, req Send) (sendResult, error) {
	if err := checkRequest(req); err != nil {
		return sendResult{}, err
	}
	// The content is made canonical once. What the strict rules refuse is tried again by those of the room's version.
	if content, err := matrix.CanonicalJSON(orEmpty(req.Content)); err == nil {
		req.Content, req.canonical = content, true
	}
	var id string
	var made *Event
	known := &knownEvents{}
	err := r.owned.Do(ctx, roomID, func(c *owned.Change[room]) error {
		rm, err := existingRoom(c)
		if err != nil {
			return err
		}
		if known.room != rm {
			*known = knownEvents{room: rm}
		}
		if id = rm.txns.get(txnKey(req.Sender, req.Device, req.Txn)); id != "" {
			return nil
		}
		done, same, err := r.precheck(c, req, known)
		if done {
			id = same
			return nil
		}
		var n newEvent
		if err == nil {
			n, err = r.buildEvent(c, req, known)
		}
		if err != nil {
			id, err = r.findEarlierResult(c, req, known, err)
			return err
		}
		id, made = n.event.ID, n.event
		c.Append(func(rm *room, t *stream.Ticket) { rm.apply(n.event, n.tree, t) }, r.entry(n))
		return nil
	})
	if err == nil && made != nil {
		made.nodes.Store(nil)
	}
	if err != nil && db.IsUniqueOn(err, "events_txn") {
		// An older request with this transaction id is stored, from before this process had the room in memory.
		return r.findTxn(ctx, roomID, req)
	}
	return sendResult{id}, err
}

func orEmpty(content json.RawMessage) json.RawMessage {
	if len(content) == 0 {
		return json.RawMessage("{}")
	}
	return content
}

// findEarlierResult finds the event of a request that is refused now and may be the repetition of one that was done by a former owner,
// before what refuses it: a transaction is answered as it was. Otherwise it gives the refusal.
func (r *Rooms) findEarlierResult(c *owned.Change[room], req Send, known *knownEvents, refusal error) (string, error) {
	if c.Needs() {
		return "", refusal
	}
	rm := c.State()
	if known.txnQueried && rm.eventCount-known.txnQueriedAt <= int64(rm.txns.keep) { // all that came since is in memory
		if known.txn != "" {
			return known.txn, nil
		}
		return "", refusal
	}
	roomID, added := rm.id, rm.eventCount
	return "", c.Need(func(ctx context.Context) (func(*room), error) {
		res, err := r.findTxn(ctx, roomID, req)
		if err != nil && !errors.Is(err, db.ErrNoRows) {
			return nil, err
		}
		return func(*room) { known.txnQueried, known.txnQueriedAt, known.txn = true, added, res.EventID }, nil
	})
}

// newEvent is an event that was built, and the state after it.
type newEvent struct {
	event    *Event
	tree     state.Tree
	unsigned *event.PendingSignature // nil for an event that came signed, or is signed when another server gets it
}

// entry is the row of an event. Its signature and its text for other processes are made outside the room's lock.
func (r *Rooms) entry(n newEvent) *stream.Entry {
	e := n.event
	entry := &stream.Entry{Stream: r.stream, Row: stream.Row{Key: e.RoomID, Value: e}, Bytes: 2 * len(e.JSON)}
	for _, node := range e.newNodes() {
		entry.Bytes += len(node.Text)
	}
	entry.Seal = func() {
		if n.unsigned != nil {
			n.unsigned.Sign(r.Key)
		}
		if !r.Process.Leases.Embedded() {
			entry.Data = e.encode()
		}
	}
	return entry
}

func (r *Rooms) findTxn(ctx context.Context, roomID string, req Send) (sendResult, error) {
	var id string
	err := r.Process.DB.QueryRow(ctx, "SELECT event_id FROM events WHERE room_id = $1 AND sender = $2 AND device = $3 AND txn = $4",
		roomID, req.Sender, req.Device, req.Txn).Scan(&id)
	return sendResult{id}, err
}

// buildEvent makes the next event of a room and checks it against the newest state.
func (r *Rooms) buildEvent(c *owned.Change[room], req Send, known *knownEvents) (n newEvent, err error) {
	rm := c.State()
	p := event.Proto{
		ID: r.newEventID(rm.version), RoomID: rm.id, Type: req.Type, Sender: req.Sender, StateKey: req.StateKey,
		Content: req.Content, Canonical: req.canonical,
		Redacts: req.Redacts, OriginServerTS: req.TS, Depth: rm.depth + 1,
	}
	if rm.lastEventID != "" {
		p.PrevEvents = []string{rm.lastEventID}
	}
	if p.OriginServerTS == 0 {
		p.OriginServerTS = obs.Now().UnixMilli()
	}
	authKeys := auth.AuthTypes(rm.version, &p)
	keys := make([]state.Key, 0, len(authKeys)+2)
	for _, k := range authKeys {
		keys = append(keys, state.Key(k))
	}
	keys = append(keys, state.Key{Type: event.TypeCreate})
	if req.StateKey != nil {
		keys = append(keys, state.Key{Type: req.Type, StateKey: *req.StateKey})
	}
	if err := r.loadState(c, keys...); err != nil {
		return n, err
	}
	for _, k := range authKeys {
		if a := rm.state[state.Key(k)]; a != nil {
			p.AuthEvents = append(p.AuthEvents, a.ID)
		}
	}
	var key string // messages are signed when another server gets them
	if p.StateKey != nil {
		key = r.Key.ID
	}
	pdu, unsigned, err := event.Prepare(rm.version, p, key)
	if err != nil {
		return n, err
	}
	if err := allowed(rm, pdu); err != nil {
		return n, err
	}
	if e := pdu; e.Is(event.TypeTombstone, "") && replacementOf(e) == rm.id {
		return n, matrix.InvalidParam("replacement_room: a room can not be replaced by itself")
	}
	e := &Event{
		Event: pdu, Device: req.Device, Txn: req.Txn, profileVersion: req.ProfileVersion, requireActive: req.RequireActive,
		moveAliasesTo: req.MoveAliasesTo, prevQueued: rm.recent[rm.lastEventID] != nil,
	}
	n = newEvent{e, rm.tree, unsigned}
	if e.IsState() {
		k := state.Key{Type: e.Type, StateKey: *e.StateKey}
		if before := rm.state[k]; before != nil {
			e.Replaces, e.PrevContent, e.PrevSender = before.ID, before.Content, before.Sender
		}
		// loadState has brought the way to the key into memory: nothing is read here.
		var nodes []state.Node
		if n.tree, nodes, err = rm.tree.Set(context.Background(), state.Entry{Key: k, EventID: e.ID}); err != nil {
			return n, err
		}
		e.nodes.Store(&nodes)
	}
	e.Root = n.tree.Root()
	if e.Redacts != "" && e.Type == event.TypeRedaction {
		return n, r.redact(c, e, known)
	}
	return n, nil
}

// allowed holds the authorisation rules. Those of the room versions 1 to 5 let everybody of a server send m.room.aliases for it;
// users of this server must be members for that too.
func allowed(rm *room, e *event.Event) error {
	if err := auth.Allowed(rm.version, e, rm); err != nil {
		member := rm.Get(event.TypeMember, e.Sender)
		if member != nil && member.Membership() == event.MembershipJoin && namesCreator(rm.Power(), e) {
			return matrix.InvalidParam("users: creators of the room have no level in this room version")
		}
		return matrix.Forbidden("You are not allowed to send this event: " + denied(err)).With(err)
	}
	if rm.version.AliasesAuth && e.Type == event.TypeAliases {
		if m := rm.Get(event.TypeMember, e.Sender); m == nil || m.Membership() != event.MembershipJoin {
			return matrix.Forbidden("You are not allowed to send this event: sender: " + e.Sender + " is not joined")
		}
	}
	return nil
}

// namesCreator tells that power levels give a level to one who stands above all levels.
func namesCreator(power *auth.Power, e *event.Event) bool {
	if e.Type != event.TypePowerLevels {
		return false
	}
	users := matrix.Lookup(e.Content, "users")
	return slices.ContainsFunc(power.Creators, func(user string) bool { return matrix.Lookup(users, user) != nil })
}

// denied is the rule that refused an event, for people.
func denied(err error) string {
	text := err.Error()
	if prefix := auth.ErrDenied.Error() + ": "; len(text) > len(prefix) && text[:len(prefix)] == prefix {
		return text[len(prefix):]
	}
	return text
}
