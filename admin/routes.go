package admin

import (
	"lyceum/platform/web"
	"lyceum/ui"
)

const (
	adminRole = "admin"
	data      = "/_lyceum/admin/v1"
)

// Routes are the endpoints of the package.
func (a *Admin) Routes() []web.Route {
	return []web.Route{
		{Pattern: "GET " + data + "/status", Auth: web.Admin, Role: adminRole, Key: web.KeyUser, Limit: "admin", Handler: a.getStatus},
		{Pattern: "GET " + data + "/plan", Auth: web.Admin, Role: adminRole, Key: web.KeyUser, Limit: "admin", Handler: a.getPlan},
		{Pattern: "GET " + data + "/doctor", Auth: web.Admin, Role: adminRole, Key: web.KeyUser, Limit: "admin", Handler: a.getDoctor},

		{Pattern: "GET /_lyceum/status", Auth: web.None, Limit: "public", Handler: getPage},
		{Pattern: "GET " + ui.Base + "{file...}", Auth: web.None, Limit: "public", Handler: getAsset},
	}
}
