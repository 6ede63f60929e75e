package rpc

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync"
	"time"
)

const (
	dialTimeout  = 2 * time.Second
	idleLink     = 90 * time.Second
	httpOnlyFor  = 30 * time.Second // how long a peer that did not accept linkProtocol is called over HTTP before that is tried again
	maxTries     = 3
	buffersOfOut = 16 << 10
)

var errOtherProtocol = errors.New("the other process speaks HTTP only")

// links are the connections to other processes, at most one open to each.
type links struct {
	http   *http.Transport // websockets, and peers of other versions
	tls    *tls.Config
	onLost func(addr string)

	mu       sync.Mutex
	open     map[string]*link
	dialing  map[string]*dial
	httpOnly map[string]time.Time // until when a peer is called over HTTP, because it did not accept linkProtocol
}

type dial struct {
	done chan struct{}
	link *link
	err  error
}

func newLinks(transport *http.Transport, config *tls.Config, lost func(addr string)) *links {
	if lost == nil {
		lost = func(string) {}
	}
	config = config.Clone()
	config.NextProtos = []string{linkProtocol, "h2"}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(64)
	return &links{
		http: transport, tls: config, onLost: lost, open: map[string]*link{}, dialing: map[string]*dial{},
		httpOnly: map[string]time.Time{},
	}
}

// CloseIdleConnections closes the connections that no request uses.
func (c *links) CloseIdleConnections() {
	c.mu.Lock()
	for addr, l := range c.open {
		l.mu.Lock()
		if len(l.streams) == 0 {
			l.goingAway = true
			l.wakeWriter()
			delete(c.open, addr)
		}
		l.mu.Unlock()
	}
	c.mu.Unlock()
	c.http.CloseIdleConnections()
}

// RoundTrip implements http.RoundTripper. A request is sent again over another connection only when the other process
// said that it did not read it.
func (c *links) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Header["Upgrade"] != nil || r.Method == http.MethodConnect || r.URL.Scheme != "https" {
		return c.http.RoundTrip(r)
	}
	ctx := r.Context()
	trace := httptrace.ContextClientTrace(ctx)
	for try := 1; ; try++ {
		if trace != nil && trace.GetConn != nil {
			trace.GetConn(r.URL.Host)
		}
		l, err := c.link(ctx, r.URL.Host)
		if errors.Is(err, errOtherProtocol) {
			return c.http.RoundTrip(r)
		}
		if err != nil {
			closeBody(r)
			return nil, err
		}
		response, f, err := l.exchange(r, trace)
		if err == nil {
			return response, nil
		}
		if !errors.Is(err, errNotTaken) || try == maxTries {
			closeBody(r)
			return nil, err
		}
		if f == nil || r.Body == nil || r.Body == http.NoBody {
			continue // nothing was read from the body
		}
		closeBody(r)
		if r.GetBody == nil {
			return nil, err
		}
		again := r.Clone(ctx)
		if again.Body, err = r.GetBody(); err != nil {
			return nil, err
		}
		r = again
	}
}

