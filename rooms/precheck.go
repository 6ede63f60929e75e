package rooms

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

const (
	nul    = "\x00"
	maxTxn = 255 // bytes of a transaction id, and of what scopes it
)

// checkRequest refuses what the tables can not hold, wherever the event comes from.
func checkRequest(req sendRequest) error {
	switch {
	case req.Type == "":
		return matrix.InvalidParam("An event needs a type")
	case req.Type == event.TypeCreate:
		return matrix.Forbidden("A room has one m.room.create event only")
	case strings.Contains(req.Type, nul), req.StateKey != nil && strings.Contains(*req.StateKey, nul):
		return matrix.InvalidParam("type and state_key must not hold NUL")
	case req.Redacts != "" && !matrix.ValidEventID(req.Redacts):
		return matrix.InvalidParam("Expected an event id such as $opaque")
	}
	if req.Type == event.TypeRedaction && req.Redacts == "" {
		return matrix.InvalidParam("A redaction needs the id of the event that it redacts")
	}
	return nil
}

// precheck holds what is decided against the newest state before an event is built. done means that there
// is nothing to send. The caller holds the room's lock.
func (r *Rooms) precheck(ctx context.Context, rm *room, req sendRequest) (done bool, eventID string, err error) {
	sender := state.Key{Type: event.TypeMember, StateKey: req.Sender}
	keys := []state.Key{sender}
	if req.StateKey != nil {
		keys = append(keys, state.Key{Type: req.Type, StateKey: *req.StateKey})
	}
	if err := r.lookup(ctx, rm, keys...); err != nil {
		return false, "", err
	}
	membership := func(k state.Key) string {
		if m := rm.state[k]; m != nil {
			return m.Membership()
		}
		return event.MembershipLeave
	}
	if req.Unless != "" && rm.state[sender] != nil && membership(sender) == req.Unless {
		return true, "", nil
	}
	if req.StateKey == nil {
		return false, "", r.checkRelation(ctx, rm, req)
	}
	now := keys[1]
	if len(req.While) > 0 && !slices.Contains(req.While, membership(now)) {
		return false, "", matrix.Forbidden("The membership of this user is " + membership(now) + "; expected " + strings.Join(req.While, " or "))
	}
	// The same state once more is no event: clients repeat themselves.
	if e := rm.state[now]; e != nil && e.Sender == req.Sender && membership(sender) == event.MembershipJoin {
		if content, err := rm.version.Canonical(req.Content); err == nil && bytes.Equal(content, e.Content) {
			return true, e.ID, nil
		}
	}
	return false, "", nil
}

// checkRelation refuses a second annotation with the same key by the same sender, and a thread that starts
// at an event which relates to another (Client-Server API, "Annotations", "Threading").
func (r *Rooms) checkRelation(ctx context.Context, rm *room, req sendRequest) error {
	if !bytes.Contains(req.Content, []byte(`"m.relates_to"`)) {
		return nil
	}
	content, err := rm.version.Canonical(req.Content)
	if err != nil {
		return nil // build says what is wrong
	}
	rel, ok := relationOf(&event.Event{Content: content})
	if !ok {
		return nil
	}
	switch rel.relType {
	case relAnnotation:
		for _, e := range rm.recent {
			if e.Sender != req.Sender || e.Type != req.Type {
				continue
			}
			if other, ok := relationOf(e.Event); ok && other == rel {
				return matrix.DuplicateAnnotation("You have annotated this event with this key already")
			}
		}
		var n int
		err := r.Process.DB.QueryRow(ctx, `SELECT COUNT(*) FROM relations WHERE target = $1 AND sender = $2 AND rel_type = $3 AND agg_key = $4 AND type = $5 AND room_id = $6`,
			rel.target, req.Sender, rel.relType, rel.key, req.Type, rm.id).Scan(&n)
		if err != nil || n == 0 {
			return err
		}
		return matrix.DuplicateAnnotation("You have annotated this event with this key already")
	case relThread:
		root := rm.recent[rel.target]
		if root == nil {
			if root, err = r.Event(ctx, rel.target); err != nil || root == nil {
				return err
			}
		}
		if _, related := relationOf(root.Event); related {
			return matrix.NewError(400, matrix.CodeUnknown, "A thread can not start at an event that relates to another")
		}
	}
	return nil
}
