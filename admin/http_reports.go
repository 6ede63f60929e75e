package admin

import (
	"encoding/json"

	"lyceum/matrix"
	"lyceum/platform/web"
	"lyceum/reports"
)

// report is a report as the administration API of Synapse gives it; there the id is a number.
type report struct {
	ID       string `json:"id"`
	TS       int64  `json:"received_ts"` // ms
	Reporter string `json:"user_id"`
	RoomID   string `json:"room_id,omitempty"`
	EventID  string `json:"event_id,omitempty"`
	Sender   string `json:"sender,omitempty"`         // of the event
	Target   string `json:"target_user_id,omitempty"` // whom a report of a user is about
	Reason   string `json:"reason"`
	Score    *int   `json:"score"` // clients do not give one any more

	Event json.RawMessage `json:"event_json,omitempty"` // only of one report
}

func reportOf(r *reports.Report) report {
	out := report{ID: r.ID, TS: r.TS, Reporter: r.Reporter, RoomID: r.RoomID, EventID: r.EventID, Reason: r.Reason}
	if r.EventID != "" {
		out.Sender = r.UserID
	} else {
		out.Target = r.UserID
	}
	return out
}

const maxReports = 1000 // of a page

// listReports makes the handler that lists reports of a kind; name is that of the list.
func (a *Admin) listReports(about reports.Kind, name string) web.Handler {
	return func(r *web.Request) (any, error) {
		q := reports.Query{Kind: about, Reporter: r.QueryParam("user_id"), RoomID: r.QueryParam("room_id")}
		var err error
		if q.From, err = r.Int("from", 0, 1<<31-1); err != nil {
			return nil, err
		}
		if q.Limit, err = r.Int("limit", 100, maxReports); err != nil {
			return nil, err
		}
		switch r.QueryParam("dir") {
		case "", "b":
		case "f":
			q.OldestFirst = true
		default:
			return nil, matrix.InvalidParam("dir is b, the newest first, or f")
		}
		if q.From < 0 || q.Limit < 0 {
			return nil, matrix.InvalidParam("from and limit are not negative")
		}
		page, total, err := a.deps.Reports.Find(r.Context(), q)
		if err != nil {
			return nil, err
		}
		list := make([]report, len(page))
		for i := range page {
			list[i] = reportOf(&page[i])
		}
		body := map[string]any{name: list, "total": total}
		if next := q.From + len(list); next < total && len(list) > 0 {
			body["next_token"] = next
		}
		return &web.Reply{Header: noStore, Value: body}, nil
	}
}

func (a *Admin) getReport(r *web.Request) (any, error) {
	found, err := a.deps.Reports.Report(r.Context(), r.Path("reportID"))
	if err != nil {
		return nil, err
	}
	if found == nil {
		return nil, matrix.NotFound("There is no such report")
	}
	out := reportOf(found)
	if found.EventID != "" {
		e, err := a.deps.Rooms.Event(r.Context(), found.EventID)
		if err != nil {
			return nil, err
		}
		if e != nil {
			out.Event = e.ClientJSON()
		}
	}
	return &web.Reply{Header: noStore, Value: out}, nil
}

func (a *Admin) deleteReport(r *web.Request) (any, error) {
	removed, err := a.deps.Reports.Delete(r.Context(), r.Path("reportID"))
	if err == nil && !removed {
		err = matrix.NotFound("There is no such report")
	}
	return nil, err
}