// exchange sends a request over the link and waits for the head of its answer. The stream is nil when nothing was sent.
func (l *link) exchange(r *http.Request, trace *httptrace.ClientTrace) (*http.Response, *linkStream, error) {
	if trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: l.conn, Reused: true})
	}
	f, err := l.request(r)
	if err != nil {
		return nil, f, err
	}
	if trace != nil && trace.WroteHeaders != nil {
		trace.WroteHeaders()
	}
	response, err := f.answer(r)
	return response, f, err
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// link returns the connection to a process, and dials when there is none.
func (c *links) link(ctx context.Context, addr string) (*link, error) {
	c.mu.Lock()
	if l := c.open[addr]; l != nil {
		l.mu.Lock()
		fit := l.err == nil && !l.goingAway
		l.mu.Unlock()
		if fit {
			c.mu.Unlock()
			return l, nil
		}
		delete(c.open, addr)
	}
	if until, ok := c.httpOnly[addr]; ok {
		if time.Now().Before(until) {
			c.mu.Unlock()
			return nil, errOtherProtocol
		}
		delete(c.httpOnly, addr)
	}
	d := c.dialing[addr]
	if d == nil {
		d = &dial{done: make(chan struct{})}
		c.dialing[addr] = d
		go c.dial(d, addr)
	}
	c.mu.Unlock()
	select {
	case <-d.done:
		return d.link, d.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// dial connects to a process for all requests that wait for it. So it does not end with the context of one of them.
func (c *links) dial(d *dial, addr string) {
	l, err := c.connect(addr)
	c.mu.Lock()
	delete(c.dialing, addr)
	switch {
	case err == nil:
		c.open[addr] = l
	case errors.Is(err, errOtherProtocol):
		c.httpOnly[addr] = time.Now().Add(httpOnlyFor)
	}
	c.mu.Unlock()
	d.link, d.err = l, err
	close(d.done)
}

func (c *links) connect(addr string) (*link, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	raw, err := c.http.DialContext(ctx, "tcp", addr)
	cancel()
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, c.tls)
	_ = conn.SetDeadline(time.Now().Add(dialTimeout))
	if err := conn.Handshake(); err != nil {
		_ = raw.Close()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: raw.RemoteAddr(), Err: err}
	}
	if conn.ConnectionState().NegotiatedProtocol != linkProtocol {
		_ = conn.Close()
		return nil, errOtherProtocol
	}
	l := newLink(conn)
	// In TLS 1.3 the handshake ends here before the other process has checked our certificate. Its first frame says that it accepted it.
	if _, _, _, err := l.next(); err != nil {
		_ = conn.Close()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: raw.RemoteAddr(), Err: err}
	}
	_ = conn.SetDeadline(time.Time{})
	go l.write()
	go l.keepAlive(time.Second, 1, 3, idleLink)
	go func() {
		for {
			kind, id, payload, err := l.next()
			if err != nil {
				l.fail(err)
				c.onLost(addr)
				return
			}
			l.clientFrame(kind, id, payload)
		}
	}()
	return l, nil
}

func (l *link) clientFrame(kind byte, id uint32, payload []byte) {
	switch kind {
	case frameHead:
		if f := l.stream(id); f != nil {
			f.receiveHead(payload)
		}
	case frameEnd:
		if f := l.stream(id); f != nil {
			l.forget(id)
			f.receiveEnd()
			f.end(errFinished)
		}
	case frameReset:
		if f := l.stream(id); f != nil {
			l.forget(id)
			f.end(errReset)
		}
	case frameGoAway:
		if len(payload) != 4 {
			return
		}
		last := binary.BigEndian.Uint32(payload)
		var refused []*linkStream
		l.mu.Lock()
		l.goingAway = true
		for id, f := range l.streams {
			if id > last {
				refused = append(refused, f)
				delete(l.streams, id)
			}
		}
		l.wakeWriter()
		l.mu.Unlock()
		for _, f := range refused {
			f.end(errNotTaken)
		}
	default:
		l.handleShared(kind, id, payload)
	}
}

// appendRequest appends the payload of frameOpen: method, target, host, the length of the body plus 1 (0 when it is unknown), headers.
func appendRequest(b []byte, r *http.Request) []byte {
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	b = appendText(appendText(appendText(b, r.Method), r.URL.RequestURI()), host)
	b = binary.AppendUvarint(b, uint64(bodyLength(r)+1))
	return appendHeaders(b, r.Header)
}

func bodyLength(r *http.Request) int64 {
	switch {
	case r.Body == nil || r.Body == http.NoBody:
		return 0
	case r.ContentLength > 0:
		return r.ContentLength
	}
	return -1
}

