package web

import (
	"net/http"
	"net/netip"
)

// Server serves routes.
type Server struct {
	config   Config
	draining chan struct{}
}

// ClientIP returns the address of the client.
func (s *Server) ClientIP(r *http.Request) netip.Addr {
	addr, _ := netip.ParseAddrPort(r.RemoteAddr)
	return addr.Addr().Unmap()
}
