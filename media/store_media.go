package media

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/role"
)

// file is a row of media. SHA256 is "" until the content is there.
type file struct {
	MediaID, UserID, UploadName, ContentType string
	Size                                     int64 // bytes
	SHA256                                   string
	CreatedMs, UploadedMs, ExpiresMs         int64
}

func (f *file) key() string { return mediaPrefix + f.SHA256 }

// lateUploads is how long after its expiry a media id is kept for an upload that began in time.
const lateUploads = time.Hour

// insertMedia adds a file. A client that gets no answer uploads it again, under another id.
func (m *Media) insertMedia(ctx context.Context, f *file) error {
	return m.db.Settle(ctx, func(tx *db.Tx) error { return insertFile(ctx, tx, f) }, f.stored)
}

// stored tells whether the row is there.
func (f *file) stored(ctx context.Context, q db.Querier) (there bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM media WHERE media_id = $1)`, f.MediaID).Scan(&there)
	return there, err
}

func insertFile(ctx context.Context, q db.Querier, f *file) error {
	_, err := q.Exec(ctx, `INSERT INTO media (media_id, user_id, upload_name, content_type, size, sha256, created_ms, uploaded_ms, expires_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		f.MediaID, f.UserID, f.UploadName, f.ContentType, f.Size, f.SHA256, f.CreatedMs, f.UploadedMs, f.ExpiresMs)
	return err
}

// insertPending adds a media id without content, unless its user has max of them. Then next is the time at
// which the first of these expires.
func (m *Media) insertPending(ctx context.Context, f *file, max int) (made bool, next int64, err error) {
	err = m.db.Settle(ctx, func(tx *db.Tx) error {
		made = false
		var pending int
		err := tx.QueryRow(ctx, `SELECT COUNT(*), COALESCE(MIN(expires_ms), 0) FROM media
			WHERE user_id = $1 AND sha256 = '' AND expires_ms > $2`, f.UserID, f.CreatedMs).Scan(&pending, &next)
		if err != nil || pending >= max {
			return err
		}
		made = true
		return insertFile(ctx, tx, f)
	}, f.stored)
	return made, next, err
}

// completePending gives a media id its content, once.
func (m *Media) completePending(ctx context.Context, f *file) error {
	n, err := m.db.Exec(ctx, `UPDATE media SET upload_name = $2, content_type = $3, size = $4, sha256 = $5, uploaded_ms = $6, expires_ms = 0
		WHERE media_id = $1 AND sha256 = ''`, f.MediaID, f.UploadName, f.ContentType, f.Size, f.SHA256, f.UploadedMs)
	if err != nil || n == 1 {
		return err
	}
	if _, err := m.findMedia(ctx, m.server, f.MediaID); err != nil {
		return err
	}
	return matrix.CannotOverwriteMedia()
}

// findMedia finds a file of this server. Unknown and expired ids, and those of other servers, are M_NOT_FOUND.
func (m *Media) findMedia(ctx context.Context, server, mediaID string) (*file, error) {
	if server != m.server || !matrix.ValidMediaID(mediaID) {
		return nil, noMedia()
	}
	f := &file{MediaID: mediaID}
	err := m.db.QueryRow(ctx, `SELECT user_id, upload_name, content_type, size, sha256, created_ms, uploaded_ms, expires_ms
		FROM media WHERE media_id = $1`, mediaID).
		Scan(&f.UserID, &f.UploadName, &f.ContentType, &f.Size, &f.SHA256, &f.CreatedMs, &f.UploadedMs, &f.ExpiresMs)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, noMedia()
	}
	if err != nil {
		return nil, err
	}
	if f.SHA256 == "" && f.ExpiresMs <= m.nowMs() {
		return nil, noMedia()
	}
	return f, nil
}

func noMedia() error { return matrix.NotFound("There is no such media") }

func (m *Media) removeExpired(ctx context.Context, job *role.Job) error {
	return job.Exec(ctx, "DELETE FROM media WHERE sha256 = '' AND expires_ms < $1", m.nowMs()-lateUploads.Milliseconds())
}

// thumbnail is a row of thumbnails: what was made of the content with SHA256 in a size.
type thumbnail struct {
	SHA256      string
	Size        size
	Blob        string // key of the picture, which may be the content itself
	ContentType string
	Bytes       int64
	Failure     string // why there is none; "" when there is one
	CreatedMs   int64
}

func (m *Media) readThumbnail(ctx context.Context, sha256 string, s size) (*thumbnail, error) {
	t := &thumbnail{SHA256: sha256, Size: s}
	err := m.db.QueryRow(ctx, `SELECT blob, content_type, size, failure, created_ms FROM thumbnails
		WHERE sha256 = $1 AND width = $2 AND height = $3 AND method = $4 AND animated = $5`,
		sha256, s.Width, s.Height, s.method(), s.Animated).
		Scan(&t.Blob, &t.ContentType, &t.Bytes, &t.Failure, &t.CreatedMs)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// writeThumbnail keeps what another process made first, and replaces an earlier failure.
func (m *Media) writeThumbnail(ctx context.Context, t *thumbnail) error {
	_, err := m.db.Exec(ctx, `INSERT INTO thumbnails (sha256, width, height, method, animated, blob, content_type, size, failure, created_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (sha256, width, height, method, animated) DO UPDATE SET blob = excluded.blob, content_type = excluded.content_type,
			size = excluded.size, failure = excluded.failure, created_ms = excluded.created_ms
		WHERE thumbnails.failure <> ''`,
		t.SHA256, t.Size.Width, t.Size.Height, t.Size.method(), t.Size.Animated, t.Blob, t.ContentType, t.Bytes, t.Failure, t.CreatedMs)
	return err
}
