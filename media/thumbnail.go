package media

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"lyceum/matrix"
	"lyceum/media/picture"
	"lyceum/platform/blob"
)

// The reasons why there is no thumbnail, as they stand in the database.
const (
	failUnsupported = "unsupported"
	failBroken      = "broken"
	failTooLarge    = "too_large"
	failCrashed     = "crashed" // or ran into a limit of its process
)

// failureError is the error of the specification for one of them.
func failureError(reason string) error {
	if reason == failTooLarge {
		return matrix.TooLarge("The content is too large to thumbnail")
	}
	return matrix.NewError(http.StatusBadRequest, matrix.CodeUnknown, "No thumbnail can be made of this content")
}

// thumbnailOf finds the thumbnail of a file, or makes it: once in this process however many ask, and the
// first to write it wins among processes. onWait is called before it waits for that.
func (m *Media) thumbnailOf(ctx context.Context, f *file, s size, onWait func()) (*thumbnail, error) {
	t, err := m.readThumbnail(ctx, f.SHA256, s)
	if err != nil {
		return nil, err
	}
	if t == nil || t.Failure != "" && t.CreatedMs+m.config.Thumbnails.Retry.D().Milliseconds() <= m.nowMs() {
		onWait()
		if t, err = m.makeOnce(ctx, f, s); err != nil {
			return nil, err
		}
	}
	if t.Failure != "" {
		return nil, failureError(t.Failure)
	}
	return t, nil
}

// makeOnce shares the work among those who ask. It goes on when they leave, for the next one will ask again.
func (m *Media) makeOnce(ctx context.Context, f *file, s size) (*thumbnail, error) {
	key := fmt.Sprintf("%s %v", f.SHA256, s)
	m.making.Add(1)
	done := m.inProgress.DoChan(key, func() (any, error) {
		return m.makeThumbnail(m.life, f, s)
	})
	result := make(chan flightResult, 1)
	go func() {
		defer m.making.Done()
		r := <-done
		t, _ := r.Val.(*thumbnail)
		result <- flightResult{t, r.Err}
	}()
	select {
	case r := <-result:
		return r.thumbnail, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// flightResult is what inProgress gives to all who wait for one thumbnail.
type flightResult struct {
	thumbnail *thumbnail
	err       error
}

func (m *Media) makeThumbnail(ctx context.Context, f *file, s size) (*thumbnail, error) {
	t := &thumbnail{SHA256: f.SHA256, Size: s}
	err := m.makeInWorker(ctx, f, t)
	t.CreatedMs = m.nowMs()
	switch {
	case err != nil:
		result := "failed"
		if errors.Is(err, errBusy) {
			result, err = "refused", matrix.Unavailable("Too many pictures wait: ask again in a moment").With(err)
		}
		m.metrics.thumbnails.WithLabelValues(result).Inc()
		return nil, err
	case t.Failure != "":
		m.metrics.thumbnails.WithLabelValues(t.Failure).Inc()
	case t.Blob == f.key():
		m.metrics.thumbnails.WithLabelValues("original").Inc()
	default:
		m.metrics.thumbnails.WithLabelValues("made").Inc()
	}
	return t, m.writeThumbnail(ctx, t)
}

// makeInWorker fills t with the picture or the failure. An error is one of this server, not of the picture.
func (m *Media) makeInWorker(ctx context.Context, f *file, t *thumbnail) error {
	limits := m.config.Thumbnails
	if f.Size > limits.MaxSource.Bytes() {
		t.Failure = failTooLarge
		return nil
	}
	leave, err := m.workers.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	body, err := m.open(ctx, f.key(), 0)
	if err != nil {
		return err
	}
	defer body.Close()
	source := bufio.NewReader(body)
	head, err := source.Peek(picture.SniffLen)
	if err != nil && err != io.EOF {
		return err
	}
	if picture.Sniff(head) == "" {
		t.Failure = failUnsupported
		return nil
	}
	begun := m.now()
	response, err := m.workers.run(ctx, workerRequest{
		Size: f.Size, Width: t.Size.Width, Height: t.Size.Height, Crop: t.Size.Crop, Animated: t.Size.Animated,
		MaxPixels: limits.MaxPixels, Memory: limits.Memory.Bytes(), TimeoutMs: limits.Timeout.D().Milliseconds(),
	}, source)
	m.metrics.decoding.Observe(m.now().Sub(begun).Seconds())
	if err != nil {
		return err
	}
	if t.Failure = response.Failure; t.Failure != "" {
		m.log.InfoContext(ctx, "no thumbnail could be made", "media", f.MediaID, "failure", t.Failure, "why", response.Why)
		return nil
	}
	t.ContentType = response.Type
	if response.Original {
		t.Blob, t.Bytes = f.key(), f.Size
		return nil
	}
	sum, n, err := blob.PutContent(ctx, m.blob, thumbnailPrefix, bytes.NewReader(response.data), maxResponse)
	t.Blob, t.Bytes = thumbnailPrefix+sum, n
	return err
}
