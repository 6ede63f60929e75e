package rpc

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// linkProtocol is the name, in the TLS handshake, of the protocol between two processes of this version: many requests
// over one connection, as in HTTP/2, with the semantics of net/http only. Headers are not compressed, and the frames
// of many requests share a write. A peer that does not know the protocol is called in HTTP.
//
// A frame is its kind (1 byte), stream (4), length of the payload (4) and payload. The client opens streams, numbered
// from 1.
const linkProtocol = "lyceum/1"

// The kinds of frames.
const (
	frameOpen   = iota + 1 // client: a request: see appendRequest
	frameHead              // server: status (2 bytes), length of the body (8, -1 unknown), headers
	frameData              // a part of a body
	frameEnd               // the body is complete; that of the server also ends the stream
	frameReset             // the stream ends early: client: nobody waits for the answer; server: the handler failed
	frameCredit            // the receiver of a body has room for more bytes: how many (4)
	framePing
	framePong
	frameGoAway // server: the last stream that it serves (4); requests of later ones were not read and may be sent again
)

const (
	frameHeader   = 9
	maxFrame      = 32 << 10  // bytes of a payload of frameData
	maxHead       = 1 << 20   // bytes of other frames: frameOpen and frameHead are the largest
	receiveWindow = 256 << 10 // bytes of a body that may be sent before the receiver has read them
	maxQueued     = 256 << 10 // bytes in the queue of a connection from which on sendData waits
	keepQueue     = 2 * maxQueued
	idleQueue     = 64 << 10 // a larger buffer of the queue is freed after a tick with small batches only
)

var (
	errNotTaken = fmt.Errorf("%w: it takes no more requests over this connection", ErrUnreachable)
	errReset    = errors.New("the other process gave the request up")
	errFinished = errors.New("the request is over")
)

// link is one connection between two processes, at either end.
type link struct {
	conn     *tls.Conn
	reader   *bufio.Reader
	received atomic.Bool // a frame came since the last tick of keepAlive
	wake     chan struct{}
	done     chan struct{} // closed when the link is broken

	mu           sync.Mutex
	queueSpace   sync.Cond // signalled when the queue was written
	queue        []byte
	spareQueue   []byte
	smallBatches bool // no batch larger than idleQueue since the last tick
	err          error
	goingAway    bool // it opens no new streams and ends with the last one
	streams      map[uint32]*linkStream
	last         uint32 // number of the newest stream
	unused       time.Time
}

func newLink(conn *tls.Conn) *link {
	l := &link{
		conn: conn, reader: bufio.NewReaderSize(conn, 2*maxFrame), wake: make(chan struct{}, 1), done: make(chan struct{}),
		streams: map[uint32]*linkStream{}, unused: time.Now(),
	}
	l.queueSpace.L = &l.mu
	return l
}

func appendFrame(b []byte, kind byte, stream uint32, size int) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, uint32(size))
}

// send queues complete frames.
func (l *link) send(frames []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sendLocked(frames)
}

func (l *link) sendLocked(frames []byte) error {
	if l.err != nil {
		return l.err
	}
	l.queue = append(l.queue, frames...)
	l.wakeWriter()
	return nil
}

func (l *link) sendFrame(kind byte, stream uint32, payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.queue = append(appendFrame(l.queue, kind, stream, len(payload)), payload...)
		l.wakeWriter()
	}
	return l.err
}

// sendData queues a part of a body; it waits while much is queued.
func (l *link) sendData(stream uint32, payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) > maxQueued && l.err == nil {
		l.queueSpace.Wait()
	}
	if l.err == nil {
		l.queue = append(appendFrame(l.queue, frameData, stream, len(payload)), payload...)
		l.wakeWriter()
	}
	return l.err
}

func (l *link) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// write writes queued frames until the link breaks, or until all streams have ended after goAway.
func (l *link) write() {
	for {
		select {
		case <-l.done:
			return
		case <-l.wake:
		}
		runtime.Gosched() // goroutines about to queue frames run first, which saves a write
		for {
			l.mu.Lock()
			batch := l.queue
			l.queue, l.spareQueue = l.spareQueue[:0], nil
			over := len(batch) == 0 && l.goingAway && len(l.streams) == 0
			l.queueSpace.Broadcast()
			l.mu.Unlock()
			if over {
				_ = l.conn.CloseWrite() // frames under way to the other end still arrive
				_ = l.conn.SetReadDeadline(time.Now().Add(time.Second))
				return
			}
			var err error
			if len(batch) > 0 {
				_, err = l.conn.Write(batch)
			}
			l.mu.Lock()
			if cap(batch) <= keepQueue {
				l.spareQueue = batch
				l.smallBatches = l.smallBatches && len(batch) <= idleQueue
			}
			more := len(l.queue) > 0
			l.mu.Unlock()
			if err != nil {
				l.fail(err)
				return
			}
			if !more {
				break
			}
		}
	}
}

