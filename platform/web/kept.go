package web

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// keptListener gives a server new connections, and gives back connections whose parked request was answered.
type keptListener struct {
	net.Listener
	idle, head time.Duration
	next       chan accepted
	kept       chan net.Conn
	closed     chan struct{} // closed when no connection comes back any more
	closing    sync.Once
	left       chan struct{} // closed when nobody accepts any more
}

type accepted struct {
	conn net.Conn
	err  error
}

func keep(l net.Listener, idle, head time.Duration) *keptListener {
	k := &keptListener{
		Listener: l, idle: idle, head: head, next: make(chan accepted), kept: make(chan net.Conn), closed: make(chan struct{}),
		left: make(chan struct{}),
	}
	go k.acceptAll()
	return k
}

// acceptAll hands over what was accepted, also what came while the listener was being closed: its client is connected, may
// have sent a request, and would not send it again.
func (k *keptListener) acceptAll() {
	defer close(k.next)
	for {
		c, err := k.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if c != nil {
			boundUnsent(c)
		}
		select {
		case k.next <- accepted{c, err}:
		case <-k.left:
			if c != nil {
				_ = c.Close() // no server accepts any more
			}
			return
		}
	}
}

// Accept is part of net.Listener. After Close it still gives what was accepted before.
func (k *keptListener) Accept() (net.Conn, error) {
	select {
	case a, ok := <-k.next:
		if !ok {
			return nil, net.ErrClosed
		}
		return a.conn, a.err
	case c := <-k.kept:
		return c, nil
	}
}

// Close is part of net.Listener.
func (k *keptListener) Close() error {
	k.closing.Do(func() { close(k.closed) })
	return k.Listener.Close()
}

func (k *keptListener) give(c net.Conn, ahead []byte) bool {
	kept := &keptConn{Conn: c, ahead: ahead, idle: k.idle, head: k.head}
	kept.fresh.Store(true)
	var back net.Conn = kept
	if tcp, ok := c.(*net.TCPConn); ok {
		back = &keptTCP{kept, tcp}
	}
	select {
	case k.kept <- back:
		return true
	case <-k.closed:
		return false
	}
}

// keptConn is a connection that was used before: net/http takes it for a new one, whose client has to send a request soon,
// but it is one that may be idle. It can be taken back while a request is handled.
type keptConn struct {
	net.Conn
	idle, head time.Duration
	fresh      atomic.Bool // nothing came yet

	reading sync.Mutex // held by Read
	mu      sync.Mutex // of the fields below
	ahead   []byte     // read first
	heads   heads      // of the bytes that net/http has read
	taken   bool
}

// heads counts the heads of requests, each of which ends with an empty line.
type heads struct {
	n     int
	empty bool // nothing is in this line
	ended bool // nothing came behind the last head
}

func (h *heads) add(p []byte) {
	for _, b := range p {
		h.ended = false
		switch b {
		case '\r':
		case '\n':
			if h.empty {
				h.n++
				h.ended = true
			}
			h.empty = true
		default:
			h.empty = false
		}
	}
}

// takeBack takes the connection out of the hands of net/http, which finds it closed: unlike with Hijack its buffers can be
// used again. false when net/http may have read more than the request that it handles, which has no body. ahead is what
// came behind that.
func (c *keptConn) takeBack() (ahead []byte, ok bool) {
	c.mu.Lock()
	ok = c.heads.n == 1 && c.heads.ended
	c.taken = ok
	c.mu.Unlock()
	if !ok {
		return nil, false
	}
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // ends the read under way, in which net/http looks for a client that leaves
	c.reading.Lock()
	defer c.reading.Unlock()
	_ = c.Conn.SetDeadline(time.Time{}) // a broken connection shows at the next read
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead, true
}

func (c *keptConn) isTaken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}

// Read is part of net.Conn.
func (c *keptConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	n, err := c.readAhead(p)
	if n == 0 && err == nil {
		n, err = c.Conn.Read(p)
		if n, err = c.count(p, n, err); n == 0 {
			return n, err
		}
	}
	if n > 0 && c.fresh.CompareAndSwap(true, false) {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.head)) // a broken connection shows at the next read
	}
	return n, err
}

func (c *keptConn) readAhead(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken {
		return 0, io.EOF
	}
	n := copy(p, c.ahead)
	c.ahead = c.ahead[n:]
	c.heads.add(p[:n])
	return n, nil
}

// count notes what was read: when the connection was taken meanwhile, the bytes are kept from net/http.
func (c *keptConn) count(p []byte, n int, err error) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken {
		c.ahead = append(c.ahead, p[:n]...)
		return 0, io.EOF
	}
	c.heads.add(p[:n])
	return n, err
}

// Write is part of net.Conn.
func (c *keptConn) Write(p []byte) (int, error) {
	if c.isTaken() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Close is part of net.Conn.
func (c *keptConn) Close() error {
	if c.isTaken() {
		return nil
	}
	return c.Conn.Close()
}

// SetDeadline is part of net.Conn.
func (c *keptConn) SetDeadline(t time.Time) error {
	if c.isTaken() {
		return nil
	}
	return c.Conn.SetDeadline(t)
}

// SetWriteDeadline is part of net.Conn.
func (c *keptConn) SetWriteDeadline(t time.Time) error {
	if c.isTaken() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetReadDeadline is part of net.Conn.
func (c *keptConn) SetReadDeadline(t time.Time) error {
	if c.isTaken() {
		return nil
	}
	if c.fresh.Load() && time.Until(t) > 0 {
		if t = time.Now().Add(c.idle); c.idle == 0 {
			t = time.Time{}
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// keptTCP keeps the kernel's file to socket copy reachable.
type keptTCP struct {
	*keptConn
	tcp *net.TCPConn
}

// ReadFrom is part of io.ReaderFrom.
func (c *keptTCP) ReadFrom(r io.Reader) (int64, error) {
	if c.isTaken() {
		return 0, net.ErrClosed
	}
	return c.tcp.ReadFrom(r)
}

// CloseWrite lets net/http end an answer before it ends the connection.
func (c *keptTCP) CloseWrite() error {
	if c.isTaken() {
		return nil
	}
	return c.tcp.CloseWrite()
}

// keptOf gives the wrapper of a connection that was used before, nil for a new one.
func keptOf(c net.Conn) *keptConn {
	switch c := c.(type) {
	case *keptTCP:
		return c.keptConn
	case *keptConn:
		return c
	}
	return nil
}

// unwrap gives the connection itself.
func unwrap(c net.Conn) net.Conn {
	for kept := keptOf(c); kept != nil; kept = keptOf(c) {
		c = kept.Conn
	}
	return c
}
