package rpc

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"time"
)

// maxHeldAnswer is how many bytes of an answer are held until the handler returns or flushes, so that head, body and end of a short answer
// are sent at once.
const maxHeldAnswer = 24 << 10

// serveLink serves the requests of one peer.
func (n *Node) serveLink(conn *tls.Conn) {
	l := newLink(conn)
	n.linksMu.Lock()
	if n.goingAway {
		n.linksMu.Unlock()
		return
	}
	n.served[l] = true
	n.linksMu.Unlock()
	defer func() {
		n.linksMu.Lock()
		delete(n.served, l)
		n.linksMu.Unlock()
	}()
	state := conn.ConnectionState()
	peer := peer{node: n, link: l, address: conn.RemoteAddr().String(), tls: &state, base: context.WithValue(
		context.WithValue(context.Background(), http.ServerContextKey, n.server), http.LocalAddrContextKey, conn.LocalAddr())}
	_ = l.sendFrame(framePong, 0, nil)
	go l.write()
	go l.keepAlive(2*time.Second, 2, 5, 0)
	for {
		kind, id, payload, err := l.next()
		if err != nil {
			l.fail(err)
			return
		}
		switch kind {
		case frameOpen:
			peer.open(id, payload)
		case frameEnd:
			if f := l.stream(id); f != nil {
				f.receiveEnd()
			}
		case frameReset:
			if f := l.stream(id); f != nil {
				f.end(context.Canceled)
			}
		default:
			l.handleShared(kind, id, payload)
		}
	}
}

// goAway tells the peers to open another connection for their next requests.
func (n *Node) goAway() {
	n.linksMu.Lock()
	defer n.linksMu.Unlock()
	n.goingAway = true
	for l := range n.served {
		l.goAway()
	}
}

// peer is the other end of a link.
type peer struct {
	node    *Node
	link    *link
	address string
	tls     *tls.ConnectionState
	base    context.Context
}

// open begins to serve a request.
func (p *peer) open(id uint32, payload []byte) {
	t := text{rest: string(payload)}
	method, target, host, length := t.string(), t.string(), t.string(), int64(t.number())-1
	header := t.headers()
	at, err := url.ParseRequestURI(target)
	if t.bad || err != nil {
		_ = p.link.sendFrame(frameReset, id, nil)
		return
	}
	ctx, cancel := context.WithCancel(p.base)
	f := &linkStream{link: p.link, id: id, ctx: ctx, cancel: cancel, credit: receiveWindow, inLength: length}
	p.link.mu.Lock()
	if p.link.goingAway || p.link.err != nil || id <= p.link.last {
		p.link.mu.Unlock()
		cancel()
		return // frameGoAway told the peer, or the link is broken
	}
	p.link.last = id
	p.link.streams[id] = f
	p.link.mu.Unlock()
	var blank http.Request
	r := blank.WithContext(ctx)
	r.Method, r.URL, r.Proto, r.ProtoMajor, r.Header, r.ContentLength = method, at, "HTTP/2.0", 2, header, length // as net/http fills them in
	r.Host, r.RemoteAddr, r.RequestURI, r.TLS = host, p.address, target, p.tls
	if r.Body = http.NoBody; length != 0 {
		r.Body = requestBody{f}
	}
	go p.node.serveStream(f, r)
}

type requestBody struct{ *linkStream }

// Close does not read the rest of the body, which is dropped at the end of the stream.
func (requestBody) Close() error { return nil }

func (n *Node) serveStream(f *linkStream, r *http.Request) {
	w := &answer{linkStream: f, header: http.Header{}, noBody: r.Method == http.MethodHead, length: -1}
	whole := false
	defer func() {
		cause := recover()
		if cause != nil && cause != http.ErrAbortHandler { //nolint:errorlint // net/http panics with this very value
			n.o.Log.Error("a request of another process panicked", "cause", cause, "stack", string(debug.Stack()))
		}
		f.link.forget(f.id)
		if !whole {
			_ = f.link.sendFrame(frameReset, f.id, nil)
		}
		if w.buffer != nil {
			putBuffer(w.buffer)
		}
		f.setReadDeadline(time.Time{})
		f.end(errFinished)
	}()
	n.ServeHTTP(w, r)
	whole = w.finish() == nil
}

