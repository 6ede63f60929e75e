package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"lyceum/matrix"
	"lyceum/platform/blob"
	"lyceum/platform/web"
)

// deprecated closes a deprecated endpoint to requests without a token, unless the configuration opens it: media uploaded after the
// freeze is M_NOT_FOUND there (Client-Server API, content repository, "Client behaviour"). What comes with a token is
// authenticated as under the new path, and served: old clients send it.
func (m *Media) deprecated(handler web.Handler) web.Handler {
	return func(r *web.Request) (any, error) {
		if !m.config.AllowUnauthenticated && r.Identity == nil {
			return nil, matrix.NotFound("Media is served with authentication only: ask /_matrix/client/v1/media")
		}
		return handler(r)
	}
}

// deprecatedAuth is who may call a deprecated endpoint. Where no token is needed, an invalid one is ignored.
func (m *Media) deprecatedAuth() web.Auth {
	if m.config.AllowUnauthenticated {
		return web.None
	}
	return web.Optional
}

// getDownload is GET /_matrix/client/v1/media/download/{serverName}/{mediaID}[/{fileName}].
func (m *Media) getDownload(r *web.Request) (any, error) {
	f, err := m.requestedFile(r)
	if err != nil {
		return nil, err
	}
	name := f.UploadName
	if given := r.Path("fileName"); given != "" {
		name = cleanName(given)
	}
	return m.serve(r, content{
		key: f.key(), etag: f.SHA256, size: f.Size, contentType: f.ContentType, done: "downloaded",
		disposition: disposition(f.ContentType, name),
	})
}

// requestedFile finds the file of a request and waits for it when it is not uploaded yet.
func (m *Media) requestedFile(r *web.Request) (*file, error) {
	wait, err := r.Int("timeout_ms", 20_000, int(m.config.MaxWait.D().Milliseconds()))
	if err != nil {
		return nil, err
	}
	o := waitOptions{time.Duration(wait) * time.Millisecond, r.Draining(), r.Waits, r.RecheckAccess}
	return m.await(r.Context(), r.Path("serverName"), r.Path("mediaID"), o)
}

// content is what an answer carries.
type content struct {
	key         string // of the blob
	etag        string
	size        int64
	contentType string
	disposition string
	done        string // for the metrics
}

// policy is what the specification recommends ("Content repository"), so that a file opened in a browser
// can do nothing.
const policy = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';"

// serve answers with a blob: the whole, a range, or that the client has it already.
func (m *Media) serve(r *web.Request, c content) (any, error) {
	if target, err := m.redirect(r, c); err != nil || target != nil {
		return target, err
	}
	header := http.Header{
		"Content-Type":                 {c.contentType},
		"Content-Disposition":          {c.disposition},
		"Content-Security-Policy":      {policy},
		"Cross-Origin-Resource-Policy": {"cross-origin"},
		"X-Content-Type-Options":       {"nosniff"},
		"Cache-Control":                {"private, max-age=86400"},
		"Accept-Ranges":                {"bytes"},
		"Etag":                         {`"` + c.etag + `"`},
	}
	if r.Method != http.MethodGet || conditional(r.Header) {
		return m.servePart(r, c, header), nil
	}
	body, err := m.open(r.Context(), c.key, 0)
	if err != nil {
		return nil, err
	}
	header.Set("Content-Length", strconv.FormatInt(c.size, 10))
	return &web.Stream{Header: header, Close: func() { body.Close() }, Write: func(w io.Writer) error {
		n, err := io.Copy(w, body)
		m.metrics.count(c.done, n)
		if err == nil && n != c.size {
			err = fmt.Errorf("blob %s: expected %d bytes, found %d", c.key, c.size, n)
		}
		return err
	}}, nil
}

func conditional(h http.Header) bool {
	for _, name := range [...]string{"Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if h[name] != nil {
			return true
		}
	}
	return false
}

// servePart leaves ranges and conditions (RFC 9110, 13 and 14) to net/http.
func (m *Media) servePart(r *web.Request, c content, header http.Header) *web.Takeover {
	return &web.Takeover{Serve: func(w http.ResponseWriter, r *http.Request) {
		for name, values := range header {
			w.Header()[name] = values
		}
		if given := r.Header["Range"]; given != nil {
			r.Header.Set("Range", plainRange(given[0], c.size))
		}
		body := &lazyBlob{ctx: r.Context(), media: m, content: c}
		defer body.close()
		http.ServeContent(w, r, "", time.Time{}, body)
		m.metrics.count(c.done, body.sent)
		if body.err != nil {
			m.log.ErrorContext(r.Context(), "a blob could not be read", "key", c.key, "error", body.err)
			panic(http.ErrAbortHandler) // the answer has begun: cutting it is the only way to say that it is broken
		}
	}}
}

