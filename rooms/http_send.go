package rooms

import (
	"encoding/json"
	"fmt"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
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
	send, err := readMessage(req, txn)
	if err != nil {
		return nil, err
	}
	return r.sendAs(req, send)
}

// postSend is putSend without a transaction id, as old clients and scripts send: each request is another event.
func (r *Rooms) postSend(req *web.Request) (any, error) {
	send, err := readMessage(req, "")
	if err != nil {
		return nil, err
	}
	return r.sendAs(req, send)
}

// readMessage reads the event that a request sends; its type is in the path, its content is the body.
func readMessage(req *web.Request, txn string) (Send, error) {
	content, err := req.Object()
	if err != nil {
		return Send{}, err
	}
	typ := req.Path("type")
	send := Send{Sender: req.UserID(), Device: req.TransactionScope(), Txn: txn, Type: typ, Content: content}
	if typ == event.TypeRedaction {
		send.Redacts = redactsIn(content)
	}
	return send, nil
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

// sendAs sends an event for the user of a request and answers with its id. Suspended users are refused.
func (r *Rooms) sendAs(req *web.Request, send Send) (any, error) {
	if err := req.MayAct(); err != nil {
		return nil, err
	}
	if send.Txn == "" {
		send.Txn = requestTxn(req)
	}
	id, err := r.Send(req.Context(), req.Path("roomID"), send)
	return eventIDReply{id}, err
}

// requestTxn is a transaction id for a request without one: the same wherever the request is done again.
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
		Sender: req.UserID(), Device: req.TransactionScope(), Txn: txn, Type: event.TypeRedaction, Redacts: target, Content: content,
	})
	return eventIDReply{id}, err
}

func (r *Rooms) putState(req *web.Request) (any, error) {
	content, err := req.Object()
	if err != nil {
		return nil, err
	}
	typ, key, roomID := req.Path("type"), req.Path("stateKey"), req.Path("roomID")
	send := Send{Sender: req.UserID(), Device: req.TransactionScope(), Type: typ, StateKey: &key, Content: content}
	if typ == event.TypeGuestAccess && key == "" {
		return r.putGuestAccess(req, send)
	}
	switch typ {
	case event.TypeMember:
		return r.putMember(req, key, content)
	case event.TypeThirdPartyInvite:
		if req.Identity.Guest {
			return nil, matrix.GuestAccessForbidden("A guest may not invite")
		}
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
	return r.sendAs(req, send)
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
	m := membershipRequest{
		Sender: req.UserID(), Device: req.TransactionScope(), Target: target, Membership: membership, Content: fields, Always: true,
		Txn: requestTxn(req),
	}
	self := target == req.UserID()
	if req.Identity.Guest && (!self || membership != event.MembershipJoin && membership != event.MembershipLeave) {
		return nil, matrix.GuestAccessForbidden("A guest may join and leave, and change nothing for others")
	}
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

// putGuestAccess sets who may join. When guests may not any more, those who are there leave before the request is answered; a
// request that fails meanwhile and is made again goes on with them.
func (r *Rooms) putGuestAccess(req *web.Request, send Send) (any, error) {
	reply, err := r.sendAs(req, send)
	if err != nil {
		return nil, err
	}
	return reply, r.removeGuests(req.Context(), req.Path("roomID"))
}
