package media

import (
	"path"
	"strings"

	"lyceum/platform/web"
)

// getThumbnail is GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaID}.
func (m *Media) getThumbnail(r *web.Request) (any, error) {
	wanted, err := parseSize(r.Query())
	if err != nil {
		return nil, err
	}
	f, err := m.requestedFile(r)
	if err != nil {
		return nil, err
	}
	t, err := m.thumbnailOf(r.Context(), f, wanted.roundedUp(), r.LendPlace)
	if err != nil {
		return nil, err
	}
	return m.serve(r, content{
		key: t.Blob, etag: path.Base(t.Blob), size: t.Bytes, contentType: t.ContentType, done: "thumbnail",
		disposition: `inline; filename="thumbnail.` + strings.TrimPrefix(t.ContentType, "image/") + `"`,
	})
}
