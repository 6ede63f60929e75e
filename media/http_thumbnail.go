package media

import (
	"net/http"
	"path"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/web"
)

// getThumbnail is GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaID}.
func (m *Media) getThumbnail(r *web.Request) (any, error) {
	wanted, err := parseSize(r.Query())
	if err != nil {
		return nil, err
	}
	f, err := m.requested(r)
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

// The reasons why there is no thumbnail, as they stand in the database.
const (
	failUnsupported = "unsupported"
	failBroken      = "broken"
	failTooLarge    = "too_large"
	failCrashed     = "crashed" // or ran into a limit of its process
)

// failureAnswer is what the specification says for these.
func failureAnswer(reason string) error {
	if reason == failTooLarge {
		return matrix.TooLarge("The content is too large to thumbnail")
	}
	return matrix.NewError(http.StatusBadRequest, matrix.CodeUnknown, "No thumbnail can be made of this content")
}
