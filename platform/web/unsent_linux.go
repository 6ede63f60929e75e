package web

import (
	"net"
	"syscall"
)

// limitUnsent bounds what the kernel buffers of an answer that the client has not taken. Otherwise its buffer grows to megabytes, and
// it tells of progress only when a third of that is free: a slow reader would seem to stand still. Connections that are not TCP are left as
// they are.
func limitUnsent(c net.Conn) {
	s, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return
	}
	const notsentLowat = 25 // TCP_NOTSENT_LOWAT
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, notsentLowat, 2*paceBytes) // none of its errors harms
	})
}
