package reports

import "lyceum/platform/web"

const (
	clientRole = "client"
	v3         = "/_matrix/client/v3"
)

// Routes are the endpoints of the package.
func (r *Reports) Routes() []web.Route {
	return []web.Route{
		{Pattern: "POST " + v3 + "/rooms/{roomID}/report", Auth: web.User, Role: clientRole, Limit: "report", Handler: web.JSON(r.postRoom)},
		{Pattern: "POST " + v3 + "/rooms/{roomID}/report/{eventID}", Auth: web.User, Role: clientRole, Limit: "report", EmptyBody: true, Handler: web.JSON(r.postEvent)},
		{Pattern: "POST " + v3 + "/users/{userID}/report", Auth: web.User, Role: clientRole, Limit: "report", Handler: web.JSON(r.postUser)},
	}
}