// keepAlive finds out that the other process is gone or paused. After ask ticks without a frame it sends a ping, and after lost ticks it
// breaks the link. A link without streams for the time idle ends, unless idle is 0.
func (l *link) keepAlive(every time.Duration, ask, lost int, idle time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for quiet := 0; ; {
		select {
		case <-l.done:
			return
		case <-tick.C:
		}
		if l.received.Swap(false) {
			quiet = 0
		} else {
			quiet++
		}
		switch {
		case quiet == ask:
			_ = l.sendFrame(framePing, 0, nil)
		case quiet >= lost:
			l.fail(fmt.Errorf("no answer to a ping within %s", time.Duration(lost-ask)*every))
			return
		}
		l.mu.Lock()
		if cap(l.spareQueue) > idleQueue && l.smallBatches {
			l.spareQueue = nil
		}
		l.smallBatches = true
		if idle > 0 && len(l.streams) == 0 && time.Since(l.unused) > idle {
			l.goingAway = true
			l.wakeWriter()
		}
		l.mu.Unlock()
	}
}

// fail breaks the link: all of its streams end.
func (l *link) fail(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	l.err = err
	streams := l.streams
	l.streams = map[uint32]*linkStream{}
	close(l.done)
	l.queueSpace.Broadcast()
	l.mu.Unlock()
	_ = l.conn.Close()
	for _, f := range streams {
		f.end(err)
	}
}

// forget removes a stream at this end.
func (l *link) forget(id uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, id)
	if len(l.streams) == 0 {
		l.unused = time.Now()
		if l.goingAway {
			l.wakeWriter()
		}
	}
}

func (l *link) stream(id uint32) *linkStream {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streams[id]
}

// goAway accepts no more streams; the link ends with the last one.
func (l *link) goAway() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.goingAway {
		l.goingAway = true
		_ = l.sendLocked(binary.BigEndian.AppendUint32(appendFrame(nil, frameGoAway, 0, 4), l.last))
	}
}

// next reads a frame. The payload is valid until the next call.
func (l *link) next() (kind byte, id uint32, payload []byte, err error) {
	if _, err = l.reader.Discard(0); err != nil {
		return 0, 0, nil, err
	}
	head, err := l.reader.Peek(frameHeader)
	if err != nil {
		return 0, 0, nil, err
	}
	l.received.Store(true)
	kind, id = head[0], binary.BigEndian.Uint32(head[1:])
	size := int(binary.BigEndian.Uint32(head[5:]))
	_, _ = l.reader.Discard(frameHeader)
	switch {
	case size > maxHead:
		return 0, 0, nil, fmt.Errorf("expected a frame of at most %d bytes, found %d", maxHead, size)
	case size <= maxFrame:
		if payload, err = l.reader.Peek(size); err == nil {
			_, _ = l.reader.Discard(size)
		}
		return kind, id, payload, err
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(l.reader, payload)
	return kind, id, payload, err
}

// handleShared handles the frames that both ends treat alike.
func (l *link) handleShared(kind byte, id uint32, payload []byte) {
	switch kind {
	case framePing:
		_ = l.sendFrame(framePong, 0, nil)
	case frameData:
		if f := l.stream(id); f != nil {
			f.receiveData(payload)
		}
	case frameCredit:
		if f := l.stream(id); f != nil && len(payload) == 4 {
			f.mu.Lock()
			f.credit += int(binary.BigEndian.Uint32(payload))
			f.wakeSender()
			f.mu.Unlock()
		}
	}
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendHeaders writes the number of values, and for each its name and the value.
func appendHeaders(b []byte, h http.Header) []byte {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	b = binary.AppendUvarint(b, uint64(n))
	for name, values := range h {
		for _, value := range values {
			b = appendText(appendText(b, name), value)
		}
	}
	return b
}

// text reads what appendText and appendHeaders wrote. The strings share the memory of rest.
type text struct {
	rest string
	bad  bool
}

func (t *text) number() int {
	value, shift := uint64(0), 0
	for i := 0; i < len(t.rest) && shift < 63; i, shift = i+1, shift+7 {
		c := t.rest[i]
		value |= uint64(c&0x7f) << shift
		if c < 0x80 {
			t.rest = t.rest[i+1:]
			return int(value) //nolint:gosec // at most 63 bits
		}
	}
	t.bad = true
	return 0
}

func (t *text) string() string {
	n := t.number()
	if n > len(t.rest) {
		t.bad = true
		return ""
	}
	s := t.rest[:n]
	t.rest = t.rest[n:]
	return s
}

func (t *text) headers() http.Header {
	n := t.number()
	if n > len(t.rest) { // each takes two bytes at least
		t.bad = true
		return nil
	}
	h := make(http.Header, n)
	values := make([]string, n)
	for i := range n {
		name := t.string()
		values[i] = t.string()
		if before, ok := h[name]; ok {
			h[name] = append(before, values[i])
		} else {
			h[name] = values[i : i+1 : i+1]
		}
	}
	return h
}