// request opens a stream for a request. After an error nothing was sent.
func (l *link) request(r *http.Request) (*linkStream, error) {
	f := &linkStream{link: l, ctx: r.Context(), credit: receiveWindow, ready: make(chan struct{}, 1), inLength: -1}
	buffer := getBuffer()
	defer putBuffer(buffer)
	*buffer = appendRequest(appendFrame((*buffer)[:0], frameOpen, 0, 0), r)
	if len(*buffer) > maxHead {
		return nil, fmt.Errorf("expected a request's head of at most %d bytes, found %d", maxHead, len(*buffer))
	}
	binary.BigEndian.PutUint32((*buffer)[5:], uint32(len(*buffer)-frameHeader))
	empty := bodyLength(r) == 0
	l.mu.Lock()
	if l.err != nil || l.goingAway {
		l.mu.Unlock()
		return nil, errNotTaken
	}
	l.last++
	f.id = l.last
	if l.last == 1<<31 {
		l.goingAway = true // the numbers are used up; the next connection begins with 1
	}
	binary.BigEndian.PutUint32((*buffer)[1:], f.id)
	if empty {
		*buffer = appendFrame(*buffer, frameEnd, f.id, 0)
	}
	l.streams[f.id] = f
	_ = l.sendLocked(*buffer)
	l.mu.Unlock()
	if !empty {
		go f.sendBody(r)
	}
	return f, nil
}

func (f *linkStream) sendBody(r *http.Request) {
	buffer := frameBuffers.Get().(*[]byte)
	defer frameBuffers.Put(buffer)
	for {
		n, err := r.Body.Read(*buffer)
		if n > 0 {
			if _, err := f.write((*buffer)[:n]); err != nil {
				_ = r.Body.Close()
				return // the stream has ended
			}
		}
		if err == nil {
			continue
		}
		_ = r.Body.Close()
		if errors.Is(err, io.EOF) {
			_ = f.link.sendFrame(frameEnd, f.id, nil)
		} else {
			f.giveUp(err)
		}
		return
	}
}

// giveUp ends a stream at the client, and tells the server unless it has ended there.
func (f *linkStream) giveUp(err error) {
	if f.link.stream(f.id) != nil {
		f.link.forget(f.id)
		_ = f.link.sendFrame(frameReset, f.id, nil)
	}
	f.end(err)
}

// answer waits for the head of the answer.
func (f *linkStream) answer(r *http.Request) (*http.Response, error) {
	select {
	case <-f.ready:
	case <-f.ctx.Done():
		f.giveUp(context.Cause(f.ctx))
		return nil, context.Cause(f.ctx)
	}
	if f.failed != nil {
		return nil, f.failed
	}
	f.head.Request = r
	f.head.Body = answerBody{f}
	if f.head.ContentLength == 0 || r.Method == http.MethodHead {
		f.mu.Lock()
		whole := f.inErr != nil
		f.mu.Unlock()
		if whole {
			f.head.Body = http.NoBody
		}
	}
	return f.head, nil
}

// answerBody is the body of an answer. When it is closed before its end, the server is told that nobody waits for the rest.
type answerBody struct{ *linkStream }

func (b answerBody) Close() error {
	b.giveUp(errFinished)
	return nil
}

func (f *linkStream) receiveHead(payload []byte) {
	if len(payload) < 10 {
		f.giveUp(errReset)
		return
	}
	status := int(binary.BigEndian.Uint16(payload))
	length := int64(binary.BigEndian.Uint64(payload[2:])) //nolint:gosec // -1 is unknown
	t := text{rest: string(payload[10:])}
	header := t.headers()
	if t.bad {
		f.giveUp(errReset)
		return
	}
	if length >= 0 && header["Content-Length"] == nil && status != http.StatusNoContent && status != http.StatusNotModified {
		header["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	head := &http.Response{
		Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status, Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: header, ContentLength: length,
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.head == nil && f.failed == nil {
		f.head = head
		f.ready <- struct{}{}
	}
}

var outBuffers = sync.Pool{New: func() any { b := make([]byte, 0, buffersOfOut); return &b }}

func getBuffer() *[]byte { return outBuffers.Get().(*[]byte) }

func putBuffer(b *[]byte) {
	if cap(*b) <= 4*buffersOfOut {
		*b = (*b)[:0]
		outBuffers.Put(b)
	}
}
