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
func txnOf(req *web.Request, scope string) (string, error) {
	txn := req.Path("txnID")
	if len(txn) > maxTxn || len(scope) > 2*maxTxn {
		return "", matrix.InvalidParam(fmt.Sprintf("Expected a transaction id of at most %d bytes", maxTxn))
	}
	return scopedTxn(scope, txn), nil
}

func (r *Rooms) putSend(req *web.Request) (any, error) {
	txn, err := txnOf(req, "send/"+req.Path("type"))
	if err != nil {
		return nil, err
	}
	return r.sendMessage(req, txn)
}

// postSend is putSend without a transaction id, as old clients and scripts send: each request is another event.
func (r *Rooms) postSend(req *web.Request) (any, error) { return r.sendMessage(req, "") }

func (r *Rooms) sendMessage(req *web.Request, txn string) (any, error) {
	content, err := req.Object()
	if err != nil {
		return nil, err
	}
	typ := req.Path("type")
	send := Send{Sender: req.UserID(), Device: req.Sender(), Txn: txn, Type: typ, Content: content}
	if typ == event.TypeRedaction {
		send.Redacts = redactsIn(content)
	}
	return r.sendFor(req, send)
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

func (r *Rooms) sendFor(req *web.Request, send Send) (any, error) {
	if err := req.MayAct(); err != nil {
		return nil, err
	}
	if send.Txn == "" {
		send.Txn = requestTxn(req)
	}
	id, err := r.Send(req.Context(), req.Path("roomID"), send)
	return eventIDReply{id}, err
}

// mintedFor is a transaction id for a request without one: the same wherever the request is done again.
func requestTxn(req *web.Request) string { return serverTxnPrefix + req.Once() }

func (r *Rooms) putRedact(req *web.Request) (any, error) {
	content, err := req.Object()
	if err != nil {
		return nil, err
	}
	target := req.Path("eventID")
	if !matrix.ValidEventID(target) {
		return nil, matrix.InvalidParam("Expected an event id such as $opaque")
	}
	txn, err := txnOf(req, "redact/"+target)
	if err != nil {
		return nil, err
	}
	// A suspended user may still take back own events.
	if req.Identity.Suspended {
		if e, err := r.Event(req.Context(), target); err != nil || e == nil || e.Sender != req.UserID() {
			return nil, matrix.UserSuspended("Your account is suspended: you can redact your own events only").With(err)
		}
	}
	id, err := r.Send(req.Context(), req.Path("roomID"), Send{
		Sender: req.UserID(), Device: req.Sender(), Txn: txn, Type: event.TypeRedaction, Redacts: target, Content: content,
	})
	return eventIDReply{id}, err
}

func (r *Rooms) putState(req *web.Request) (any, error) {
	content, err := req.Object()
	if err != nil {
		return nil, err
	}
	typ, key, roomID := req.Path("type"), req.Path("stateKey"), req.Path("roomID")
	send := Send{Sender: req.UserID(), Device: req.Sender(), Type: typ, StateKey: &key, Content: content}
	if typ == event.TypeGuestAccess && key == "" {
		return r.putGuestAccess(req, send)
	}
	switch typ {
	case event.TypeMember:
		return r.putMember(req, key, content)
	case event.TypeThirdPartyInvite:
		if err := req.MayAct(); err != nil {
			return nil, err
		}
		if err := r.checkInvites(req, 1); err != nil {
			return nil, err
		}
	case event.TypeRedaction:
		send.Redacts = redactsIn(content)
	case event.TypeCanonicalAlias:
		if err := r.checkCanonicalAlias(req.Context(), roomID, content); err != nil {
			return nil, err
		}
	}
	return r.sendFor(req, send)
}

// putMember is a membership set as plain state; it is the same as the endpoint of the membership.
func (r *Rooms) putMember(req *web.Request, target string, content json.RawMessage) (any, error) {
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
	m := membershipRequest{Sender: req.UserID(), Device: req.Sender(), Target: target, Membership: membership, Content: fields, Always: true, Txn: requestTxn(req)}
	self := target == req.UserID()
	if !self || membership != event.MembershipLeave {
		if err := req.MayAct(); err != nil {
			return nil, err
		}
	}
	var id string
	var err error
	switch {
	case membership == event.MembershipJoin && self:
		m.Guest = req.Identity.Guest
		id, err = r.join(req.Context(), req.Path("roomID"), m)
	case membership == event.MembershipInvite:
		if err := r.checkInvites(req, 0, target); err != nil {
			return nil, err
		}
		fallthrough
	default:
		id, err = r.setMembership(req.Context(), req.Path("roomID"), m)
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
