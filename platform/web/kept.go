package web

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// keptListener gives a server, besides new connections, those whose request was answered aside.
type keptListener struct {
	net.Listener
	idle, head time.Duration
	next       chan accepted
	kept       chan net.Conn
	closed     chan struct{}
	closing    sync.Once
}

type accepted struct {
	conn net.Conn
	err  error
}

func keep(l net.Listener, idle, head time.Duration) *keptListener {
	k := &keptListener{Listener: l, idle: idle, head: head, next: make(chan accepted), kept: make(chan net.Conn), closed: make(chan struct{})}
	go func() {
		for {
			c, err := l.Accept()
			select {
			case k.next <- accepted{c, err}:
			case <-k.closed:
				if c != nil {
					_ = c.Close() // it came while the server ended
				}
				return
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
		}
	}()
	return k
}

// Accept is part of net.Listener.
func (k *keptListener) Accept() (net.Conn, error) {
	select {
	case a := <-k.next:
		return a.conn, a.err
	case c := <-k.kept:
		return c, nil
	case <-k.closed:
		return nil, net.ErrClosed
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
// but it is one that may be idle.
type keptConn struct {
	net.Conn
	ahead      []byte // read first
	idle, head time.Duration
	fresh      atomic.Bool // nothing came yet
}

// SetReadDeadline is part of net.Conn.
func (c *keptConn) SetReadDeadline(t time.Time) error {
	if c.fresh.Load() && time.Until(t) > 0 {
		if t = time.Now().Add(c.idle); c.idle == 0 {
			t = time.Time{}
		}
	}
	return c.Conn.SetReadDeadline(t)
}

// Read is part of net.Conn.
func (c *keptConn) Read(p []byte) (n int, err error) {
	if len(c.ahead) > 0 {
		n = copy(p, c.ahead)
		c.ahead = c.ahead[n:]
	} else {
		n, err = c.Conn.Read(p)
	}
	if n > 0 && c.fresh.CompareAndSwap(true, false) {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.head)) // a broken connection shows at the next read
	}
	return n, err
}

// keptTCP keeps the kernel's file to socket copy reachable.
type keptTCP struct {
	*keptConn
	tcp *net.TCPConn
}

// ReadFrom is part of io.ReaderFrom.
func (c *keptTCP) ReadFrom(r io.Reader) (int64, error) { return c.tcp.ReadFrom(r) }

// CloseWrite lets net/http end an answer before it ends the connection.
func (c *keptTCP) CloseWrite() error { return c.tcp.CloseWrite() }

// unwrap gives the connection itself.
func unwrap(c net.Conn) net.Conn {
	for {
		switch kept := c.(type) {
		case *keptTCP:
			c = kept.tcp
		case *keptConn:
			c = kept.Conn
		default:
			return c
		}
	}
}
