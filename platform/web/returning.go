package web

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// returningListener gives a server new connections, and returns connections whose parked request was answered.
type returningListener struct {
	net.Listener
	idleTimeout, headerTimeout time.Duration
	newConnections             chan accepted
	returned                   chan net.Conn
	closed                     chan struct{} // closed when no connection comes back any more
	closing                    sync.Once
	stopped                    chan struct{} // closed when nobody accepts any more
}

type accepted struct {
	conn net.Conn
	err  error
}

func newReturningListener(l net.Listener, idle, head time.Duration) *returningListener {
	k := &returningListener{
		Listener: l, idleTimeout: idle, headerTimeout: head, newConnections: make(chan accepted), returned: make(chan net.Conn),
		closed: make(chan struct{}), stopped: make(chan struct{}),
	}
	go k.acceptAll()
	return k
}

// acceptAll hands over what was accepted, also what came while the listener was being closed: its client is connected, may
// have sent a request, and would not send it again.
func (k *returningListener) acceptAll() {
	defer close(k.newConnections)
	for {
		c, err := k.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if c != nil {
			limitUnsent(c)
		}
		select {
		case k.newConnections <- accepted{c, err}:
		case <-k.stopped:
			if c != nil {
				_ = c.Close() // no server accepts any more
			}
			return
		}
	}
}

// Accept is part of net.Listener. After Close it still gives what was accepted before.
func (k *returningListener) Accept() (net.Conn, error) {
	select {
	case a, ok := <-k.newConnections:
		if !ok {
			return nil, net.ErrClosed
		}
		return a.conn, a.err
	case c := <-k.returned:
		return c, nil
	}
}

// Close is part of net.Listener.
func (k *returningListener) Close() error {
	k.closing.Do(func() { close(k.closed) })
	return k.Listener.Close()
}

func (k *returningListener) giveBack(c net.Conn, buffered []byte) bool {
	conn := &returnedConn{Conn: c, buffered: buffered, idleTimeout: k.idleTimeout, headerTimeout: k.headerTimeout}
	conn.nothingRead.Store(true)
	var returned net.Conn = conn
	if tcp, ok := c.(*net.TCPConn); ok {
		returned = &returnedTCP{conn, tcp}
	}
	select {
	case k.returned <- returned:
		return true
	case <-k.closed:
		return false
	}
}

// returnedConn is a connection that net/http had before and gets again: net/http takes it for a new one, whose client has to send a request
// soon, but it is one that may be idle. It can be taken back while a request is handled.
type returnedConn struct {
	net.Conn
	idleTimeout, headerTimeout time.Duration
	nothingRead                atomic.Bool // nothing was read since it was returned

	reading  sync.Mutex  // held by Read
	mu       sync.Mutex  // of the fields below
	buffered []byte      // read first
	heads    headCounter // of the bytes that net/http has read
	taken    bool
}

// headCounter counts the heads of requests, each of which ends with an empty line.
type headCounter struct {
	n     int
	empty bool // nothing is in this line
	ended bool // nothing came behind the last head
}

func (h *headCounter) add(p []byte) {
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
// used again. buffered is what came behind the request that net/http handles, which has no body; ok is false when net/http may have
// read more than that request.
func (c *returnedConn) takeBack() (buffered []byte, ok bool) {
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
	return c.buffered, true
}

func (c *returnedConn) isTaken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}

// Read is part of net.Conn.
func (c *returnedConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	n, err := c.readBuffered(p)
	if n == 0 && err == nil {
		n, err = c.Conn.Read(p)
		if n, err = c.count(p, n, err); n == 0 {
			return n, err
		}
	}
	if n > 0 && c.nothingRead.CompareAndSwap(true, false) {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.headerTimeout)) // a broken connection shows at the next read
	}
	return n, err
}

func (c *returnedConn) readBuffered(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken {
		return 0, io.EOF
	}
	n := copy(p, c.buffered)
	c.buffered = c.buffered[n:]
	c.heads.add(p[:n])
	return n, nil
}

// count notes what was read: when the connection was taken meanwhile, the bytes are kept from net/http.
func (c *returnedConn) count(p []byte, n int, err error) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken {
		c.buffered = append(c.buffered, p[:n]...)
		return 0, io.EOF
	}
	c.heads.add(p[:n])
	return n, err
}

// Write is part of net.Conn.
func (c *returnedConn) Write(p []byte) (int, error) {
	if c.isTaken() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Close is part of net.Conn.
func (c *returnedConn) Close() error {
	if c.isTaken() {
		return nil
	}
	return c.Conn.Close()
}

// SetDeadline is part of net.Conn.
func (c *returnedConn) SetDeadline(t time.Time) error {
	if c.isTaken() {
		return nil
	}
	return c.Conn.SetDeadline(t)
}

// SetWriteDeadline is part of net.Conn.
func (c *returnedConn) SetWriteDeadline(t time.Time) error {
	if c.isTaken() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetReadDeadline is part of net.Conn.
func (c *returnedConn) SetReadDeadline(t time.Time) error {
	if c.isTaken() {
		return nil
	}
	if c.nothingRead.Load() && time.Until(t) > 0 {
		if t = time.Now().Add(c.idleTimeout); c.idleTimeout == 0 {
			t = time.Time{}
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// returnedTCP lets io.Copy use sendfile.
type returnedTCP struct {
	*returnedConn
	tcp *net.TCPConn
}

// ReadFrom is part of io.ReaderFrom.
func (c *returnedTCP) ReadFrom(r io.Reader) (int64, error) {
	if c.isTaken() {
		return 0, net.ErrClosed
	}
	return c.tcp.ReadFrom(r)
}

// CloseWrite lets net/http end an answer before it ends the connection.
func (c *returnedTCP) CloseWrite() error {
	if c.isTaken() {
		return nil
	}
	return c.tcp.CloseWrite()
}

// returnedConnOf gives the wrapper of a connection that was used before, nil for a new one.
func returnedConnOf(c net.Conn) *returnedConn {
	switch c := c.(type) {
	case *returnedTCP:
		return c.returnedConn
	case *returnedConn:
		return c
	}
	return nil
}

// unwrap gives the connection itself.
func unwrap(c net.Conn) net.Conn {
	for kept := returnedConnOf(c); kept != nil; kept = returnedConnOf(c) {
		c = kept.Conn
	}
	return c
}
