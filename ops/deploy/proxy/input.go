package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"lyceum/platform/role"
	"lyceum/platform/web"
)

// Times and sizes that hold where an Input says nothing.
const (
	defaultIdle    = 2 * time.Minute // http.idle_timeout
	defaultMaxBody = 1 << 20         // http.max_body
)

// Input is what a file is made from. Roles, Routes and Backends are required, and Listen except for Gateway.
type Input struct {
	Command string // the command line that makes the file; its first line names it
	Roles   []role.Role
	Routes  []web.Route

	// Backends by role. Routes of other roles go to that of the role's pool, else to the default: "router", "all" or "client".
	Backends map[string]Backend

	Listen         string // host:port or :port
	Redirect       string // host:port of a plain listener that sends all to https; "" for none
	ServerName     string // host names clients use, separated by spaces; "" for any
	TLSCertificate string // file with the certificate chain; "" for no TLS. For HAProxy the private key stands in the same file
	TLSKey         string // file with the private key, for nginx and Caddy
	HSTS           bool   // browsers are told to come by TLS alone, for two years
	User           string // user and group that HAProxy becomes; "" for who starts it

	Automatic bool // Caddy gets certificates for the host names by itself

	MaxBody        int64         // largest JSON body in bytes where the route says nothing (http.max_body); 0: 1 MiB
	UploadLimit    int64         // largest streamed body in bytes, where it is less than the route's; 0: the route's
	Timeout        time.Duration // longest time until an answer begins where the route says nothing; 0: web.DefaultTimeout
	IdleTimeout    time.Duration // of Lyceum's listener (http.idle_timeout); 0: 120 s. Connections to it are kept for less
	TrustedProxies []string      // addresses or networks whose X-Forwarded-For and -Proto are kept, such as a CDN before this balancer

	Gateway   string // Gateway API: name of the Gateway the routes attach to; "lyceum" when empty
	Namespace string // Gateway API: of all objects; "" for the one that is applied to
	File      string // Gateway API: where the file is written; "" when that is not known
}

// Backend is where the processes of a role listen to clients.
type Backend struct {
	Servers []string // host:port each
	DNS     string   // instead of Servers: a name with an address for each process
	Port    int      // with DNS
	Max     int      // with DNS: the most processes expected; 0 is 16
}

var (
	nameOf     = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	plainText  = regexp.MustCompile(`^[^\s"'\x60;{}\\#]*$`)
	plainNames = regexp.MustCompile(`^[A-Za-z0-9.*_ -]*$`)
)

// check fills what is not given and refuses what would not be a valid file.
func (in Input) check(needListen bool) (Input, error) {
	in.MaxBody = cmp.Or(in.MaxBody, defaultMaxBody)
	in.Timeout = cmp.Or(in.Timeout, web.DefaultTimeout)
	in.IdleTimeout = cmp.Or(in.IdleTimeout, defaultIdle)
	in.Gateway = cmp.Or(in.Gateway, "lyceum")
	in.Command = strings.Join(strings.Fields(cmp.Or(in.Command, "lyceum render")), " ")
	errs := append(in.checkListeners(needListen), in.checkNames()...)
	for name, b := range in.Backends {
		errs = append(errs, b.check(name)...)
	}
	if len(in.Backends) > 0 && in.fallback() == "" {
		errs = append(errs, fmt.Errorf("backends: one of router, all or client is needed for what has no backend of its own; found %s",
			strings.Join(in.names(), ", ")))
	} else if len(in.Backends) == 0 {
		errs = append(errs, errors.New("backends: none are given"))
	}
	return in, errors.Join(errs...)
}

// checkListeners checks where clients connect, and TLS there.
func (in *Input) checkListeners(needListen bool) (errs []error) {
	fail := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	for _, where := range []string{in.Listen, in.Redirect} {
		if where == "" {
			continue
		}
		if err := checkAddress(where); err != nil {
			fail("listen: %w", err)
		}
	}
	if needListen && in.Listen == "" {
		fail("listen: expected host:port or :port, found nothing")
	}
	if in.TLSCertificate == "" && strings.HasSuffix(in.Listen, ":443") && !in.Automatic {
		fail("listen: %s without a certificate would answer in clear where clients expect TLS: give the certificate, or another port, "+
			"such as :80 behind a proxy with TLS", in.Listen)
	}
	if in.HSTS && in.TLSCertificate == "" && !in.Automatic {
		fail("HSTS: it binds browsers to TLS, and there is no certificate: give one, or leave it out")
	}
	return errs
}

