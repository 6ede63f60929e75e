package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// linkStream is one stream of a link, at either end: a request and its answer. It holds the incoming body, and the credit for the outgoing
// body: how many bytes may be sent before the receiver has read some.
type linkStream struct {
	link *link
	id   uint32
	ctx  context.Context

	mu             sync.Mutex
	in             parts
	inErr          error // what Read returns after the bytes of in; io.EOF at the end of the body
	unacknowledged int   // bytes that were read and not credited to the sender yet
	credit         int
	outErr         error         // set when nothing more may be sent
	arrived        chan struct{} // closed when data came; made when a reader waits
	allowed        chan struct{} // closed when credit came; made when a sender waits
	deadline       *time.Timer
	until          time.Time
	inLength       int64 // length that the incoming body must have; -1 unknown
	inTotal        int64

	// At the client.
	ready  chan struct{} // gets one value when head or failed is set
	head   *http.Response
	failed error

	// At the server.
	cancel context.CancelFunc
}

// parts are bytes that were received and not read yet.
type parts struct {
	list []part
	size int
}

type part struct {
	rest []byte
	from *[]byte // the buffer of frameBuffers that rest is in; nil when rest has memory of its own
}

// smallPart is the size up to which a part gets memory of its own in the place of a buffer of frameBuffers. Most bodies are one such part.
const smallPart = 4 << 10

// frameBuffers have the size of the largest part of a body.
var frameBuffers = sync.Pool{New: func() any { b := make([]byte, maxFrame); return &b }}

func (q *parts) put(p []byte) {
	q.size += len(p)
	if len(p) <= smallPart {
		q.list = append(q.list, part{rest: bytes.Clone(p)})
		return
	}
	from := frameBuffers.Get().(*[]byte)
	q.list = append(q.list, part{(*from)[:copy(*from, p)], from})
}

func (q *parts) take(p []byte) (n int) {
	done := 0
	for n < len(p) && done < len(q.list) {
		first := &q.list[done]
		k := copy(p[n:], first.rest)
		n += k
		if first.rest = first.rest[k:]; len(first.rest) > 0 {
			break
		}
		if first.from != nil {
			frameBuffers.Put(first.from)
		}
		done++
	}
	q.size -= n
	q.list = slices.Delete(q.list, 0, done)
	return n
}

func (f *linkStream) wakeReader() {
	if f.arrived != nil {
		close(f.arrived)
		f.arrived = nil
	}
}

func (f *linkStream) wakeSender() {
	if f.allowed != nil {
		close(f.allowed)
		f.allowed = nil
	}
}

// receiveData takes a part of the incoming body.
func (f *linkStream) receiveData(p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inErr != nil {
		return
	}
	if f.in.size+len(p) > receiveWindow {
		f.inErr = errReset // the other end exceeded its credit
	} else {
		f.in.put(p)
		f.inTotal += int64(len(p))
	}
	f.wakeReader()
}

// receiveEnd records the end of the incoming body.
func (f *linkStream) receiveEnd() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inErr == nil {
		f.inErr = io.EOF
		if f.inLength >= 0 && f.inTotal != f.inLength {
			f.inErr = io.ErrUnexpectedEOF
		}
	}
	f.wakeReader()
}

// end ends both directions.
func (f *linkStream) end(err error) {
	f.mu.Lock()
	if f.inErr == nil {
		f.inErr = err
	}
	if f.outErr == nil {
		f.outErr = err
	}
	f.wakeReader()
	f.wakeSender()
	waiting := f.ready != nil && f.head == nil && f.failed == nil
	if waiting {
		f.failed = err
		f.ready <- struct{}{}
	}
	cancel := f.cancel
	f.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// Read reads the incoming body.
func (f *linkStream) Read(p []byte) (int, error) {
	for {
		f.mu.Lock()
		if f.in.size > 0 {
			n := f.in.take(p)
			f.unacknowledged += n
			tell := 0
			if f.unacknowledged >= receiveWindow/4 && f.inErr == nil {
				tell, f.unacknowledged = f.unacknowledged, 0
			}
			f.mu.Unlock()
			if tell > 0 {
				var room [4]byte
				binary.BigEndian.PutUint32(room[:], uint32(tell))
				_ = f.link.sendFrame(frameCredit, f.id, room[:]) // a broken link ends the stream
			}
			return n, nil
		}
		if err := f.inErr; err != nil {
			f.mu.Unlock()
			return 0, err
		}
		if f.arrived == nil {
			f.arrived = make(chan struct{})
		}
		arrived := f.arrived
		f.mu.Unlock()
		select {
		case <-arrived:
		case <-f.ctx.Done():
			return 0, context.Cause(f.ctx)
		}
	}
}

// setReadDeadline makes reads fail from a time on; the zero time removes the deadline.
func (f *linkStream) setReadDeadline(t time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until = t
	switch {
	case t.IsZero():
		if f.deadline != nil {
			f.deadline.Stop()
		}
	case f.inErr != nil:
	case f.deadline == nil:
		f.deadline = time.AfterFunc(time.Until(t), f.deadlinePassed)
	default:
		f.deadline.Reset(time.Until(t))
	}
}

func (f *linkStream) deadlinePassed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inErr == nil && !f.until.IsZero() && !time.Now().Before(f.until) {
		f.inErr = os.ErrDeadlineExceeded
		f.wakeReader()
	}
}

// reserveCredit waits until a part of the outgoing body may be sent, and returns its size.
func (f *linkStream) reserveCredit(n int) (int, error) {
	for {
		f.mu.Lock()
		if f.outErr != nil {
			f.mu.Unlock()
			return 0, f.outErr
		}
		if part := min(n, f.credit, maxFrame); part > 0 {
			f.credit -= part
			f.mu.Unlock()
			return part, nil
		}
		if f.allowed == nil {
			f.allowed = make(chan struct{})
		}
		allowed := f.allowed
		f.mu.Unlock()
		select {
		case <-allowed:
		case <-f.ctx.Done():
			return 0, context.Cause(f.ctx)
		}
	}
}

// write sends a part of a body.
func (f *linkStream) write(p []byte) (written int, err error) {
	for len(p) > 0 {
		n, err := f.reserveCredit(len(p))
		if err == nil {
			err = f.link.sendData(f.id, p[:n])
		}
		if err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}