// plainRange writes a Range (RFC 9110, 14.1.2) so that net/http answers it as it should: a number that it can not
// hold is only a very large one, and the last 0 bytes are a range behind the end.
func plainRange(given string, size int64) string {
	specs, ok := strings.CutPrefix(given, "bytes=")
	if !ok {
		return given
	}
	list := strings.Split(specs, ",")
	for i, spec := range list {
		first, last, ok := strings.Cut(spec, "-")
		if !ok {
			continue
		}
		first, last = saturated(first), saturated(last)
		if first == "" && last != "" && strings.Trim(last, "0") == "" {
			first, last = strconv.FormatInt(size, 10), ""
		}
		list[i] = first + "-" + last
	}
	return "bytes=" + strings.Join(list, ",")
}

// saturated replaces a number with too many digits by the largest one that net/http reads. Other texts are returned as they are.
func saturated(number string) string {
	number = strings.Trim(number, " \t")
	if _, err := strconv.ParseInt(number, 10, 64); errors.Is(err, strconv.ErrRange) && number[0] != '-' {
		return strconv.FormatInt(math.MaxInt64, 10)
	}
	return number
}

// redirect sends the client to the store, where all sides allow it.
func (m *Media) redirect(r *web.Request, c content) (any, error) {
	if !m.config.AllowRedirect {
		return nil, nil
	}
	if allowed, err := r.Bool("allow_redirect", false); err != nil || !allowed {
		return nil, err
	}
	target, err := m.blob.Presign(r.Context(), c.key, m.config.RedirectLife.D())
	if errors.Is(err, blob.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m.metrics.count("redirected", c.size)
	return &web.Raw{Status: http.StatusTemporaryRedirect, Header: http.Header{
		"Location": {target}, "Cache-Control": {"no-store"}, "Cross-Origin-Resource-Policy": {"cross-origin"},
	}}, nil
}

// open reads a blob from offset to its end. A blob that is gone though its row is there is M_NOT_FOUND.
func (m *Media) open(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	body, err := m.blob.Get(ctx, key, offset, -1)
	if errors.Is(err, blob.ErrNotFound) {
		m.log.ErrorContext(ctx, "a file is in the database and not in the blob store", "key", key)
		return nil, noMedia()
	}
	return body, err
}

// lazyBlob reads from where it was last told to, and opens the blob only when it is read.
type lazyBlob struct {
	ctx     context.Context
	media   *Media
	content content
	at      int64
	body    io.ReadCloser
	sent    int64
	err     error
}

// Seek implements io.Seeker.
func (l *lazyBlob) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += l.at
	case io.SeekEnd:
		offset += l.content.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek: expected an offset from 0, found %d", offset)
	}
	if offset != l.at {
		l.close()
		l.at = offset
	}
	return offset, nil
}

// Read implements io.Reader.
func (l *lazyBlob) Read(p []byte) (int, error) {
	if l.body == nil {
		body, err := l.media.open(l.ctx, l.content.key, l.at)
		if err != nil {
			l.err = err
			return 0, err
		}
		l.body = body
	}
	n, err := l.body.Read(p)
	l.at += int64(n)
	l.sent += int64(n)
	if err == io.EOF && l.at < l.content.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF {
		l.err = err
	}
	return n, err
}

func (l *lazyBlob) close() {
	if l.body != nil {
		l.body.Close()
		l.body = nil
	}
}

// inlineTypes may be shown in the browser ("Serving inline content"); all else is saved to a file.
var inlineTypes = map[string]bool{
	"text/css": true, "text/plain": true, "text/csv": true, "application/json": true, "application/ld+json": true,
	"image/jpeg": true, "image/gif": true, "image/png": true, "image/apng": true, "image/webp": true, "image/avif": true,
	"video/mp4": true, "video/webm": true, "video/ogg": true, "video/quicktime": true,
	"audio/mp4": true, "audio/webm": true, "audio/aac": true, "audio/mpeg": true, "audio/ogg": true, "audio/wave": true,
	"audio/wav": true, "audio/x-wav": true, "audio/x-pn-wav": true, "audio/flac": true, "audio/x-flac": true,
}

// disposition makes the value of Content-Disposition (RFC 6266).
func disposition(contentType, name string) string {
	kind := "attachment"
	if base, _, _ := strings.Cut(contentType, ";"); inlineTypes[strings.ToLower(strings.TrimSpace(base))] {
		kind = "inline"
	}
	if name == "" {
		return kind
	}
	if value := mime.FormatMediaType(kind, map[string]string{"filename": name}); value != "" {
		return value
	}
	return kind
}
