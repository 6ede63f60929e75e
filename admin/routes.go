package admin

import (
	"lyceum/platform/web"
	"lyceum/reports"
	"lyceum/ui"
)

const (
	adminRole = "admin"
	data      = "/_lyceum/admin/v1"
	synapse   = "/_synapse/admin/v1" // the same as at Synapse, so that its tools work here
)

// Routes are the endpoints of the package.
func (a *Admin) Routes() []web.Route {
	return []web.Route{
		{Pattern: "GET " + data + "/status", Auth: web.Admin, Role: adminRole, Key: web.KeyUser, Limit: "admin", Handler: a.getStatus},
		{Pattern: "GET " + data + "/plan", Auth: web.Admin, Role: adminRole, Key: web.KeyUser, Limit: "admin", Handler: a.getPlan},
		{Pattern: "GET " + data + "/doctor", Auth: web.Admin, Role: adminRole, Key: web.KeyUser, Limit: "admin", Handler: a.getDoctor},

		{Pattern: "GET " + synapse + "/event_reports", Auth: web.Admin, Role: adminRole, Limit: "admin", Handler: a.listReports(reports.AboutEvents, "event_reports")},
		{Pattern: "GET " + synapse + "/event_reports/{reportID}", Auth: web.Admin, Role: adminRole, Limit: "admin", Handler: a.getReport},
		{Pattern: "DELETE " + synapse + "/event_reports/{reportID}", Auth: web.Admin, Role: adminRole, Limit: "admin", Handler: a.deleteReport},
		{Pattern: "GET " + synapse + "/room_reports", Auth: web.Admin, Role: adminRole, Limit: "admin", Handler: a.listReports(reports.AboutRooms, "room_reports")},
		{Pattern: "GET " + synapse + "/user_reports", Auth: web.Admin, Role: adminRole, Limit: "admin", Handler: a.listReports(reports.AboutUsers, "user_reports")},

		{Pattern: "GET /_lyceum/status", Auth: web.None, Limit: "public", Handler: getPage},
		{Pattern: "GET " + ui.Base + "{file...}", Auth: web.None, Limit: "public", Handler: getAsset},
	}
}
