package reports

import (
	"context"
	"errors"
	"time"

	"lyceum/accounts"
	"lyceum/platform/db"
	"lyceum/platform/role"
	"lyceum/rooms"
)

// Deps is what the package is given.
type Deps struct {
	Process  *role.Process
	Accounts *accounts.Accounts
	Rooms    *rooms.Rooms
	Now      func() time.Time // the clock
}

// Reports is the package's one object.
type Reports struct{ Deps }

// New makes the object of a process.
func New(d Deps) *Reports { return &Reports{d} }

// Report is what a user told the administrators about a room, an event or another user. Exactly one of the three is the subject;
// a report of an event also names its room and, as UserID, its sender.
type Report struct {
	ID       string `json:"id"`
	TS       int64  `json:"received_ts"` // ms
	Reporter string `json:"reporter"`
	RoomID   string `json:"room_id,omitempty"`
	EventID  string `json:"event_id,omitempty"`
	UserID   string `json:"user_id,omitempty"`
	Reason   string `json:"reason"`
}

// Kind says what a report is about.
type Kind int

// The kinds of reports.
const (
	AboutEvents Kind = iota
	AboutRooms
	AboutUsers
)

// ofKind are the conditions on a row of the table reports, by kind.
var ofKind = [...]string{
	AboutEvents: "event_id <> ''",
	AboutRooms:  "event_id = '' AND room_id <> ''",
	AboutUsers:  "event_id = '' AND room_id = ''",
}

// Query asks for a page of reports, the newest first.
type Query struct {
	Kind             Kind
	Reporter, RoomID string // "" for all
	From, Limit      int    // how many reports are skipped, and how many the page has at most
	OldestFirst      bool
}

const (
	selectReports = "SELECT report_id, created_ms, reporter, room_id, event_id, user_id, reason FROM reports "
	ofPage        = " AND ($1 = '' OR reporter = $1) AND ($2 = '' OR room_id = $2)"
)

func scan(row db.Row) (x Report, err error) {
	err = row.Scan(&x.ID, &x.TS, &x.Reporter, &x.RoomID, &x.EventID, &x.UserID, &x.Reason)
	return x, err
}

// add stores a report; its ID and TS are made here.
func (r *Reports) add(ctx context.Context, x Report) error {
	_, err := r.Process.DB.Exec(ctx, `INSERT INTO reports (report_id, created_ms, reporter, room_id, event_id, user_id, reason)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		r.Process.NewID(), r.Now().UnixMilli(), x.Reporter, x.RoomID, x.EventID, x.UserID, x.Reason)
	return err
}

// Find returns a page of reports, and how many reports there are on all pages.
func (r *Reports) Find(ctx context.Context, q Query) (page []Report, total int, err error) {
	where := "WHERE " + ofKind[q.Kind] + ofPage
	err = r.Process.DB.QueryRow(ctx, "SELECT COUNT(*) FROM reports "+where, q.Reporter, q.RoomID).Scan(&total)
	if err != nil {
		return nil, 0, err
	}
	order := " ORDER BY created_ms DESC, report_id DESC"
	if q.OldestFirst {
		order = " ORDER BY created_ms, report_id"
	}
	page, err = db.List(scan)(r.Process.DB.Query(ctx, selectReports+where+order+" LIMIT $3 OFFSET $4",
		q.Reporter, q.RoomID, q.Limit, q.From))
	return page, total, err
}

// Report returns the report with an id; nil when there is none.
func (r *Reports) Report(ctx context.Context, id string) (*Report, error) {
	x, err := scan(r.Process.DB.QueryRow(ctx, selectReports+"WHERE report_id = $1", id))
	if errors.Is(err, db.ErrNoRows) {
		return nil, nil
	}
	return &x, err
}

// Delete removes a report; removed says that it was there.
func (r *Reports) Delete(ctx context.Context, id string) (removed bool, err error) {
	n, err := r.Process.DB.Exec(ctx, "DELETE FROM reports WHERE report_id = $1", id)
	return n > 0, err
}

// List returns reports of all kinds, the newest first, from the one before a report's id; "" begins with the newest.
func (r *Reports) List(ctx context.Context, before string, limit int) ([]Report, error) {
	query := selectReports
	args := []any{limit}
	if before != "" {
		query += "WHERE (created_ms, report_id) < (SELECT created_ms, report_id FROM reports WHERE report_id = $2)"
		args = append(args, before)
	}
	return db.List(scan)(r.Process.DB.Query(ctx, query+" ORDER BY created_ms DESC, report_id DESC LIMIT $1", args...))
}
