package directory

import "lyceum/platform/web"

// Routes are the endpoints of the package.
func (d *Directory) Routes() []web.Route {
	const (
		role = "client"
		v3   = "/_matrix/client/v3"
	)
	return []web.Route{
		{Pattern: "GET " + v3 + "/publicRooms", Auth: web.None, Role: role, Limit: "public", Handler: d.getPublicRooms},
		{Pattern: "POST " + v3 + "/publicRooms", Auth: web.Guest, Role: role, Limit: "search", EmptyBody: true, Idempotent: true, Handler: web.JSON(d.postPublicRooms)},
		{Pattern: "GET " + v3 + "/directory/list/room/{roomID}", Auth: web.None, Role: role, Limit: "public", Handler: d.getVisibility},
		{Pattern: "PUT " + v3 + "/directory/list/room/{roomID}", Auth: web.User, Role: role, Limit: "write", EmptyBody: true, Handler: web.JSON(d.putVisibility)},
		{Pattern: "GET /_matrix/client/v1/rooms/{roomID}/hierarchy", Auth: web.User, Role: role, Limit: "search", Handler: d.getHierarchy},
		{Pattern: "POST " + v3 + "/user_directory/search", Auth: web.User, Role: role, Limit: "search", Idempotent: true, Handler: web.JSON(d.postUserSearch)},
		{Pattern: "POST " + v3 + "/search", Auth: web.User, Role: role, Limit: "search", Idempotent: true, Handler: web.JSON(d.postSearch)},
	}
}
