package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"lyceum/matrix"
	"lyceum/platform/blob"
	"lyceum/platform/bus"
	"lyceum/platform/web"
)

const (
	mediaPrefix     = "media/"
	thumbnailPrefix = "thumbnails/"
	unknownType     = "application/octet-stream"
	maxNameBytes    = 255
)

func (m *Media) getConfig(*web.Request) (any, error) {
	return map[string]int64{"m.upload.size": m.config.MaxUpload.Bytes()}, nil
}

// postUpload is POST /_matrix/media/v3/upload.
func (m *Media) postUpload(r *web.Request) (any, error) {
	if err := r.MayAct(); err != nil {
		return nil, err
	}
	f, err := m.receive(r, func() error { return nil })
	if err != nil {
		return nil, err
	}
	f.MediaID = m.process.NewID()
	if err := m.insertMedia(r.Context(), f); err != nil {
		return nil, err
	}
	return map[string]string{"content_uri": matrix.NewMXC(m.server, f.MediaID)}, nil
}

// postCreate is POST /_matrix/media/v1/create.
func (m *Media) postCreate(r *web.Request) (any, error) {
	if err := r.MayAct(); err != nil {
		return nil, err
	}
	now := m.nowMs()
	f := &file{
		MediaID: m.process.NewID(), UserID: r.UserID(), CreatedMs: now,
		ExpiresMs: now + m.config.PendingLife.D().Milliseconds(),
	}
	made, next, err := m.insertPending(r.Context(), f, m.config.MaxPending)
	if err != nil {
		return nil, err
	}
	if !made {
		return nil, matrix.LimitExceeded(time.Duration(max(next-now, 1000)) * time.Millisecond)
	}
	return map[string]any{"content_uri": matrix.NewMXC(m.server, f.MediaID), "unused_expires_at": f.ExpiresMs}, nil
}

// putUpload is PUT /_matrix/media/v3/upload/{serverName}/{mediaID}.
func (m *Media) putUpload(r *web.Request) (any, error) {
	if err := r.MayAct(); err != nil {
		return nil, err
	}
	ctx, mediaID := r.Context(), r.Path("mediaID")
	if err := m.mayComplete(r, mediaID); err != nil {
		return nil, err
	}
	done := func() {}
	defer func() { done() }()
	f, err := m.receive(r, func() (err error) { // uploads of one id run one after the other, so that a late one is not stored
		if done, err = m.uploads.lock(ctx, mediaID); err != nil {
			return err
		}
		return m.mayComplete(r, mediaID)
	})
	if err != nil {
		return nil, err
	}
	f.MediaID = mediaID
	if err := m.completePending(ctx, f); err != nil {
		return nil, err
	}
	m.waiters.wake(f.MediaID)
	note := bus.Message{Topic: uploadedTopic, Data: []byte(f.MediaID)}
	if err := m.process.Bus.Publish(context.WithoutCancel(ctx), note); err != nil {
		m.log.DebugContext(ctx, "those who wait for an upload will find it later", "error", err)
	}
	return nil, nil
}

// mayComplete returns an error when the user may not, or not any more, upload the file of a media id.
func (m *Media) mayComplete(r *web.Request, mediaID string) error {
	f, err := m.findMedia(r.Context(), r.Path("serverName"), mediaID)
	switch {
	case err != nil:
		return err
	case f.UserID != r.UserID():
		return matrix.Forbidden("The media id belongs to another user")
	case f.SHA256 != "":
		return matrix.CannotOverwriteMedia()
	}
	return nil
}

