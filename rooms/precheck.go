package rooms

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/owned"
	"lyceum/rooms/state"
)

// selectSame finds a reaction that somebody sends again.
const selectSame = `SELECT EXISTS (SELECT 1 FROM relations
	WHERE target = $1 AND room_id = $2 AND sender = $3 AND agg_key = $4 AND type = $5 AND rel_type = 'm.annotation')`

const (
	nul    = "\x00"
	maxTxn = 255 // bytes of a transaction id, and of what scopes it
	// maxThirdPartyInvite is how large the content of such an invite is: a name, keys and the addresses to check them at. Every member
	// may send any number of them, where the state that all others get from then on holds them.
	maxThirdPartyInvite = 8 << 10
)

// checkRequest refuses what the tables can not hold, wherever the event comes from.
func checkRequest(req Send) error {
	switch {
	case req.Type == "":
		return matrix.InvalidParam("An event needs a type")
	case req.Type == event.TypeCreate && req.StateKey != nil:
		return matrix.InvalidParam("A room has one m.room.create event only")
	case req.Type == event.TypeCreate:
		return matrix.Forbidden("A room has one m.room.create event only")
	case strings.Contains(req.Type, nul), req.StateKey != nil && strings.Contains(*req.StateKey, nul):
		return matrix.InvalidParam("type and state_key must not hold NUL")
	case req.Type == event.TypeThirdPartyInvite && len(req.Content) > maxThirdPartyInvite:
		return matrix.TooLarge(fmt.Sprintf("The content of %s is %d bytes; expected at most %d", req.Type, len(req.Content), maxThirdPartyInvite))
	case req.Redacts != "" && !matrix.ValidEventID(req.Redacts):
		return matrix.InvalidParam("Expected an event id such as $opaque")
	}
	if req.Type == event.TypeRedaction && req.Redacts == "" {
		return matrix.InvalidParam("A redaction needs the id of the event that it redacts")
	}
	return nil
}

// precheck holds what is decided against the newest state before an event is built. done means that there
// is nothing to send.
func (r *Rooms) precheck(c *owned.Change[room], req Send, known *knownEvents) (done bool, eventID string, err error) {
	rm := c.State()
	sender := state.Key{Type: event.TypeMember, StateKey: req.Sender}
	keys := []state.Key{sender}
	if req.StateKey != nil {
		keys = append(keys, state.Key{Type: req.Type, StateKey: *req.StateKey})
	}
	access := state.Key{Type: event.TypeGuestAccess}
	if req.RequireGuestAccess {
		keys = append(keys, access)
	}
	if err := r.loadState(c, keys...); err != nil {
		return false, "", err
	}
	if req.SkipIfMembership != "" && rm.state[sender] != nil && rm.membership(sender) == req.SkipIfMembership {
		return true, "", nil
	}
	if req.StateKey == nil {
		return false, "", r.checkRelation(c, req, known)
	}
	if req.RequireGuestAccess && !letsGuestsIn(rm.state[access]) {
		return false, "", matrix.GuestAccessForbidden("Guests may not join this room")
	}
	now := keys[1]
	if len(req.IfMembership) > 0 && !slices.Contains(req.IfMembership, rm.membership(now)) {
		return false, "", matrix.Forbidden("The membership of this user is " + rm.membership(now) +
			"; expected " + strings.Join(req.IfMembership, " or "))
	}
	if req.IfReplaces != nil && rm.stateID(now) != *req.IfReplaces {
		return false, "", matrix.BadState("The state " + req.Type + " was changed by somebody else meanwhile")
	}
	// The same state once more is no event: clients repeat themselves.
	if e := rm.state[now]; e != nil && e.Sender == req.Sender && rm.membership(sender) == event.MembershipJoin {
		if content, err := canonical(rm, req); err == nil && bytes.Equal(content, e.Content) {
			return true, e.ID, nil
		}
	}
	return false, "", nil
}

// membership is that of the user whose m.room.member has a key; "leave" for one without. loadState has read the key.
func (rm *room) membership(k state.Key) string {
	if m := rm.state[k]; m != nil {
		return m.Membership()
	}
	return event.MembershipLeave
}

// stateID is the id of the event of a key, "" for none. loadState has read the key.
func (rm *room) stateID(k state.Key) string {
	if e := rm.state[k]; e != nil {
		return e.ID
	}
	return ""
}

// canonical is the content of a request as the room's version writes it.
func canonical(rm *room, req Send) ([]byte, error) {
	if req.canonical {
		return req.Content, nil
	}
	return rm.version.Canonical(req.Content)
}

// duplicate is what the database said about an annotation.
type duplicate struct {
	found     bool
	queriedAt int64 // events of the room when it was asked
}

// checkRelation refuses a second annotation with the same key by the same sender, and a thread that starts
// at an event which relates to another (Client-Server API, "Annotations", "Threading").
func (r *Rooms) checkRelation(c *owned.Change[room], req Send, known *knownEvents) error {
	if !bytes.Contains(req.Content, []byte(`"m.relates_to"`)) {
		return nil
	}
	rm := c.State()
	content, err := canonical(rm, req)
	if err != nil {
		return nil // buildEvent says what is wrong
	}
	rel, ok := event.RelationOf(&event.Event{Content: content})
	if !ok {
		return nil
	}
	switch rel.Type {
	case relAnnotation:
		return r.checkAnnotation(c, req, rel, known)
	case relThread:
		root, err := known.get(r, c, rel.Target)
		if err != nil || root == nil {
			return err
		}
		if _, related := event.RelationOf(root.Event); related {
			return matrix.NewError(400, matrix.CodeUnknown, "A thread can not start at an event that relates to another")
		}
	}
	return nil
}

func (r *Rooms) checkAnnotation(c *owned.Change[room], req Send, rel event.Relation, known *knownEvents) error {
	rm := c.State()
	twice := matrix.DuplicateAnnotation("You have annotated this event with this key already")
	for _, e := range rm.recent {
		if e.Sender != req.Sender || e.Type != req.Type {
			continue
		}
		if other, ok := event.RelationOf(e.Event); ok && other == rel {
			return twice
		}
	}
	// The answer of the database holds while all that came since is in memory.
	if d := known.dup; d != nil && rm.eventCount-d.queriedAt <= int64(rm.maxRecent) {
		if d.found {
			return twice
		}
		return nil
	}
	added, id := rm.eventCount, rm.id
	return c.Need(func(ctx context.Context) (func(*room), error) {
		d := &duplicate{queriedAt: added}
		err := r.Process.DB.QueryRow(ctx, selectSame, rel.Target, id, req.Sender, rel.Key, req.Type).Scan(&d.found)
		return func(*room) { known.dup = d }, err
	})
}
