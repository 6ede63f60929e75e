package reports

import (
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
	"lyceum/rooms"
)

type reportBody struct {
	Reason string `json:"reason"`
}

const maxReason = 4000 // bytes

// addReason stores a report of the user who made the request.
func (r *Reports) addReason(req *web.Request, reason string, about Report) (any, error) {
	if len(reason) > maxReason {
		return nil, matrix.InvalidParam("reason: expected at most 4000 bytes")
	}
	about.Reporter, about.Reason = req.UserID(), strings.ReplaceAll(reason, "\x00", "") // PostgreSQL stores no NUL
	return nil, r.add(req.Context(), about)
}

func (r *Reports) postRoom(req *web.Request, b *reportBody) (any, error) {
	_, ok, err := r.Rooms.Head(req.Context(), req.Path("roomID"))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, matrix.NotFound("There is no such room here")
	}
	return r.addReason(req, b.Reason, Report{RoomID: req.Path("roomID")})
}

func (r *Reports) postEvent(req *web.Request, b *reportBody) (any, error) {
	ctx, userID, roomID := req.Context(), req.UserID(), req.Path("roomID")
	missing := matrix.NotFound("There is no such event, or you are not in its room")
	e, err := r.Rooms.Event(ctx, req.Path("eventID"))
	if err != nil {
		return nil, err
	}
	if e == nil || e.RoomID != roomID {
		return nil, missing
	}
	m, err := r.Rooms.Membership(ctx, userID, roomID)
	if err != nil {
		return nil, err
	}
	if m.Membership != event.MembershipJoin {
		return nil, missing
	}
	visible, err := r.Rooms.CanSee(ctx, userID, roomID, []*rooms.Event{e})
	if err != nil {
		return nil, err
	}
	if !visible[0] {
		return nil, missing
	}
	return r.addReason(req, b.Reason, Report{RoomID: e.RoomID, EventID: e.ID, UserID: e.Sender})
}

func (r *Reports) postUser(req *web.Request, b *reportBody) (any, error) {
	exists, err := r.Accounts.Exists(req.Context(), req.Path("userID"))
	if err != nil {
		return nil, err
	}
	if !exists {
		return nil, matrix.NotFound("There is no such user here")
	}
	return r.addReason(req, b.Reason, Report{UserID: req.Path("userID")})
}
