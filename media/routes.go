package media

import "lyceum/platform/web"

// mediaRole is the role of all routes.
const mediaRole = "media"

// Routes are the endpoints of the package.
func (m *Media) Routes() []web.Route {
	const (
		upload = "/_matrix/media/v3/upload"
		v1     = "/_matrix/client/v1/media"
		v3     = "/_matrix/media/v3" // deprecated by Matrix 1.11
		id     = "/{serverName}/{mediaID}"
	)
	byID := web.KeyPath("mediaID")
	return []web.Route{
		{Pattern: "POST " + upload, Auth: web.User, Role: mediaRole, Limit: "upload", Handler: m.postUpload},
		{Pattern: "PUT " + upload + id, Auth: web.User, Role: mediaRole, Limit: "upload", Handler: m.putUpload},
		{Pattern: "POST /_matrix/media/v1/create", Auth: web.User, Role: mediaRole, Limit: "upload", EmptyBody: true, Handler: m.postCreate},

		{Pattern: "GET " + v1 + "/config", Auth: web.Guest, Role: mediaRole, Limit: "media", Handler: m.getConfig},
		{Pattern: "GET " + v1 + "/download" + id, Auth: web.Guest, Role: mediaRole, Key: byID, Limit: "media", Handler: m.getDownload},
		{Pattern: "GET " + v1 + "/download" + id + "/{fileName}", Auth: web.Guest, Role: mediaRole, Key: byID, Limit: "media", Handler: m.getDownload},
		{Pattern: "GET " + v1 + "/thumbnail" + id, Auth: web.Guest, Role: mediaRole, Key: byID, Limit: "media", Handler: m.getThumbnail},

		{Pattern: "GET " + v3 + "/config", Auth: web.Guest, Role: mediaRole, Limit: "media", Handler: m.getConfig},
		{Pattern: "GET " + v3 + "/download" + id, Auth: web.None, Role: mediaRole, Key: byID, Limit: "media", Handler: m.frozen(m.getDownload)},
		{Pattern: "GET " + v3 + "/download" + id + "/{fileName}", Auth: web.None, Role: mediaRole, Key: byID, Limit: "media", Handler: m.frozen(m.getDownload)},
		{Pattern: "GET " + v3 + "/thumbnail" + id, Auth: web.None, Role: mediaRole, Key: byID, Limit: "media", Handler: m.frozen(m.getThumbnail)},
	}
}
