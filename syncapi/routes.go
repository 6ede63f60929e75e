package syncapi

import (
	"time"

	"lyceum/platform/web"
)

// Routes is the HTTP surface of the package.
func (s *Sync) Routes() []web.Route {
	return []web.Route{
		{
			Pattern: "GET /_matrix/client/v3/sync", Auth: web.Guest, Role: "sync", Key: web.KeyUser, Limit: "sync",
			Timeout: time.Duration(s.config.MaxTimeout)*time.Second + web.DefaultTimeout, Handler: s.getSync,
		},
	}
}
