package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
	"lyceum/rooms/state"
)

type eventIDReply struct {
	EventID string `json:"event_id"`
}

// txnOf reads the transaction id of a request, scoped by its endpoint.
func txnOf(q *web.Request, scope string) (string, error) {
	txn := q.Path("txnID")
	if len(txn) > maxTxn || len(scope) > 2*maxTxn {
		return "", matrix.InvalidParam(fmt.Sprintf("Expected a transaction id of at most %d bytes", maxTxn))
	}
	return scopedTxn(scope, txn), nil
}

func (r *Rooms) putSend(q *web.Request) (any, error) {
	txn, err := txnOf(q, "send/"+q.Path("type"))
	if err != nil {
		return nil, err
	}
	return r.sendMessage(q, txn)
}

// postSend is putSend without a transaction id, as old clients and scripts send: each request is another event.
func (r *Rooms) postSend(q *web.Request) (any, error) { return r.sendMessage(q, "") }

func (r *Rooms) sendMessage(q *web.Request, txn string) (any, error) {
	content, err := q.Object()
	if err != nil {
		return nil, err
	}
	typ := q.Path("type")
	req := Send{Sender: q.UserID(), Device: q.Sender(), Txn: txn, Type: typ, Content: content}
	if typ == event.TypeRedaction {
		req.Redacts = redactsIn(content)
	}
	return r.sendFor(q, req)
}

// redactsIn reads which event a redaction sent as a plain event is about.
func redactsIn(content json.RawMessage) string {
	var c struct {
		Redacts any `json:"redacts"`
	}
	_ = json.Unmarshal(content, &c) // it is an object already; a wrong type is no id
	id, _ := c.Redacts.(string)
	return id
}

func (r *Rooms) sendFor(q *web.Request, req Send) (any, error) {
	if err := q.MayAct(); err != nil {
		return nil, err
	}
	if req.Txn == "" {
		req.Txn = mintedFor(q)
	}
	id, err := r.Send(q.Context(), q.Path("roomID"), req)
	return eventIDReply{id}, err
}

// mintedFor is a transaction id for a request without one: the same wherever the request is done again.
func mintedFor(q *web.Request) string { return minted + q.Once() }

func (r *Rooms) putRedact(q *web.Request) (any, error) {
	content, err := q.Object()
	if err != nil {
		return nil, err
	}
	target := q.Path("eventID")
	if !matrix.ValidEventID(target) {
		return nil, matrix.InvalidParam("Expected an event id such as $opaque")
	}
	txn, err := txnOf(q, "redact/"+target)
	if err != nil {
		return nil, err
	}
	// A suspended user may still take back own events.
	if q.Identity.Suspended {
		if e, err := r.Event(q.Context(), target); err != nil || e == nil || e.Sender != q.UserID() {
			return nil, matrix.UserSuspended("Your account is suspended: you can redact your own events only").With(err)
		}
	}
	id, err := r.Send(q.Context(), q.Path("roomID"), Send{
		Sender: q.UserID(), Device: q.Sender(), Txn: txn, Type: event.TypeRedaction, Redacts: target, Content: content,
	})
	return eventIDReply{id}, err
}

func (r *Rooms) putState(q *web.Request) (any, error) {
	content, err := q.Object()
	if err != nil {
		return nil, err
	}
	typ, key, roomID := q.Path("type"), q.Path("stateKey"), q.Path("roomID")
	req := Send{Sender: q.UserID(), Device: q.Sender(), Type: typ, StateKey: &key, Content: content}
	if typ == event.TypeGuestAccess && key == "" {
		return r.putGuestAccess(q, req)
	}
	switch typ {
	case event.TypeMember:
		return r.putMember(q, key, content)
	case event.TypeThirdPartyInvite:
		if err := q.MayAct(); err != nil {
			return nil, err
		}
		if err := r.mayInvite(q, 1); err != nil {
			return nil, err
		}
	case event.TypeRedaction:
		req.Redacts = redactsIn(content)
	case event.TypeCanonicalAlias:
		if err := r.checkCanonicalAlias(q.Context(), roomID, content); err != nil {
			return nil, err
		}
	}
	return r.sendFor(q, req)
}

// putMember is a membership set as plain state; it is the same as the endpoint of the membership.
func (r *Rooms) putMember(q *web.Request, target string, content json.RawMessage) (any, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(content, &fields); err != nil {
		return nil, matrix.BadJSON("The content must be an object").With(err)
	}
	var membership string
	if err := json.Unmarshal(fields["membership"], &membership); err != nil {
		return nil, matrix.BadJSON("membership: expected a string")
	}
	if !matrix.ValidUserID(target) {
		return nil, matrix.InvalidParam("The state key of a membership is a user id")
	}
	m := member{Sender: q.UserID(), Device: q.Sender(), Target: target, Membership: membership, Content: fields, Always: true, Txn: mintedFor(q)}
	self := target == q.UserID()
	if !self || membership != event.MembershipLeave {
		if err := q.MayAct(); err != nil {
			return nil, err
		}
	}
	var id string
	var err error
	switch {
	case membership == event.MembershipJoin && self:
		m.Guest = q.Identity.Guest
		id, err = r.join(q.Context(), q.Path("roomID"), m)
	case membership == event.MembershipInvite:
		if err := r.mayInvite(q, 0, target); err != nil {
			return nil, err
		}
		fallthrough
	default:
		id, err = r.setMembership(q.Context(), q.Path("roomID"), m)
	}
	return eventIDReply{id}, err
}

// checkCanonicalAlias refuses aliases that the present event does not name and that do not point at the
// room (Client-Server API, PUT /rooms/{roomId}/state: M_BAD_ALIAS).
func (r *Rooms) checkCanonicalAlias(ctx context.Context, roomID string, content json.RawMessage) error {
	named, err := aliasesIn(content)
	if err != nil || len(named) == 0 {
		return err
	}
	h, ok, err := r.Head(ctx, roomID)
	if err != nil || !ok {
		return err // Send says that there is no such room
	}
	k := state.Key{Type: event.TypeCanonicalAlias}
	found, err := r.StateEvents(ctx, h.Root, k)
	if err != nil {
		return err
	}
	var before []string
	if e := found[k]; e != nil {
		before, _ = aliasesIn(e.Content) // what is there may be of any shape
	}
	return r.checkAliases(ctx, roomID, named, before)
}

// checkAliases refuses aliases that are not among those allowed and do not point at the room.
func (r *Rooms) checkAliases(ctx context.Context, roomID string, named, allowed []string) error {
	for _, alias := range named {
		if slices.Contains(allowed, alias) {
			continue
		}
		if !matrix.ValidAlias(alias) {
			return matrix.InvalidParam("Expected a room alias such as #room:example.org")
		}
		id, _, err := r.Resolve(ctx, alias)
		if err != nil {
			return err
		}
		if id != roomID {
			return matrix.BadAlias("The alias " + alias + " does not point at this room")
		}
	}
	return nil
}

func aliasesIn(content json.RawMessage) ([]string, error) {
	var c struct {
		Alias *string  `json:"alias"`
		Alts  []string `json:"alt_aliases"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, matrix.BadJSON("m.room.canonical_alias: expected the string alias and the list of strings alt_aliases").With(err)
	}
	if c.Alias != nil && *c.Alias != "" {
		return append(c.Alts, *c.Alias), nil
	}
	return c.Alts, nil
}
