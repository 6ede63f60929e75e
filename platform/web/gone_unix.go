//go:build unix

package web

import (
	"crypto/tls"
	"net"
	"syscall"
)

// isGone reports whether the other end closed the connection. It does not wait and reads nothing.
func isGone(c net.Conn) bool {
	n, err := peek(c)
	return n == 0 && err == nil || err != nil && err != syscall.EAGAIN && err != syscall.EWOULDBLOCK && err != syscall.EINTR
}

// hasBytes reports whether there are unread bytes. It does not wait and reads nothing.
func hasBytes(c net.Conn) bool {
	n, err := peek(c)
	return n > 0 && err == nil
}

// peek looks at the next byte without reading it. For a connection without a file descriptor it reports that nothing came.
func peek(c net.Conn) (n int, err error) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return 0, syscall.EAGAIN
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, failed = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	if err != nil {
		return 0, err
	}
	return n, failed
}
