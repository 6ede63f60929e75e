package web

import (
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	untrustedAgain = time.Hour // an address is named in the log once in so long, and counts as seen for so long
	untrustedMost  = 16        // addresses that are remembered: anybody may send the header
)

// untrusted are the addresses that claim to pass requests on for others and are not trusted proxies.
type untrusted struct {
	mu   sync.Mutex
	said map[netip.Addr]time.Time
	seen map[netip.Addr]time.Time
}

// noteUntrusted remembers an address that is no trusted proxy and whose request says whom it was passed on for. Behind a proxy that
// is not trusted all clients share one address, and with it the limits of one.
func (s *Server) noteUntrusted(r *http.Request, addr netip.Addr) {
	if r.Header["X-Forwarded-For"] == nil && r.Header["Forwarded"] == nil {
		return
	}
	u, now := &s.untrusted, time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.said == nil {
		u.said, u.seen = map[netip.Addr]time.Time{}, map[netip.Addr]time.Time{}
	}
	if _, known := u.said[addr]; !known && len(u.said) >= untrustedMost {
		u.forget(now)
		if len(u.said) >= untrustedMost {
			return
		}
	}
	u.seen[addr] = now
	if said, known := u.said[addr]; known && now.Sub(said) < untrustedAgain {
		return
	}
	u.said[addr] = now
	s.log.Warn("requests are passed on by an address that http.trusted_proxies does not name, so all its clients count as one, for limits "+
		"too: if it is your proxy, add it there", "address", addr)
}

// forget drops what was last seen long ago.
func (u *untrusted) forget(now time.Time) {
	for addr, at := range u.seen {
		if now.Sub(at) >= untrustedAgain {
			delete(u.seen, addr)
			delete(u.said, addr)
		}
	}
}

// UntrustedProxies are the addresses that passed requests on within the last hour and that http.trusted_proxies does not name.
func (s *Server) UntrustedProxies() (out []string) {
	u := &s.untrusted
	u.mu.Lock()
	defer u.mu.Unlock()
	u.forget(time.Now())
	for _, addr := range slices.SortedFunc(maps.Keys(u.seen), netip.Addr.Compare) {
		out = append(out, addr.String())
	}
	return out
}
