package rooms

import (
	"context"
	"errors"

	"lyceum/platform/db"
	"lyceum/platform/obs"
)

// ReportKind is the kind the kinds of reports.
type ReportKind string

// The kinds of reports.
const (
	AboutEvents ReportKind = "event_id <> ''"
	AboutRooms  ReportKind = "event_id = '' AND room_id <> ''"
	AboutUsers  ReportKind = "event_id = '' AND room_id = ''"
)

// ReportQuery asks for a page of reports, the newest first.
type ReportQuery struct {
	Kind             ReportKind
	Reporter, RoomID string // "" for all
	From, Limit      int    // reports that are passed over, and that are given
	OldestFirst      bool
}

const (
	reportColumns = "SELECT report_id, created_ms, reporter, room_id, event_id, user_id, reason FROM reports "
	ofPage        = " AND ($1 = '' OR reporter = $1) AND ($2 = '' OR room_id = $2)"
)

func scanReport(row db.Row) (x Report, err error) {
	err = row.Scan(&x.ID, &x.TS, &x.Reporter, &x.RoomID, &x.EventID, &x.UserID, &x.Reason)
	return x, err
}

// addReport stores a report, all of it but ID and TS.
func (r *Rooms) addReport(ctx context.Context, x Report) error {
	_, err := r.Process.DB.Exec(ctx, `INSERT INTO reports (report_id, created_ms, reporter, room_id, event_id, user_id, reason)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		r.Process.NewID(), obs.Now().UnixMilli(), x.Reporter, x.RoomID, x.EventID, x.UserID, x.Reason)
	return err
}

// FindReports gives a page of reports, and how many there are in all.
func (r *Rooms) FindReports(ctx context.Context, q ReportQuery) (page []Report, total int, err error) {
	where := "WHERE " + string(q.Kind) + ofPage
	err = r.Process.DB.QueryRow(ctx, "SELECT COUNT(*) FROM reports "+where, q.Reporter, q.RoomID).Scan(&total)
	if err != nil {
		return nil, 0, err
	}
	order := " ORDER BY created_ms DESC, report_id DESC"
	if q.OldestFirst {
		order = " ORDER BY created_ms, report_id"
	}
	page, err = db.List(scanReport)(r.Process.DB.Query(ctx, reportColumns+where+order+" LIMIT $3 OFFSET $4", q.Reporter, q.RoomID, q.Limit, q.From))
	return page, total, err
}

// Report gives one report, nil when there is none of the id.
func (r *Rooms) Report(ctx context.Context, id string) (*Report, error) {
	x, err := scanReport(r.Process.DB.QueryRow(ctx, reportColumns+"WHERE report_id = $1", id))
	if errors.Is(err, db.ErrNoRows) {
		return nil, nil
	}
	return &x, err
}

// DeleteReport removes a report; removed tells that it was there.
func (r *Rooms) DeleteReport(ctx context.Context, id string) (removed bool, err error) {
	n, err := r.Process.DB.Exec(ctx, "DELETE FROM reports WHERE report_id = $1", id)
	return n > 0, err
}

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

// Reports lists what was reported, the newest first, from before a report's id ("" from the newest).
func (r *Rooms) Reports(ctx context.Context, before string, limit int) ([]Report, error) {
	query := reportColumns
	args := []any{limit}
	if before != "" {
		query += "WHERE (created_ms, report_id) < (SELECT created_ms, report_id FROM reports WHERE report_id = $2)"
		args = append(args, before)
	}
	return db.List(scanReport)(r.Process.DB.Query(ctx, query+" ORDER BY created_ms DESC, report_id DESC LIMIT $1", args...))
}
