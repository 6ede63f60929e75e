package media

import (
	"time"

	"lyceum/platform/web"
)

// The roles of the routes. Processes of mediaRole serve all of them where the others have no process of their own.
const (
	mediaRole      = "media"
	uploadsRole    = "uploads"
	downloadsRole  = "downloads"
	thumbnailsRole = "thumbnails"
)

// uploadTime is how long a large file may take over a slow line.
const uploadTime = 10 * time.Minute

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
		{Pattern: "POST " + upload, Auth: web.User, Role: uploadsRole, Limit: "upload", Upload: int64(m.config.MaxUpload), Timeout: uploadTime, Handler: m.postUpload},
		{Pattern: "PUT " + upload + id, Auth: web.User, Role: uploadsRole, Limit: "upload", Upload: int64(m.config.MaxUpload), Timeout: uploadTime, Handler: m.putUpload},
		{Pattern: "POST /_matrix/media/v1/create", Auth: web.User, Role: mediaRole, Limit: "upload", EmptyBody: true, Handler: m.postCreate},

		{Pattern: "GET " + v1 + "/config", Auth: web.Guest, Role: mediaRole, Limit: "media", Handler: m.getConfig},
		{Pattern: "GET " + v1 + "/download" + id, Auth: web.Guest, Role: downloadsRole, Key: byID, Limit: "media", Handler: m.getDownload},
		{Pattern: "GET " + v1 + "/download" + id + "/{fileName}", Auth: web.Guest, Role: downloadsRole, Key: byID, Limit: "media", Handler: m.getDownload},
		{Pattern: "GET " + v1 + "/thumbnail" + id, Auth: web.Guest, Role: thumbnailsRole, Key: byID, Limit: "media", Handler: m.getThumbnail},

		{Pattern: "GET " + v3 + "/config", Auth: web.Guest, Role: mediaRole, Limit: "media", Handler: m.getConfig},
		{Pattern: "GET " + v3 + "/download" + id, Auth: m.deprecatedAuth(), Role: downloadsRole, Key: byID, Limit: "media", Handler: m.deprecated(m.getDownload)},
		{Pattern: "GET " + v3 + "/download" + id + "/{fileName}", Auth: m.deprecatedAuth(), Role: downloadsRole, Key: byID, Limit: "media", Handler: m.deprecated(m.getDownload)},
		{Pattern: "GET " + v3 + "/thumbnail" + id, Auth: m.deprecatedAuth(), Role: thumbnailsRole, Key: byID, Limit: "media", Handler: m.deprecated(m.getThumbnail)},
	}
}
