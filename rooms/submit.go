package rooms

import (
	"context"
	"encoding/json"
	"errors"

	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/platform/stream"
	"lyceum/rooms/state"
)

// sendRequest asks the owner of a room for one new event.
type sendRequest struct {
	Sender   string          `json:"sender"`
	Device   string          `json:"device"`
	Txn      string          `json:"txn"` // never empty: what makes a retry safe
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key,omitempty"`
	Content  json.RawMessage `json:"content"`
	Redacts  string          `json:"redacts,omitempty"`
	TS       int64           `json:"ts,omitempty"` // ms, 0 for now
	// Unless: when the sender's membership is this already, nothing is sent and no event id comes back.
	Unless string `json:"unless,omitempty"`
	// While: the membership of the user whose m.room.member this is must be one of these, else M_FORBIDDEN.
	While []string `json:"while,omitempty"`
}

type sendResult struct {
	EventID string `json:"event_id"`
}

// Send adds an event to a room and returns its id when it is durable. Errors are *matrix.Error.
func (r *Rooms) Send(ctx context.Context, roomID string, req sendRequest) (string, error) {
	if !matrix.ValidRoomID(roomID) {
		return "", matrix.InvalidParam("Expected a room id such as !opaque:example.org")
	}
	if req.Txn == "" {
		req.Txn = minted + r.Process.MintID()
	}
	res, err := r.send(ctx, roomID, req)
	return res.EventID, err
}

// submit runs on the owner of the room: it builds the event on the newest state, checks it, queues it and
// waits until it is durable.
func (r *Rooms) submit(ctx context.Context, roomID string, req sendRequest) (sendResult, error) {
	rm, err := r.room(ctx, roomID)
	if err != nil {
		return sendResult{}, err
	}
	key := txnKey(req.Sender, req.Device, req.Txn)
	if id := rm.txns.get(key); id != "" {
		e := rm.recent[id]
		rm.mu.Unlock()
		if e != nil && e.ticket != nil {
			return sendResult{id}, e.ticket.Wait(ctx)
		}
		return sendResult{id}, nil
	}
	if done, id, err := r.precheck(ctx, rm, req); done || err != nil {
		rm.mu.Unlock()
		return sendResult{id}, err
	}
	e, err := r.build(ctx, rm, req)
	if err != nil {
		rm.mu.Unlock()
		return sendResult{}, err
	}
	e.ticket = r.Process.Streams.Enqueue(&stream.Entry{Stream: r.stream, Row: stream.Row{Key: roomID, Value: e, Data: e.encode()}})
	rm.txns.put(key, e.ID)
	rm.mu.Unlock()
	err = e.ticket.Wait(ctx)
	if err != nil && db.IsUnique(err) {
		// An older request with this transaction id is stored, from before this process owned the room.
		return r.findTxn(ctx, roomID, req)
	}
	if errors.Is(err, stream.ErrNotOwner) || errors.Is(err, stream.ErrAborted) {
		r.dropShard(r.stream.Shard(roomID))
	}
	return sendResult{e.ID}, err
}

func (r *Rooms) findTxn(ctx context.Context, roomID string, req sendRequest) (sendResult, error) {
	var id string
	err := r.Process.DB.QueryRow(ctx, "SELECT event_id FROM events WHERE room_id = $1 AND sender = $2 AND device = $3 AND txn = $4",
		roomID, req.Sender, req.Device, req.Txn).Scan(&id)
	return sendResult{id}, err
}

