package proxy

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"time"
)

// Answers of the balancer itself have the form of Lyceum's, with the header that lets a page of another origin
// read them.
const (
	tooLargeBody    = `{"errcode":"M_TOO_LARGE","error":"The body is larger than this server takes"}`
	noEndpointBody  = `{"errcode":"M_UNRECOGNIZED","error":"There is no such endpoint"}`
	unavailableBody = `{"errcode":"M_UNKNOWN","error":"No process of the server can be reached; try again soon"}`
	brokenBody      = `{"errcode":"M_UNKNOWN","error":"The process that worked on the request was lost"}`
	lateBody        = `{"errcode":"M_UNKNOWN","error":"The answer did not come in time"}`
)

// hiddenPaths are of the listeners for processes and operators; on the public one they are not served either.
var hiddenPaths = []string{"/_lyceum/rpc", "/metrics", "/ready", "/debug"}

// tunnelTime is how long a websocket may stay: an hour less than a day, so that an editor left open is not
// disconnected at the hour at which people come back.
const tunnelTime = 23 * time.Hour

const hsts = "max-age=63072000"

// file is a text that is being written.
type file struct{ bytes.Buffer }

func (f *file) line(format string, a ...any) {
	fmt.Fprintf(f, format, a...)
	f.WriteByte('\n')
}

// because writes a comment, wrapped by the caller.
func (f *file) because(indent string, lines ...string) {
	for _, text := range lines {
		f.line("%s# %s", indent, text)
	}
}

func (f *file) head(in *Input, about ...string) {
	f.line("# %s", in.Command)
	f.line("#")
	f.because("", about...)
	f.line("#")
	f.because("",
		"Do not edit: type the command again after an upgrade or when processes change their addresses. With a file that is",
		"too old, what a role's processes do not take goes to the default ones (router, all or client), which pass it on.")
	f.line("")
}

// HAProxy renders a complete haproxy.cfg for HAProxy 2.6 or newer.
func HAProxy(in Input) ([]byte, error) {
	in, err := in.check(true)
	if err != nil {
		return nil, err
	}
	list, err := in.rules(nil)
	if err != nil {
		return nil, err
	}
	f := &file{}
	f.head(&in, "The routing of Lyceum for HAProxy 2.6 or newer. Put it in /etc/haproxy/haproxy.cfg, then:",
		"    haproxy -c -f /etc/haproxy/haproxy.cfg && systemctl reload haproxy",
		"A reload starts new workers; the old ones finish what they have begun.")
	f.haproxyDefaults(&in)
	f.haproxyFrontend(&in, list)
	resolve := false
	for _, name := range in.names() {
		f.haproxyBackend(&in, name, list)
		resolve = resolve || in.Backends[name].DNS != ""
	}
	if resolve {
		f.line("resolvers lyceum")
		f.line("  parse-resolv-conf")
		f.because("  ", "As short as health checks, so that new processes get requests soon.")
		f.line("  hold valid 5s")
		f.line("  accepted_payload_size 8192")
	}
	return f.Bytes(), nil
}

func (f *file) haproxyDefaults(in *Input) {
	f.line("global")
	f.line("  log stdout format raw local0 info")
	if in.User != "" {
		f.line("  user %s", in.User)
		f.line("  group %s", in.User)
	}
	f.because("  ", "After a reload an old worker may stay for its websockets, but not for ever.")
	f.line("  hard-stop-after 24h")
	f.line("")
	f.line("defaults")
	f.line("  mode http")
	f.line("  log global")
	f.because("  ", "As option httplog, but without the query: it may hold an access token.")
	f.line("%s", `  log-format "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs`+
		` %HM %HPO %HV"`)
	f.line("  option dontlognull")
	f.because("  ", "/health is 200 only when a process would serve requests, and 503 from the moment it drains.",
		"A process that drains finishes what it has, so its connections are not cut.")
	f.line("  option httpchk GET /health")
	f.line("  http-check expect status 200")
	f.line("  default-server check inter 2s fastinter 500ms downinter 1s fall 2 rise 1 pool-purge-delay %s",
		seconds(min(in.keep()/16, 5*time.Second)))
	f.because("  ", "A request whose server can not be reached goes to the next one at the first retry. Failed connections",
		"are always tried again. A connection that closed without an answer is tried again for GET, HEAD, PUT",
		"and DELETE (see disable-l7-retry below): doing those twice is the same as once.")
	f.line("  option redispatch 1")
	f.line("  retries 3")
	f.line("  retry-on conn-failure empty-response")
	f.because("  ",
		"Unused connections are dropped long before Lyceum would close them (http.idle_timeout, "+seconds(in.IdleTimeout)+"): at each",
		"pool-purge-delay half of them go. With \"safe\" the first request of a client never meets a closing one.")
	f.line("  http-reuse safe")
	f.because("  ", "A client that hangs up is known to Lyceum: what it waited for ends, and what has not begun is not done.")
	f.line("  option abortonclose")
	f.line("  timeout connect 3s")
	f.line("  timeout queue 10s")
	f.because("  ", "Of inactivity of the client while it sends or reads.")
	f.line("  timeout client 1m")
	f.line("  timeout http-request 20s")
	f.line("  timeout http-keep-alive %s", seconds(in.keep()))
	f.because("  ", "Until an answer begins, where the route says nothing. Longer ones are set by backends.")
	f.line("  timeout server %s", seconds(in.Timeout))
	f.because("  ", "Websockets.")
	f.line("  timeout tunnel %s", seconds(tunnelTime))
	for _, e := range []struct {
		status int
		body   string
	}{{502, brokenBody}, {503, unavailableBody}, {504, lateBody}} {
		f.line("  http-error status %d content-type application/json string '%s' hdr Access-Control-Allow-Origin '*'", e.status, e.body)
	}
	f.line("")
}