// receive stores the body of a request and describes it. It calls beforeStored when the body has arrived; an error of it means that
// nothing is stored.
func (m *Media) receive(r *web.Request, beforeStored func() error) (*file, error) {
	limit := m.config.MaxUpload.Bytes()
	if r.ContentLength > limit {
		r.Writer().Header().Set("Connection", "close")
		return nil, tooLarge(limit)
	}
	body := &uploadReader{
		body: r.Body, idle: m.config.UploadIdle.D(), now: m.now,
		control: http.NewResponseController(r.Writer()),
		beforeEnd: func() error {
			if err := recheck(r); err != nil {
				return err
			}
			return beforeStored()
		},
	}
	sum, size, err := blob.PutContent(r.Context(), m.blob, mediaPrefix, body, limit)
	if err != nil {
		r.Writer().Header().Set("Connection", "close")
		switch {
		case body.refused != nil:
			return nil, body.refused
		case errors.Is(err, blob.ErrTooLarge):
			return nil, tooLarge(limit)
		case body.err != nil:
			return nil, matrix.NewError(http.StatusBadRequest, matrix.CodeUnknown, "The file could not be read to its end: send it again").With(err)
		case r.Context().Err() != nil:
			return nil, err
		case errors.Is(err, blob.ErrFull):
			m.log.ErrorContext(r.Context(), "an upload was refused, because the disk for it is full", "error", err)
			return nil, matrix.NewError(http.StatusInsufficientStorage, matrix.CodeUnknown, "The server has no room for files at the moment: "+
				"try again later").
				With(err)
		}
		m.log.ErrorContext(r.Context(), "an upload could not be stored", "error", err)
		return nil, matrix.Unavailable("The file could not be stored: try again").With(err)
	}
	body.done()
	if err := recheck(r); err != nil { // the store may have been slow
		return nil, err
	}
	m.metrics.count("uploaded", size)
	now := m.nowMs()
	return &file{
		UserID: r.UserID(), UploadName: cleanName(r.QueryParam("filename")), ContentType: cleanType(r.Header.Get("Content-Type")),
		Size: size, SHA256: sum, CreatedMs: now, UploadedMs: now,
	}, nil
}

// recheck checks the access of a slow request again, and that its user may act.
func recheck(r *web.Request) error {
	if err := r.RecheckAccess(); err != nil {
		return err
	}
	return r.MayAct()
}

func tooLarge(limit int64) error {
	return matrix.TooLarge(fmt.Sprintf("The file is larger than %d bytes", limit))
}

// uploadReader refuses a client that sends nothing for a while, and at the end one that may not upload any more. It keeps
// these errors apart from those of the store.
type uploadReader struct {
	body      io.Reader
	control   *http.ResponseController
	idle      time.Duration
	now       func() time.Time
	timed     time.Time // when the deadline was last moved
	beforeEnd func() error
	checked   bool
	refused   error
	err       error
}

func (u *uploadReader) Read(p []byte) (int, error) {
	// The deadline moves once a second, not with each packet.
	if now := u.now(); now.Sub(u.timed) > time.Second {
		_ = u.control.SetReadDeadline(now.Add(u.idle)) // a connection without deadlines has none to move
		u.timed = now
	}
	n, err := u.body.Read(p)
	switch {
	case err == io.EOF:
		if !u.checked {
			u.checked, u.refused = true, u.beforeEnd()
		}
		if u.refused != nil {
			return n, u.refused
		}
	case err != nil && err != io.EOF:
		u.err = err
	}
	return n, err
}

// done lifts the deadline: net/http goes on reading to notice a client that goes away.
func (u *uploadReader) done() { _ = u.control.SetReadDeadline(time.Time{}) }

// cleanName makes a name that is safe in a header and in a file system.
func cleanName(name string) string {
	name = strings.Map(func(c rune) rune {
		switch {
		case c == '/' || c == '\\':
			return '_'
		case c == utf8.RuneError || unicode.IsControl(c) || unicode.In(c, unicode.Cf):
			return -1 // invisible ones too: they can turn the end of a name around
		}
		return c
	}, name)
	for len(name) > maxNameBytes {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return strings.TrimSpace(name)
}

// cleanType keeps a media type that is well formed, with its parameters.
func cleanType(text string) string {
	kind, parameters, err := mime.ParseMediaType(text)
	if err != nil || len(text) > maxNameBytes || !strings.Contains(kind, "/") {
		return unknownType
	}
	if text = mime.FormatMediaType(kind, parameters); text == "" {
		return unknownType
	}
	return text
}