// checkNames checks texts that become words of the file.
func (in *Input) checkNames() (errs []error) {
	fail := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	for _, text := range []string{in.TLSCertificate, in.TLSKey, in.User, in.Gateway, in.Namespace} {
		if !plainText.MatchString(text) {
			fail("expected a name without spaces and quotes, found %q", text)
		}
	}
	if !plainNames.MatchString(in.ServerName) {
		fail("server name: expected host names, found %q", in.ServerName)
	}
	for _, text := range in.TrustedProxies {
		if _, err := netip.ParsePrefix(text); err != nil {
			if _, err := netip.ParseAddr(text); err != nil {
				fail("trusted proxies: expected an address or a network such as 10.0.0.0/8, found %q", text)
			}
		}
	}
	return errs
}

// check checks the backend of a role.
func (b *Backend) check(name string) (errs []error) {
	if !nameOf.MatchString(name) {
		errs = append(errs, fmt.Errorf("backend %q: expected the name of a role", name))
	}
	fail := func(err error) { errs = append(errs, fmt.Errorf("backend %s: %w", name, err)) }
	switch {
	case len(b.Servers) > 0 && b.DNS != "":
		fail(errors.New("give addresses or a DNS name, not both"))
	case b.DNS != "" && (b.Port <= 0 || b.Port > 65535 || b.Max < 0 || !plainText.MatchString(b.DNS)):
		fail(fmt.Errorf("expected a DNS name with a port, found %q and %d", b.DNS, b.Port))
	case b.DNS == "" && len(b.Servers) == 0:
		fail(errors.New("it has neither addresses nor a DNS name"))
	}
	for _, server := range b.Servers {
		if err := checkAddress(server); err != nil {
			fail(err)
		}
	}
	return errs
}

func checkAddress(text string) error {
	_, port, err := net.SplitHostPort(text)
	if err != nil || !plainText.MatchString(text) {
		return fmt.Errorf("expected host:port, found %q", text)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("expected a port from 1 to 65535, found %q", text)
	}
	return nil
}

func (in *Input) names() []string { return slices.Sorted(maps.Keys(in.Backends)) }

// fallback is the backend of what has none of its own. Its processes pass requests on themselves.
func (in *Input) fallback() string {
	for _, name := range []string{"router", "all", "client"} {
		if _, ok := in.Backends[name]; ok {
			return name
		}
	}
	return ""
}

// backup is the backend that takes requests of another one when none of its servers can be reached, as after a restart that
// gave them new addresses; false when there is none.
func (in *Input) backup(name string) (Backend, bool) {
	back := in.Backends[in.fallback()]
	if name == in.fallback() {
		return Backend{}, false
	}
	if back.DNS != "" {
		return back, true
	}
	own := in.Backends[name]
	rest := slices.DeleteFunc(slices.Clone(back.Servers), func(server string) bool { return slices.Contains(own.Servers, server) })
	return Backend{Servers: rest}, len(rest) > 0
}

// backend is the backend that serves a role, and whether it is one of the role or its pool.
func (in *Input) backend(name string) (string, bool) {
	for range 4 { // a pool may have a pool
		if _, ok := in.Backends[name]; ok {
			return name, true
		}
		i := slices.IndexFunc(in.Roles, func(r role.Role) bool { return r.Name == name })
		if i < 0 || in.Roles[i].Pool == "" {
			break
		}
		name = in.Roles[i].Pool
	}
	return in.fallback(), false
}

// keep is how long an unused connection to Lyceum is kept: less than Lyceum keeps it, so that no request is
// sent on a connection that is being closed.
func (in *Input) keep() time.Duration {
	return max(in.IdleTimeout/2, in.IdleTimeout-5*time.Second)
}

// seconds prints a time for HAProxy, nginx and Caddy alike.
func seconds(d time.Duration) string {
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}
