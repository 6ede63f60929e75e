package web

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// maxOwnedHead is how long the head of a request may be that is read without net/http.
const maxOwnedHead = 4 << 10

var headBuffers = sync.Pool{New: func() any { return new([maxOwnedHead]byte) }}

// ownedConn is a connection that was taken from net/http with a parked request. A client that waits for news sends the same request again
// and again: such requests are read and served here, by the goroutine that gave the last answer. The first request of another kind gives
// the connection back to net/http.
type ownedConn struct {
	server      *Server
	conn        net.Conn
	buffered    []byte      // what the client sent behind the request
	path        string      // the path that requests served here may have; "": none
	peerAddress string      // its address
	connection  *connection // while no request is set aside
	idleUntil   time.Time   // when it counts as idle; zero: no longer known
}

func newOwnedConn(s *Server, c net.Conn, buffered []byte, r *http.Request) *ownedConn {
	h := &ownedConn{server: s, conn: c, buffered: buffered, peerAddress: strings.Clone(r.RemoteAddr)}
	if _, plain := c.(*net.TCPConn); plain && r.URL.RawPath == "" {
		h.path = r.URL.Path
	}
	return h
}

// open adds the connection to those that the end of the server waits for.
func (h *ownedConn) open() {
	h.connection = &connection{conn: h.conn, owned: h}
	h.connection.setIdle()
	h.server.connections.all.Store(h.conn, h.connection)
}

// serve answers requests until one is parked, the connection ends, or net/http gets it back. open was called before.
func (h *ownedConn) serve() {
	l := h.connection
	defer h.server.connections.all.CompareAndDelete(h.conn, l)
	for h.serveOne() {
		l.setIdle()
	}
}

func (h *ownedConn) serveOne() (more bool) {
	r := h.next()
	if r == nil {
		return false
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.connection.cancel.Store(&cancel)
	h.connection.state.Store(connectionHandling)
	w := &ownedWriter{conn: h, cancel: cancel, header: make(http.Header, 8)}
	wasSetAside := false
	defer func() {
		fault := recover() // it was logged
		if wasSetAside {
			return // another goroutine may have it already
		}
		cancel()
		if fault == nil {
			w.finish()
		}
		if more = fault == nil && w.reusable(); !more {
			_ = h.conn.Close() // nothing more is expected of it
		}
	}()
	wasSetAside = h.server.serve(w, r.WithContext(ctx), false)
	return false
}

// next reads a request; nil when the connection has ended or net/http has it.
func (h *ownedConn) next() *http.Request {
	if h.path == "" || len(h.buffered) > maxOwnedHead {
		h.giveBack(h.buffered)
		return nil
	}
	buffer := headBuffers.Get().(*[maxOwnedHead]byte)
	defer headBuffers.Put(buffer)
	n := copy(buffer[:], h.buffered)
	h.buffered = nil
	for began := false; ; {
		if n > 0 {
			h.connection.state.Store(connectionRead)
			r, size, plain := parseSameRequest(buffer[:n], h.path)
			if r != nil {
				h.buffered = bytes.Clone(buffer[size:n])
				r.RemoteAddr = h.peerAddress
				return r
			}
			if !plain || n == len(buffer) {
				h.giveBack(bytes.Clone(buffer[:n]))
				return nil
			}
		}
		switch { // a broken connection shows at the read
		case n == 0: // not each time anew: a timer costs as much as reading the request
			if idle, now := h.server.config.IdleTimeout.D(), time.Now(); h.idleUntil.Sub(now) < idle {
				h.idleUntil = now.Add(idle + idle/2)
				_ = h.conn.SetReadDeadline(h.idleUntil)
			}
		case !began:
			began, h.idleUntil = true, time.Time{}
			_ = h.conn.SetReadDeadline(time.Now().Add(h.server.config.HeaderTimeout.D()))
		}
		m, err := h.conn.Read(buffer[n:])
		switch n += m; {
		case m > 0 || err == nil:
		case n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && hasBytes(h.conn): // it came just now
			h.idleUntil = time.Time{}
		default:
			_ = h.conn.Close() // its client left, or was silent for too long
			return nil
		}
	}
}

// giveBack gives net/http the connection.
func (h *ownedConn) giveBack(read []byte) {
	if h.conn.SetDeadline(time.Time{}) != nil || !h.server.parked.giveBack(h.conn, read) {
		_ = h.conn.Close() // it is broken, or the server ends
	}
}

// parseSameRequest reads the head of a GET of path without a body, in the form that most clients send. It returns the size of the head; 0
// when the head is not complete yet; or plain false for every other request.
func parseSameRequest(b []byte, path string) (r *http.Request, size int, plain bool) {
	const method, ends = "GET ", "\r\n\r\n"
	if n := min(len(b), len(method)); string(b[:n]) != method[:n] {
		return nil, 0, false
	}
	if len(b) > len(method) {
		if n := min(len(b)-len(method), len(path)); string(b[len(method):len(method)+n]) != path[:n] {
			return nil, 0, false
		}
	}
	end := bytes.Index(b, []byte(ends))
	head := b
	if end >= 0 {
		head = b[:end+2]
	}
	if bytes.Count(head, []byte("\n")) != bytes.Count(head, []byte("\r\n")) {
		return nil, 0, false
	}
	if end < 0 {
		return nil, 0, true
	}
	first, rest, _ := strings.Cut(string(head), "\r\n")
	target, ok := strings.CutSuffix(first[len(method):], " HTTP/1.1")
	query, asks := strings.CutPrefix(target[min(len(path), len(target)):], "?")
	if !ok || len(target) < len(path) || asks != (len(target) > len(path)) || asks && query == "" || strings.ContainsFunc(target, unusual) {
		return nil, 0, false
	}
	r = &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: path, RawQuery: query}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody,
		RequestURI: target,
	}
	if r.Header, ok = plainHeader(rest); !ok {
		return nil, 0, false
	}
	hosts := r.Header["Host"]
	if len(hosts) != 1 || hosts[0] == "" || strings.ContainsFunc(hosts[0], notOfHost) {
		return nil, 0, false
	}
	r.Host = hosts[0]
	delete(r.Header, "Host")
	return r, end + len(ends), true
}

// plainHeader reads the fields of a head, unless one changes how the request or its answer is sent.
func plainHeader(lines string) (http.Header, bool) {
	n := strings.Count(lines, "\n")
	header, values := make(http.Header, n), make([]string, 0, n)
	for line := range strings.SplitSeq(strings.TrimSuffix(lines, "\r\n"), "\r\n") {
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsFunc(name, notOfName) || strings.ContainsFunc(value, notOfValue) {
			return nil, false
		}
		name, value = textproto.CanonicalMIMEHeaderKey(name), strings.Trim(value, " \t")
		switch name {
		case "Content-Length", "Transfer-Encoding", "Trailer", "Te", "Expect", "Upgrade", "Pragma":
			return nil, false
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return nil, false
			}
		}
		if header[name] != nil {
			header[name] = append(header[name], value)
			continue
		}
		values = append(values, value)
		header[name] = values[len(values)-1 : len(values) : len(values)]
	}
	return header, true
}

func unusual(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' }

func notOfName(c rune) bool {
	return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
}

func notOfValue(c rune) bool { return c < ' ' && c != '\t' || c >= 0x7f }

func notOfHost(c rune) bool { return notOfName(c) && c != '.' && c != ':' && c != '[' && c != ']' }