// build makes the next event of a room, checks it against the newest state and makes it the newest. The
// caller holds the room's lock and must queue it before it lets go.
func (r *Rooms) build(ctx context.Context, rm *room, req sendRequest) (*Event, error) {
	if err := checkRequest(req); err != nil {
		return nil, err
	}
	p := event.Proto{
		RoomID: rm.id, Type: req.Type, Sender: req.Sender, StateKey: req.StateKey, Content: req.Content,
		Redacts: req.Redacts, OriginServerTS: req.TS, Depth: rm.depth + 1,
	}
	if rm.last != "" {
		p.PrevEvents = []string{rm.last}
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
	if err := r.lookup(ctx, rm, keys...); err != nil {
		return nil, err
	}
	for _, k := range authKeys {
		if a := rm.state[state.Key(k)]; a != nil {
			p.AuthEvents = append(p.AuthEvents, a.ID)
		}
	}
	pdu, err := event.Build(rm.version, p, r.Key)
	if err != nil {
		return nil, err
	}
	if err := auth.Allowed(rm.version, pdu, rm); err != nil {
		return nil, matrix.Forbidden("You are not allowed to send this event: " + denied(err)).With(err)
	}
	e := &Event{Event: pdu, Device: req.Device, Txn: req.Txn}
	tree := rm.tree
	if e.IsState() {
		k := state.Key{Type: e.Type, StateKey: *e.StateKey}
		if before := rm.state[k]; before != nil {
			e.Replaces, e.PrevContent, e.PrevSender = before.ID, before.Content, before.Sender
		}
		if tree, e.nodes, err = tree.Set(ctx, state.Entry{Key: k, EventID: e.ID}); err != nil {
			return nil, err
		}
	}
	e.Root = tree.Root()
	if e.Redacts != "" && e.Type == event.TypeRedaction {
		if err := r.redact(ctx, rm, e); err != nil {
			return nil, err
		}
	}
	rm.apply(e, tree)
	return e, nil
}

// redact finds what e redacts and redacts it, when the sender may. A redaction of an event that is not
// there is kept and does nothing.
func (r *Rooms) redact(ctx context.Context, rm *room, e *Event) error {
	target := rm.recent[e.Redacts]
	if target == nil {
		var err error
		if target, err = r.Event(ctx, e.Redacts); err != nil {
			return err
		}
	}
	if target == nil || target.RoomID != rm.id {
		return matrix.NotFound("The event to redact is not in this room")
	}
	if !rm.Power().MayRedact(e.Sender, target.Sender) {
		return matrix.Forbidden("You may not redact events of others in this room")
	}
	e.redact = target.redacted(e.ID)
	if rm.recent[target.ID] != nil {
		rm.recent[target.ID] = e.redact
	}
	if target.IsState() {
		k := state.Key{Type: target.Type, StateKey: *target.StateKey}
		if now := rm.state[k]; now != nil && now.ID == target.ID {
			rm.state[k] = e.redact
			rm.power = nil
		}
	}
	return nil
}

// redacted is the event as a redaction leaves it.
func (e *Event) redacted(by string) *Event {
	return &Event{
		Event: e.Redacted(), Shard: e.Shard, Pos: e.Pos, Device: e.Device, Txn: e.Txn, Root: e.Root,
		Replaces: e.Replaces, PrevContent: e.PrevContent, PrevSender: e.PrevSender, RedactedBy: by, ticket: e.ticket,
	}
}

// denied is the rule that refused an event, for people.
func denied(err error) string {
	text := err.Error()
	if prefix := auth.ErrDenied.Error() + ": "; len(text) > len(prefix) && text[:len(prefix)] == prefix {
		return text[len(prefix):]
	}
	return text
}

// createRequest asks the owner of a room that does not exist yet for its first events.
type createRequest struct {
	Version    string        `json:"version"`
	Visibility string        `json:"visibility"`
	Create     []byte        `json:"create"` // the m.room.create event, whose hash is the room's id since version 12
	CreateID   string        `json:"create_id"`
	Events     []sendRequest `json:"events"`
}

// submitCreate runs on the owner of the new room: it stores all its first events in one transaction.
func (r *Rooms) submitCreate(ctx context.Context, roomID string, req createRequest) (struct{}, error) {
	if _, ok, err := r.Head(ctx, roomID); ok || err != nil {
		return struct{}{}, err // a retry finds the room
	}
	v, ok := event.VersionByID(req.Version)
	if !ok {
		return struct{}{}, matrix.UnsupportedRoomVersion("Unknown room version " + req.Version)
	}
	create, err := event.ParseTrusted(v, req.Create, req.CreateID)
	if err != nil {
		return struct{}{}, err
	}
	rm := r.newRoom(roomID)
	rm.mu.Lock()
	rm.begin(v, r.Tree(state.ID{}))
	entries, err := r.buildFirst(ctx, rm, create, req)
	if err != nil {
		rm.mu.Unlock()
		return struct{}{}, err
	}
	ticket := r.Process.Streams.Enqueue(entries...)
	rm.mu.Unlock()
	return struct{}{}, ticket.Wait(ctx)
}

func (r *Rooms) buildFirst(ctx context.Context, rm *room, create *event.Event, req createRequest) ([]*stream.Entry, error) {
	tree, nodes, err := rm.tree.Set(ctx, state.Entry{Key: state.Key{Type: event.TypeCreate}, EventID: create.ID})
	if err != nil {
		return nil, err
	}
	first := &Event{Event: create, Root: tree.Root(), nodes: nodes, Txn: minted + create.ID, created: &createRow{
		version: req.Version, creator: create.Sender, visibility: req.Visibility, ms: create.OriginServerTS,
	}}
	if err := auth.Allowed(rm.version, create, rm); err != nil {
		return nil, matrix.NewError(400, matrix.CodeInvalidRoomState, "The room can not be created: "+denied(err)).With(err)
	}
	rm.apply(first, tree)
	events := []*Event{first}
	for _, s := range req.Events {
		e, err := r.build(ctx, rm, s)
		if matrix.HasCode(err, matrix.CodeForbidden) {
			return nil, matrix.NewError(400, matrix.CodeInvalidRoomState, matrix.AsError(err).Message).With(err)
		}
		if err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	// Nodes that a later event replaced are needed still: each event's root stays readable.
	entries := make([]*stream.Entry, len(events))
	for i, e := range events {
		entries[i] = &stream.Entry{Stream: r.stream, Row: stream.Row{Key: rm.id, Value: e, Data: e.encode()}}
	}
	return entries, nil
}
