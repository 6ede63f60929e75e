package rooms

import (
	"strings"

	"lyceum/matrix"
	"lyceum/platform/web"
)

type reportBody struct {
	Reason string `json:"reason"`
}

const maxReason = 4000 // bytes

func (r *Rooms) report(req *web.Request, reason string, about Report) (any, error) {
	if len(reason) > maxReason {
		return nil, matrix.InvalidParam("reason: expected at most 4000 bytes")
	}
	about.Reporter, about.Reason = req.UserID(), strings.ReplaceAll(reason, nul, "")
	return nil, r.addReport(req.Context(), about)
}

func (r *Rooms) postReportRoom(req *web.Request, b *reportBody) (any, error) {
	_, ok, err := r.Head(req.Context(), req.Path("roomID"))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, matrix.NotFound("There is no such room here")
	}
	return r.report(req, b.Reason, Report{RoomID: req.Path("roomID")})
}

func (r *Rooms) postReportEvent(req *web.Request, b *reportBody) (any, error) {
	e, _, s, err := r.visibleEvent(req.Context(), req.UserID(), req.Path("roomID"), req.Path("eventID"))
	if err != nil {
		return nil, err
	}
	if !s.joined() {
		return nil, matrix.NotFound("There is no such event, or you are not in its room")
	}
	return r.report(req, b.Reason, Report{RoomID: e.RoomID, EventID: e.ID, UserID: e.Sender})
}

func (r *Rooms) postReportUser(req *web.Request, b *reportBody) (any, error) {
	exists, err := r.Accounts.Exists(req.Context(), req.Path("userID"))
	if err != nil {
		return nil, err
	}
	if !exists {
		return nil, matrix.NotFound("There is no such user here")
	}
	return r.report(req, b.Reason, Report{UserID: req.Path("userID")})
}
