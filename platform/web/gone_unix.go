//go:build unix

package web

import (
	"crypto/tls"
	"net"
	"syscall"
)

// isGone tells that the other end closed the connection; it does not wait and takes nothing.
func isGone(c net.Conn) bool {
	n, err := peek(c)
	return n == 0 && err == nil || err != nil && err != syscall.EAGAIN && err != syscall.EWOULDBLOCK && err != syscall.EINTR
}

// hasBytes tells that something came which was not read; it does not wait and takes nothing.
func hasBytes(c net.Conn) bool {
	n, err := peek(c)
	return n > 0 && err == nil
}

// peek looks for a byte. A connection without a file says that nothing came.
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
