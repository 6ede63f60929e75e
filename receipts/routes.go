package receipts

import (
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
)

// Routes are the endpoints of the package.
func (r *Receipts) Routes() []web.Route {
	const room = "/_matrix/client/v3/rooms/{roomID}"
	return []web.Route{
		{Pattern: "POST " + room + "/receipt/{type}/{eventID}", Auth: web.User, Role: "receipts", Key: web.KeyPath("roomID"), Limit: "write", EmptyBody: true, Idempotent: true, Handler: web.JSON(r.postReceipt)},
		{Pattern: "POST " + room + "/read_markers", Auth: web.User, Role: "receipts", Key: web.KeyPath("roomID"), Limit: "write", EmptyBody: true, Idempotent: true, Handler: web.JSON(r.postMarkers)},
	}
}

// joined gives the room of the path when the caller is a member.
func (r *Receipts) joined(req *web.Request) (string, error) {
	roomID := req.Path("roomID")
	m, err := r.Rooms.Membership(req.Context(), req.UserID(), roomID)
	if err != nil {
		return "", err
	}
	if m.Membership != event.MembershipJoin {
		return "", matrix.Forbidden("You are not a member of this room")
	}
	return roomID, nil
}

type receiptBody struct {
	Thread any `json:"thread_id"`
}

func (r *Receipts) postReceipt(req *web.Request, body *receiptBody) (any, error) {
	typ, eventID, thread := req.Path("type"), req.Path("eventID"), ""
	if typ != TypeRead && typ != TypePrivate && typ != TypeFullyRead {
		return nil, matrix.InvalidParam("Expected a receipt of type m.read, m.read.private or m.fully_read, found " + typ)
	}
	if body.Thread != nil {
		thread, _ = body.Thread.(string)
		switch {
		case thread == "":
			return nil, matrix.InvalidParam("thread_id: expected main or an event id")
		case typ == TypeFullyRead:
			return nil, matrix.InvalidParam("thread_id: m.fully_read has no threads")
		case thread != MainThread && !matrix.ValidEventID(thread):
			return nil, matrix.InvalidParam("thread_id: expected main or an event id")
		}
	}
	roomID, err := r.joined(req)
	if err != nil {
		return nil, err
	}
	if typ == TypeFullyRead {
		return nil, r.MarkFullyRead(req.Context(), req.UserID(), roomID, eventID)
	}
	return nil, r.Send(req.Context(), roomID, Receipt{UserID: req.UserID(), Type: typ, ThreadID: thread, EventID: eventID})
}

type markersBody struct {
	FullyRead string `json:"m.fully_read"`
	Read      string `json:"m.read"`
	Private   string `json:"m.read.private"`
}

func (r *Receipts) postMarkers(req *web.Request, body *markersBody) (any, error) {
	roomID, err := r.joined(req)
	if err != nil {
		return nil, err
	}
	var list []Receipt
	for _, rc := range []Receipt{{Type: TypeRead, EventID: body.Read}, {Type: TypePrivate, EventID: body.Private}} {
		if rc.EventID != "" {
			rc.UserID = req.UserID()
			list = append(list, rc)
		}
	}
	// All are checked before one is stored: what is refused changes nothing.
	if err := r.locateAll(req.Context(), roomID, list); err != nil {
		return nil, err
	}
	if body.FullyRead != "" {
		if err := r.MarkFullyRead(req.Context(), req.UserID(), roomID, body.FullyRead); err != nil {
			return nil, err
		}
	}
	if len(list) == 0 {
		return nil, nil
	}
	_, err = r.set(req.Context(), roomID, list)
	return nil, err
}
