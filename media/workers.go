package media

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"sync/atomic"
	"time"

	"lyceum/platform/confine"
)

const (
	maxResponse = 16 << 20         // bytes of a thumbnail with its head
	maxStderr   = 4 << 10          // bytes of a worker's standard error that are logged
	killGrace   = 2 * time.Second  // for the worker's own limit to come first
	pipesGrace  = 2 * time.Second  // for pipes that a dead worker leaves
	queueTime   = 60 * time.Second // longest wait for a worker
)

// workerRequest is the request to a worker: one line of JSON before the picture.
type workerRequest struct {
	Size      int64 `json:"size"` // bytes of the picture
	Width     int   `json:"width"`
	Height    int   `json:"height"`
	Crop      bool  `json:"crop"`
	Animated  bool  `json:"animated"`
	MaxPixels int64 `json:"max_pixels"`
	Memory    int64 `json:"memory"` // bytes
	TimeoutMs int64 `json:"timeout_ms"`
}

// workerResponse is the result of a worker: one line of JSON before the thumbnail.
type workerResponse struct {
	Failure            string   `json:"failure,omitempty"`
	Why                string   `json:"why,omitempty"` // for the log
	Original           bool     `json:"original,omitempty"`
	Type               string   `json:"type,omitempty"`
	MissingConfinement []string `json:"loose,omitempty"` // parts of the confinement that this system does not have
	data               []byte
}

// errBusy is returned when too many pictures wait.
var errBusy = errors.New("all workers are busy")

// workers start processes that decode one picture each.
type workers struct {
	command []string
	timeout time.Duration
	slots   chan struct{}
	waiting atomic.Int64
	most    int64 // that may wait
	log     *slog.Logger
	starter confine.Starter
	warned  atomic.Bool // of a missing confinement
}

func newWorkers(command []string, c ThumbnailConfig, log *slog.Logger) *workers {
	return &workers{
		command: command, timeout: c.Timeout.D(), slots: make(chan struct{}, c.Workers), most: int64(c.Waiting), log: log,
	}
}

// enter waits for a free worker; leave gives it back.
func (w *workers) enter(ctx context.Context) (leave func(), err error) {
	leave = func() { <-w.slots }
	select {
	case w.slots <- struct{}{}:
		return leave, nil
	default:
	}
	defer w.waiting.Add(-1)
	if w.waiting.Add(1) > w.most {
		return nil, errBusy
	}
	end := time.NewTimer(queueTime)
	defer end.Stop()
	select {
	case w.slots <- struct{}{}:
		return leave, nil
	case <-end.C:
		return nil, errBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run gives a picture to a new process. What the process does wrong, of itself or under its limits, is a
// workerResponse with failCrashed; an error means that it could not be tried.
func (w *workers) run(ctx context.Context, request workerRequest, picture io.Reader) (*workerResponse, error) {
	head, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, w.timeout+killGrace)
	defer cancel()
	source := &faultReader{r: picture}
	out, stderr := &limitedBuffer{max: maxResponse}, &limitedBuffer{max: maxStderr}
	cmd, missing, err := w.starter.Start(func() *exec.Cmd {
		cmd := exec.CommandContext(limited, w.command[0], w.command[1:]...)
		cmd.Stdin = io.MultiReader(bytes.NewReader(append(head, '\n')), source)
		cmd.Stdout, cmd.Stderr = out, stderr
		cmd.WaitDelay = pipesGrace
		return cmd
	})
	if err != nil {
		return nil, fmt.Errorf("start the process that decodes pictures: %w", err)
	}
	if missing != nil {
		w.log.Warn("pictures are decoded without namespaces of their own, as this system gives none; the other limits hold", "error", missing)
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case source.err != nil:
		return nil, source.err
	case limited.Err() != nil:
		return &workerResponse{Failure: failCrashed, Why: "it took too long"}, nil
	case err != nil:
		return &workerResponse{Failure: failCrashed, Why: fmt.Sprintf("%v: %s", err, stderr.b.String())}, nil
	}
	a, err := readResponse(out.b.Bytes())
	if err != nil {
		return &workerResponse{Failure: failCrashed, Why: err.Error()}, nil
	}
	if len(a.MissingConfinement) > 0 && w.warned.CompareAndSwap(false, true) {
		w.log.Warn("pictures are decoded with less confinement than wanted", "missing", a.MissingConfinement)
	}
	return a, nil
}

// readResponse believes nothing: a picture may have taken the worker over.
func readResponse(out []byte) (*workerResponse, error) {
	line, data, ok := bytes.Cut(out, []byte("\n"))
	a := &workerResponse{}
	if !ok || json.Unmarshal(line, a) != nil {
		return nil, fmt.Errorf("expected an answer, found %d bytes of something else", len(out))
	}
	a.data = data
	switch a.Failure {
	case failUnsupported, failBroken, failTooLarge:
		return a, nil
	case "":
	default:
		return nil, fmt.Errorf("expected a known failure, found %q", a.Failure)
	}
	switch a.Type {
	case "image/png", "image/jpeg":
	case "image/gif", "image/webp":
		if !a.Original {
			return nil, fmt.Errorf("expected PNG or JPEG, found %q", a.Type)
		}
	default:
		return nil, fmt.Errorf("expected the type of a picture, found %q", a.Type)
	}
	if a.Original != (len(data) == 0) {
		return nil, fmt.Errorf("expected a thumbnail or the original, found %d bytes and %v", len(data), a.Original)
	}
	return a, nil
}

// limitedBuffer takes up to max bytes and refuses the rest.
type limitedBuffer struct {
	b   bytes.Buffer
	max int
}

var errResponseTooLong = errors.New("the worker said too much")

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > l.max {
		n, _ := l.b.Write(p[:l.max-l.b.Len()])
		return n, errResponseTooLong
	}
	return l.b.Write(p)
}

// faultReader keeps the error of a source apart from those of the process that it feeds.
type faultReader struct {
	r   io.Reader
	err error
}

func (f *faultReader) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		f.err = err
	}
	return n, err
}