// haproxyBind is an address to listen on: without a host all of IPv4 and IPv6.
func haproxyBind(address string) string {
	host, port, _ := net.SplitHostPort(address)
	if host == "" {
		return ":" + port + ",:::" + port + " v6only"
	}
	return net.JoinHostPort(host, port)
}

func (f *file) haproxyFrontend(in *Input, list []rule) {
	if in.Redirect != "" && in.TLSCertificate != "" {
		f.line("frontend lyceum_plain")
		f.line("  bind %s", haproxyBind(in.Redirect))
		f.line("  http-request redirect scheme https code 308")
		f.line("")
	}
	f.line("frontend lyceum")
	if in.TLSCertificate != "" {
		f.line("  bind %s ssl crt %s alpn h2,http/1.1 ssl-min-ver TLSv1.2", haproxyBind(in.Listen), in.TLSCertificate)
		if in.HSTS {
			f.line("  http-response set-header Strict-Transport-Security \"%s\"", hsts)
		}
	} else {
		f.line("  bind %s", haproxyBind(in.Listen))
	}
	f.line("")
	f.because("  ", "Who the client is says this balancer alone: what clients claim is dropped. Name this host in http.trusted_proxies.")
	unless := ""
	if len(in.TrustedProxies) > 0 {
		f.line("  acl from_trusted src %s", strings.Join(in.TrustedProxies, " "))
		unless = " unless from_trusted"
	}
	f.line("  http-request del-header X-Forwarded-For%s", unless)
	f.line("  http-request del-header X-Forwarded-Proto%s", unless)
	for _, name := range []string{"Forwarded", "X-Forwarded-Host", "X-Real-IP", "Lyceum-Hop", "X-Request-Id"} {
		f.line("  http-request del-header %s", name)
	}
	f.line("  option forwardfor")
	f.line("  http-request set-header X-Forwarded-Proto https if { ssl_fc } !{ req.hdr(X-Forwarded-Proto) -m found }")
	f.line("  http-request set-header X-Forwarded-Proto http if !{ ssl_fc } !{ req.hdr(X-Forwarded-Proto) -m found }")
	f.line("")
	f.because("  ", "What is for processes and operators is not served here.")
	for _, path := range hiddenPaths {
		f.line("  http-request set-var(txn.route) str(refused) if { path %s } or { path_beg %s/ }", path, path)
	}
	f.line("")
	f.haproxyRoutes(in, list)
	all := classes(list, in.other())
	f.haproxyKeys(in, all)
	f.line("  http-request disable-l7-retry unless { method GET HEAD PUT DELETE }")
	f.line("")
	for _, name := range in.names() {
		if names := slugs(in, all, func(c class) bool { return c.backend == name }); names != "" && name != in.fallback() {
			f.line("  use_backend %s if { var(txn.route) -m str %s }", name, names)
		}
	}
	f.line("  default_backend %s", in.fallback())
	f.line("")
}

