package router

import (
	"bytes"
	"errors"
	"io"
	"sync"
)

// maxKeptBody is how many bytes of a body are kept to send it again. An event is at most 64 KiB.
const maxKeptBody = 64 << 10

// body is a request's body on its way to another process. The bytes read are kept while they are few. Closing it does
// not close the source, which may be needed again.
type body struct {
	mu         sync.Mutex
	source     io.ReadCloser
	kept       []byte
	overflowed bool // more was read than is kept
	closed     bool
	fault      error // of the source
	limit      int64 // bytes that may be read
	read       int64
}

var (
	errBodyClosed     = errors.New("the body was closed")
	errTooLarge       = errors.New("the body is larger than the route takes")
	errBodyUnreadable = errors.New("the body could not be read to its end")
)

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, errBodyClosed
	}
	n, err := b.source.Read(p)
	if b.read += int64(n); b.read > b.limit {
		b.fault = errTooLarge
		return 0, errTooLarge
	}
	if !b.overflowed && len(b.kept)+n <= maxKeptBody {
		b.kept = append(b.kept, p[:n]...)
	} else if n > 0 {
		b.kept, b.overflowed = nil, true
	}
	if err != nil && err != io.EOF {
		b.fault = err
	}
	return n, err
}

// Close ends this reading of the body. It takes no lock: a Read may wait for the client.
func (b *body) Close() error { return nil }

// rewind returns the whole body from its start, and false when a part of it is gone. The transport may still hold the
// old body and closes it later; reading from that fails from now on.
func (b *body) rewind() (io.ReadCloser, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.overflowed || b.fault != nil {
		return nil, false
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(b.kept), b.source), b.source}, true
}

// canRewind tells whether rewind would succeed now, without waiting for the client.
func (b *body) canRewind() bool {
	if !b.mu.TryLock() {
		return false // a Read waits for the client
	}
	defer b.mu.Unlock()
	return !b.overflowed && b.fault == nil
}

// clientFault returns the client's fault with the body: errTooLarge, errUnread or nil.
func (b *body) clientFault() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fault == nil || errors.Is(b.fault, errTooLarge) {
		return b.fault
	}
	return errors.Join(errBodyUnreadable, b.fault)
}

// waitsForClient tells whether a Read waits for the client.
func (b *body) waitsForClient() bool {
	if !b.mu.TryLock() {
		return true
	}
	b.mu.Unlock()
	return false
}

// bufferPool holds the buffers with which answers are copied.
type bufferPool struct{ pool sync.Pool }

var copyBuffers = &bufferPool{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}

func (b *bufferPool) take() *[]byte { return b.pool.Get().(*[]byte) }

func (b *bufferPool) give(p *[]byte) { b.pool.Put(p) }