// answer is the http.ResponseWriter of a stream.
type answer struct {
	*linkStream
	header http.Header
	buffer *[]byte // head, frame header and the first bytes of the body, until they are sent
	body   int     // where the body begins in buffer; 0: no head yet
	sent   bool    // the head was sent
	noBody bool    // the answer has no body
	length int64   // Content-Length as the handler set it
	total  int64
}

func (w *answer) Header() http.Header { return w.header }

func (w *answer) WriteHeader(status int) {
	if w.body != 0 || status < 200 {
		return
	}
	if text := w.header.Get("Content-Length"); text != "" {
		if length, err := strconv.ParseInt(text, 10, 64); err == nil && length >= 0 {
			w.length = length
		} else {
			w.header.Del("Content-Length")
		}
	}
	if status == http.StatusNoContent || status == http.StatusNotModified {
		w.noBody = true
	}
	w.buffer = getBuffer() // not before: a handler that waits holds no buffer
	b := appendFrame((*w.buffer)[:0], frameHead, w.id, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(status))   //nolint:gosec // three digits
	b = binary.BigEndian.AppendUint64(b, uint64(w.length)) //nolint:gosec // -1 is unknown
	b = appendHeaders(b, w.header)
	binary.BigEndian.PutUint32(b[5:], uint32(len(b)-frameHeader))
	b = appendFrame(b, frameData, w.id, 0)
	*w.buffer, w.body = b, len(b)
}

func (w *answer) Write(p []byte) (int, error) {
	if w.body == 0 {
		w.WriteHeader(http.StatusOK)
	}
	w.total += int64(len(p))
	if w.noBody {
		return len(p), nil
	}
	if w.length >= 0 && w.total > w.length {
		return 0, http.ErrContentLength
	}
	if !w.sent && len(*w.buffer)-w.body+len(p) <= maxHeldAnswer {
		*w.buffer = append(*w.buffer, p...)
		return len(p), nil
	}
	if err := w.flushHeld(); err != nil {
		return 0, err
	}
	return w.write(p)
}

// flushHeld sends the held bytes.
func (w *answer) flushHeld() error {
	if w.sent {
		return nil
	}
	w.sent = true
	w.completeDataFrame()
	return w.link.send(*w.buffer)
}

// completeDataFrame writes the length of the held data frame, or drops the frame when it is empty.
func (w *answer) completeDataFrame() {
	if n := len(*w.buffer) - w.body; n > 0 {
		binary.BigEndian.PutUint32((*w.buffer)[w.body-4:], uint32(n))
		w.mu.Lock()
		w.credit -= n // at most maxHeldAnswer, so some of the first receiveWindow is left
		w.mu.Unlock()
	} else {
		*w.buffer = (*w.buffer)[:w.body-frameHeader]
	}
}

func (w *answer) finish() error {
	if w.body == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.length >= 0 && w.total != w.length && !w.noBody {
		return fmt.Errorf("the handler wrote %d bytes of %d", w.total, w.length)
	}
	w.mu.Lock()
	err := w.outErr
	w.mu.Unlock()
	if err != nil {
		return errors.Join(errReset, err)
	}
	if w.sent {
		return w.link.sendFrame(frameEnd, w.id, nil)
	}
	w.sent = true
	if w.length < 0 && (!w.noBody || w.total > 0) {
		binary.BigEndian.PutUint64((*w.buffer)[frameHeader+2:], uint64(w.total)) //nolint:gosec // not negative
	}
	w.completeDataFrame()
	*w.buffer = appendFrame(*w.buffer, frameEnd, w.id, 0)
	return w.link.send(*w.buffer)
}

// Flush sends what was written so far.
func (w *answer) Flush() {
	if w.body == 0 {
		w.WriteHeader(http.StatusOK)
	}
	_ = w.flushHeld()
}

// SetReadDeadline is called by http.ResponseController.
func (w *answer) SetReadDeadline(t time.Time) error {
	w.setReadDeadline(t)
	return nil
}