// haproxyRoutes gives each request the name of its route, and refuses bodies that are too large for it.
func (f *file) haproxyRoutes(in *Input, list []rule) {
	f.because("  ", "The routes: the first rule that matches decides. A route's name says backend, key, limits and time.")
	for i := range list {
		r := &list[i]
		method := ""
		if r.methods != nil {
			method = "{ method " + strings.Join(r.methods, " ") + " } "
		}
		f.line("  http-request set-var(txn.route) str(%s) if !{ var(txn.route) -m found } %s{ path_reg '^%s' }", r.class.slug(in), method,
			r.expression(false))
	}
	other := in.other()
	f.line("  http-request set-var(txn.route) str(%s) if !{ var(txn.route) -m found }", other.slug(in))
	f.line("  http-request return status 404 content-type application/json string '%s' hdr Access-Control-Allow-Origin '*' if { "+
		"var(txn.route) -m str refused }", noEndpointBody)
	f.line("")
	all := classes(list, other)
	f.because("  ", "Limits of bodies whose length is told. Lyceum itself counts the others.")
	for _, limit := range distinct(all, func(c class) int64 { return c.limit }) {
		names := slugs(in, all, func(c class) bool { return c.backend != "" && c.limit == limit })
		if names != "" {
			f.line("  http-request return status 413 content-type application/json string '%s' hdr Access-Control-Allow-Origin '*' if { "+
				"var(txn.route) -m str %s } { req.hdr_val(content-length) gt %d }", tooLargeBody, names, limit)
		}
	}
	f.line("")
}

// haproxyKeys gives each request the key by which its backend chooses a process.
func (f *file) haproxyKeys(in *Input, all []class) {
	f.because("  ", "The key: requests of one room, user or file go to one process, which has them in memory.")
	for _, field := range distinct(all, func(c class) int { return c.field }) {
		if field > 0 {
			names := slugs(in, all, func(c class) bool { return c.field == field })
			f.line("  http-request set-var(txn.key) path,field(%d,/),url_dec if { var(txn.route) -m str %s }", field+1, names)
		}
	}
	if names := slugs(in, all, func(c class) bool { return c.key == "user" }); names != "" {
		f.line("  acl by_user var(txn.route) -m str %s", names)
		f.line("  http-request set-var(txn.key) req.hdr(authorization),regsub('^[Bb]earer +','') if by_user { req.hdr(authorization) -m found }")
		f.line("  http-request set-var(txn.key) url_param(access_token),url_dec if by_user !{ var(txn.key) -m found }")
		f.line("  http-request set-var(txn.key) src if by_user !{ var(txn.key) -m found }")
	}
}

func (f *file) haproxyBackend(in *Input, name string, list []rule) {
	all := classes(list, in.other())
	f.line("backend %s", name)
	f.because("  ", "Without a key each in turn. When a process is lost only its keys move to others.")
	f.line("  balance hash var(txn.key)")
	f.line("  hash-type consistent")
	for _, timeout := range distinct(all, func(c class) time.Duration { return c.timeout }) {
		names := slugs(in, all, func(c class) bool { return c.backend == name && c.timeout == timeout })
		if names != "" && timeout != in.Timeout {
			f.line("  http-request set-timeout server %s if { var(txn.route) -m str %s }", seconds(timeout), names)
		}
	}
	b := in.Backends[name]
	back, backed := in.backup(name)
	if backed {
		f.line("  default-server observe layer4 error-limit 1 on-error mark-down")
	}
	if b.DNS != "" {
		f.line("  server-template %s- 1-%d %s:%d resolvers lyceum init-addr none", name, max16(b.Max), b.DNS, b.Port)
	}
	for i, server := range b.Servers {
		f.line("  server %s-%d %s", name, i+1, server)
	}
	if backed {
		f.because("  ", "Where the processes are now these know, when none of the others can be reached, as after a restart that moved",
			"them. One that refuses a connection is left out until it is well.")
		f.line("  option allbackups")
		if back.DNS != "" {
			f.line("  server-template backup- 1-%d %s:%d backup resolvers lyceum init-addr none", max16(back.Max), back.DNS, back.Port)
		}
		for i, server := range back.Servers {
			f.line("  server backup-%d %s backup", i+1, server)
		}
	}
	f.line("")
}

func max16(n int) int {
	if n == 0 {
		return 16
	}
	return n
}

// distinct gives the values of all classes, each once, in their order.
func distinct[T comparable](all []class, of func(class) T) []T {
	var out []T
	seen := map[T]bool{}
	for _, c := range all {
		if v := of(c); !seen[v] {
			seen[v] = true
			out = append(out, v)
		}
	}
	return out
}

// slugs are the names of the classes that fit, separated by spaces.
func slugs(in *Input, all []class, fits func(class) bool) string {
	var out []string
	for _, c := range all {
		if fits(c) {
			out = append(out, c.slug(in))
		}
	}
	return strings.Join(out, " ")
}
