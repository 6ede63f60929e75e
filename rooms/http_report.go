package rooms

import (
	"context"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/platform/web"
)

// Report is what a user told the operators of a room, an event or another user. Exactly one of the three
// is the subject; a reported event comes with its room and sender.
type Report struct {
	ID       string `json:"id"`
	TS       int64  `json:"received_ts"` // ms
	Reporter string `json:"reporter"`
	RoomID   string `json:"room_id,omitempty"`
	EventID  string `json:"event_id,omitempty"`
	UserID   string `json:"user_id,omitempty"`
	Reason   string `json:"reason"`
}

type reportBody struct {
	Reason string `json:"reason"`
}

const maxReason = 4000 // bytes

func (r *Rooms) report(req *web.Request, reason string, about Report) (any, error) {
	if len(reason) > maxReason {
		return nil, matrix.InvalidParam("reason: expected at most 4000 bytes")
	}
	_, err := r.Process.DB.Exec(req.Context(), `INSERT INTO reports (report_id, created_ms, reporter, room_id, event_id, user_id, reason)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		r.Process.NewID(), obs.Now().UnixMilli(), req.UserID(), about.RoomID, about.EventID, about.UserID, strings.ReplaceAll(reason, nul, ""))
	return nil, err
}

// Reports lists what was reported, the newest first, from before a report's id ("" from the newest).
func (r *Rooms) Reports(ctx context.Context, before string, limit int) ([]Report, error) {
	query := "SELECT report_id, created_ms, reporter, room_id, event_id, user_id, reason FROM reports"
	args := []any{limit}
	if before != "" {
		query += " WHERE (created_ms, report_id) < (SELECT created_ms, report_id FROM reports WHERE report_id = $2)"
		args = append(args, before)
	}
	return db.List(func(row db.Row) (x Report, err error) {
		err = row.Scan(&x.ID, &x.TS, &x.Reporter, &x.RoomID, &x.EventID, &x.UserID, &x.Reason)
		return x, err
	})(r.Process.DB.Query(ctx, query+" ORDER BY created_ms DESC, report_id DESC LIMIT $1", args...))
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
