package media

import (
	"context"
	"sync"
	"time"

	"lyceum/matrix"
	"lyceum/platform/bus"
)

const (
	uploadedTopic = "media.uploaded"
	// The bus may lose a message, so the row is read again now and then.
	readAgain = 2 * time.Second
)

// waiters are the requests that wait for files that are not uploaded yet.
type waiters struct {
	mu      sync.Mutex
	waiting map[string]*waiting
}

// waiting are the requests that wait for one media id.
type waiting struct {
	uploaded chan struct{} // closed when the file is there
	count    int           // of requests
}

// uploaded is called for an upload in any process.
func (w *waiters) uploaded(note bus.Message) { w.wake(string(note.Data)) }

func (w *waiters) wake(mediaID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if one := w.waiting[mediaID]; one != nil {
		close(one.uploaded)
		delete(w.waiting, mediaID)
	}
}

// join returns a channel that is closed with the next upload of mediaID.
func (w *waiters) join(mediaID string) (uploaded <-chan struct{}, leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.waiting[mediaID]
	if one == nil {
		if w.waiting == nil {
			w.waiting = map[string]*waiting{}
		}
		one = &waiting{uploaded: make(chan struct{})}
		w.waiting[mediaID] = one
	}
	one.count++
	return one.uploaded, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if one.count--; one.count == 0 && w.waiting[mediaID] == one {
			delete(w.waiting, mediaID)
		}
	}
}

// await finds a file and waits for its content as long as the client likes, or until the server stops.
func (m *Media) await(ctx context.Context, server, mediaID string, o waitOptions) (*file, error) {
	f, err := m.findMedia(ctx, server, mediaID)
	if err != nil || f.SHA256 != "" {
		return f, err
	}
	end := time.NewTimer(o.wait)
	defer end.Stop()
	for {
		uploaded, leave := m.waiters.join(mediaID)
		f, err := m.findMedia(ctx, server, mediaID) // after join, so that no upload comes between
		if err != nil || f.SHA256 != "" {
			leave()
			return f, err
		}
		o.onWait(o.wait)
		again := time.NewTimer(readAgain)
		over := false
		select {
		case <-uploaded:
		case <-again.C:
		case <-end.C:
			over = true
		case <-o.draining:
			over = true
		case <-ctx.Done():
			err = ctx.Err()
		}
		again.Stop()
		leave()
		if err == nil {
			err = o.checkAccess()
		}
		if err != nil {
			return nil, err
		}
		if over {
			return nil, matrix.NotYetUploaded()
		}
	}
}

// waitOptions says how long a request may wait.
type waitOptions struct {
	wait        time.Duration
	draining    <-chan struct{}
	onWait      func(wait time.Duration) // told that it waits
	checkAccess func() error             // called now and then: an error when the waiting user may not have the file any more
}
