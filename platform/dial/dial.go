package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// ErrPrivate is in the errors of connections to addresses that must not be reached.
var ErrPrivate = errors.New("expected a public address, found one that is not")

// Options say what may be reached, and how.
type Options struct {
	Allow     []netip.Prefix // networks that may be reached though they are not public
	Setting   string         // the configuration key of Allow, which errors name
	Within    time.Duration  // for a request of Client with its whole answer; 10 s when 0
	Redirects int            // that Client follows; 0 gives the redirect itself as the answer
}

const (
	connectWithin  = 5 * time.Second
	requestWithin  = 10 * time.Second
	maxHeaderBytes = 32 << 10
)

// Dialer connects to addresses that it may reach.
type Dialer struct {
	options Options
	net     net.Dialer
}

// New makes a Dialer.
func New(o Options) *Dialer {
	if o.Within == 0 {
		o.Within = requestWithin
	}
	d := &Dialer{options: o}
	d.net = net.Dialer{
		Timeout: connectWithin,
		// ControlContext sees each address that a name was resolved to, just before the connection to it.
		ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil || !strings.HasPrefix(network, "tcp") {
				return fmt.Errorf("connect to %s %s: expected an address of TCP", network, address)
			}
			return d.Check(at.Addr())
		},
	}
	return d
}

// DialContext connects to host:port. A name with several addresses is reached by one that may be reached.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.net.DialContext(ctx, network, address)
}

// Client makes a client of HTTP, whose connections are this Dialer's. Redirects are followed as Options say, never from
// https to http. It keeps idle connections: one Client serves a whole package.
func (d *Dialer) Client() *http.Client {
	return &http.Client{
		Timeout: d.options.Within,
		Transport: &http.Transport{
			DialContext: d.DialContext, ForceAttemptHTTP2: true, MaxIdleConns: 256, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: connectWithin, ResponseHeaderTimeout: d.options.Within, MaxResponseHeaderBytes: maxHeaderBytes,
		},
		CheckRedirect: d.redirect,
	}
}

func (d *Dialer) redirect(next *http.Request, via []*http.Request) error {
	switch {
	case d.options.Redirects == 0:
		return http.ErrUseLastResponse
	case len(via) > d.options.Redirects:
		return fmt.Errorf("expected at most %d redirects, found more", d.options.Redirects)
	case via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https":
		return fmt.Errorf("expected a redirect to https, found one to %s", next.URL.Scheme)
	}
	return nil
}

// Check tells why an address must not be reached; nil when it may.
func (d *Dialer) Check(ip netip.Addr) error {
	ip = ip.WithZone("").Unmap()
	for _, network := range d.options.Allow {
		if network.Contains(ip) {
			return nil
		}
	}
	if public(ip) {
		return nil
	}
	if d.options.Setting != "" {
		return fmt.Errorf("%s: %w; %s allows exceptions", ip, ErrPrivate, d.options.Setting)
	}
	return fmt.Errorf("%s: %w", ip, ErrPrivate)
}

// globalUnicast is all of IPv6 that is given out to be reached (RFC 4291, section 2.4, and IANA's registry).
var globalUnicast = netip.MustParsePrefix("2000::/3")

// special are the networks that are not of the public internet (RFC 6890 and IANA's registries of special addresses).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),        // this network
	netip.MustParsePrefix("10.0.0.0/8"),       // private
	netip.MustParsePrefix("100.64.0.0/10"),    // shared behind a provider's translation (CGNAT)
	netip.MustParsePrefix("127.0.0.0/8"),      // this machine
	netip.MustParsePrefix("168.63.129.16/32"), // public by its number: what each machine of Azure asks for its secrets
	netip.MustParsePrefix("169.254.0.0/16"),   // link-local, where clouds keep their metadata
	netip.MustParsePrefix("172.16.0.0/12"),    // private
	netip.MustParsePrefix("192.0.0.0/24"),     // protocol assignments
	netip.MustParsePrefix("192.0.2.0/24"),     // documentation
	netip.MustParsePrefix("192.88.99.0/24"),   // relays of 6to4
	netip.MustParsePrefix("192.168.0.0/16"),   // private
	netip.MustParsePrefix("198.18.0.0/15"),    // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"),  // documentation
	netip.MustParsePrefix("203.0.113.0/24"),   // documentation
	netip.MustParsePrefix("224.0.0.0/4"),      // multicast
	netip.MustParsePrefix("240.0.0.0/4"),      // reserved, and broadcast
	netip.MustParsePrefix("2001::/23"),        // protocol assignments, Teredo among them
	netip.MustParsePrefix("2001:db8::/32"),    // documentation
	netip.MustParsePrefix("2002::/16"),        // 6to4, which wraps any IPv4 address
	netip.MustParsePrefix("3fff::/20"),        // documentation
}

func public(ip netip.Addr) bool {
	if !ip.IsValid() || ip.Is6() && !globalUnicast.Contains(ip) {
		return false
	}
	for _, network := range special {
		if network.Contains(ip) {
			return false
		}
	}
	return true
}
