package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// authenticate sets the identity of the request as the route wants it.
func (s *Server) authenticate(r *Request) error {
	auth := r.Route.Auth
	if auth == None || auth == Fleet {
		return nil
	}
	token := r.Token()
	if token == "" || s.auth == nil {
		if auth == Optional {
			return nil
		}
		return missingToken()
	}
	identity, err := s.identify(r, token)
	if identity != nil {
		r.Identity = identity
	}
	return err
}

// identify returns the identity of a token, or the error that says why it may not call the route.
func (s *Server) identify(r *Request, token string) (*Identity, error) {
	identity, err := s.auth.Authenticate(r.Context(), token)
	if err != nil {
		return nil, err
	}
	if identity == nil {
		return nil, errors.New("the authenticator gave neither an identity nor an error")
	}
	switch auth := r.Route.Auth; {
	case auth == User && identity.Guest, auth == Admin && identity.Guest:
		err = &Error{Status: http.StatusForbidden, Code: "M_GUEST_ACCESS_FORBIDDEN", Message: "Guests may not do this"}
	case auth == Admin && !identity.Admin:
		err = forbidden("Only an administrator of the server may do this")
	}
	return identity, err
}

// takeRateLimit takes from the bucket of the route.
func (s *Server) takeRateLimit(r *Request, e *endpoint) error {
	return s.takeUses(r, e.route.Limit, e.rate, 1)
}

// Take takes n uses from a named limit of the caller, beside the one that the route took: for requests that do more than their route says.
// One remaining use is enough to take up to the burst, and an untouched bucket is enough to take more; later requests then wait until the
// debt is paid. The error is 429 M_LIMIT_EXCEEDED.
func (r *Request) Take(limit string, n int) error {
	rate, ok := r.server.rates[limit]
	if !ok {
		return fmt.Errorf("unknown rate limit %q; see DefaultRateLimits", limit)
	}
	return r.server.takeUses(r, limit, rate, n)
}

// takeUses takes n uses from a bucket of the user, or of the client's address where there is no user. n uses are taken as one use that
// costs n times as much.
func (s *Server) takeUses(r *Request, limit string, rate RateLimit, n int) error {
	if s.limits == nil || s.config.RateLimitsOff || n <= 0 || rate.PerSecond <= 0 || r.Identity != nil && r.Identity.Unlimited {
		return nil
	}
	wait, err := s.limits.Take(r.Context(), limit+":"+r.caller(), rate.PerSecond/float64(n), 1+(rate.Burst-1)/n)
	if err != nil {
		s.log.DebugContext(r.Context(), "a rate limit could not be read; the request goes on", "request", r.id, "error", err)
		return nil
	}
	if wait > 0 {
		return limitExceeded(wait)
	}
	return nil
}

// AddressKey is the address, or its /64 for IPv6: that is what one household or host is given, so a client
// can change the rest at will.
func AddressKey(addr netip.Addr) string {
	if n := network(addr); n.Bits() == 64 {
		return n.String()
	}
	return addr.Unmap().String()
}

// network is what AddressKey names.
func network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits) // the zero Prefix for the zero Addr
	return prefix
}

// peerIP is the address at the other end of the connection; the zero Addr for a unix socket.
func peerIP(r *http.Request) netip.Addr {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Addr().Unmap()
}

// trusts reports whether the forwarding headers of a peer are believed. A peer on a unix socket is on this machine, and the permissions of
// the socket let it in.
func (s *Server) trusts(addr netip.Addr) bool {
	if !addr.IsValid() {
		return true
	}
	for _, prefix := range s.trusted {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// clientIP walks X-Forwarded-For from the right while the proxies that wrote the entries are trusted. The first address that is not a
// trusted proxy is the client; entries left of it are only the client's claim.
func (s *Server) clientIP(r *http.Request, internal bool) netip.Addr {
	addr := peerIP(r)
	if !internal && !s.trusts(addr) {
		s.noteUntrusted(r, addr)
		return addr
	}
	lines := r.Header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for rest != "" {
			cut := strings.LastIndexByte(rest, ',')
			next, err := parseForwarded(rest[cut+1:])
			if err != nil {
				return addr
			}
			if addr = next; !s.trusts(addr) {
				return addr
			}
			rest = rest[:max(cut, 0)]
		}
	}
	return addr
}

// parseForwarded reads "1.2.3.4", "1.2.3.4:5", "2001:db8::1" and "[2001:db8::1]:5".
func parseForwarded(text string) (netip.Addr, error) {
	text = strings.TrimSpace(text)
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Unmap().WithZone(""), nil
	}
	addr, err := netip.ParseAddrPort(text)
	return addr.Addr().Unmap().WithZone(""), err
}
