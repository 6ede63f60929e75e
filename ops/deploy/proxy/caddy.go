package proxy

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// Caddy renders a Caddyfile for Caddy 2.6 or newer.
func Caddy(in Input) ([]byte, error) {
	in, err := in.check(true)
	if err != nil {
		return nil, err
	}
	if in.TLSCertificate != "" && in.TLSKey == "" {
		return nil, fmt.Errorf("TLS key: Caddy wants the private key in a file of its own; name it")
	}
	list, err := in.rules(nil)
	if err != nil {
		return nil, err
	}
	f := &file{}
	f.head(&in, "The routing of Lyceum for Caddy 2.6 or newer. Put it in /etc/caddy/Caddyfile, then:",
		"    caddy validate --config /etc/caddy/Caddyfile && systemctl reload caddy",
		"A reload finishes what has begun; websockets are closed and come back.",
		"",
		"Caddy has no servers that are asked last: a role with several processes here answers 503 when all have moved, until",
		"the file is rendered again. A role with one goes to the default processes then; the",
		"first request with a body may be answered 503, as Caddy 2.6 can not send it again.",
		"",
		"Lyceum itself refuses bodies that are too large: Caddy 2.6 would call that a broken server.")
	f.line("{")
	if in.Automatic {
		f.because("	", "Certificates for the host names come by themselves: they must lead here, with the ports 80 and 443 open.")
	} else {
		f.line("	auto_https off")
	}
	f.because("	", "No access token of a query comes into a log.")
	f.line("	log {")
	f.line("		format filter {")
	f.line("			wrap json")
	f.line("			fields {")
	f.line("				request>uri query {")
	f.line("					delete access_token")
	f.line("				}")
	f.line("			}")
	f.line("		}")
	f.line("	}")
	f.line("	servers {")
	f.line("		timeouts {")
	f.line("			read_header 20s")
	f.line("			idle %s", seconds(in.keep()))
	f.line("		}")
	f.line("	}")
	f.line("}")
	f.line("")
	if in.Redirect != "" && in.TLSCertificate != "" {
		f.line("http://%s {", caddyAddress(in.Redirect))
		f.caddyBind(in.Redirect)
		f.line("	redir https://{host}{uri} 308")
		f.line("}")
		f.line("")
	}
	f.caddySite(&in, list)
	return f.Bytes(), nil
}

// caddyAddress is the port of a site's address; its hosts are matched by name otherwise.
func caddyAddress(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return ":" + port
}

func (f *file) caddyBind(address string) {
	if host, _, _ := net.SplitHostPort(address); host != "" {
		f.line("	bind %s", host)
	}
}

func (f *file) caddySite(in *Input, list []rule) {
	scheme := "http://"
	if in.TLSCertificate != "" || in.Automatic {
		scheme = "https://"
	}
	port := caddyAddress(in.Listen)
	sites := []string{scheme + port}
	if names := strings.Fields(in.ServerName); len(names) > 0 {
		sites = sites[:0]
		for _, name := range names {
			sites = append(sites, scheme+name+port)
		}
	}
	f.line("%s {", strings.Join(sites, ", "))
	f.caddyBind(in.Listen)
	if in.TLSCertificate != "" {
		f.line("	tls %s %s", in.TLSCertificate, in.TLSKey)
	}
	if in.HSTS {
		f.line("	header Strict-Transport-Security \"%s\"", hsts)
	}
	f.line("")
	f.because("	", "What clients claim about themselves is dropped. Name this host in http.trusted_proxies.")
	for _, name := range []string{"Forwarded", "X-Forwarded-Host", "X-Real-IP", "Lyceum-Hop", "X-Request-Id", "Lyceum-Key"} {
		f.line("	request_header -%s", name)
	}
	f.line("")
	f.because("	", "What is for processes and operators is not served here.")
	f.line("	@hidden path %s", strings.Join(hiddenPaths, " ")+" "+strings.Join(hiddenPaths, "/* ")+"/*")
	f.line("	handle @hidden {")
	f.caddyRefuse(404, noEndpointBody)
	f.line("	}")
	f.line("")
	f.because("	", "The routes: the first rule that matches decides. They look at the request as it was sent, since the decoded path",
		"has lost which slashes were escaped.")
	for i := range list {
		r := &list[i]
		f.line("	@r%d {", i+1)
		if r.methods != nil {
			f.line("		method %s", strings.Join(r.methods, " "))
		}
		f.line("		vars_regexp {http.request.uri} `^%s`", r.expression(true))
		f.line("	}")
		f.line("	handle @r%d {", i+1)
		f.caddyClass(in, r.class)
		f.line("	}")
	}
	f.line("	handle {")
	f.caddyClass(in, in.other())
	f.line("	}")
	f.line("")
	f.because("	", "The answers of Caddy itself, in the form of Lyceum's.")
	f.line("	handle_errors {")
	for _, e := range []struct {
		status int
		body   string
	}{{504, lateBody}, {502, unavailableBody}, {503, unavailableBody}} {
		f.line("		@e%d expression {http.error.status_code} == %d", e.status, e.status)
		f.line("		handle @e%d {", e.status)
		f.line("			header Access-Control-Allow-Origin *")
		f.line("			header Content-Type application/json")
		status := e.status
		if status == 502 {
			status = 503 // Caddy says 502 also when no process is left
		}
		f.line("			respond `%s` %d", e.body, status)
		f.line("		}")
	}
	f.line("	}")
	f.line("}")
}

func (f *file) caddyRefuse(status int, body string) {
	f.line("		header Access-Control-Allow-Origin *")
	f.line("		header Content-Type application/json")
	f.line("		respond `%s` %d", body, status)
}

func (f *file) caddyClass(in *Input, c class) {
	if c.backend == "" {
		f.caddyRefuse(404, noEndpointBody)
		return
	}
	f.because("		", c.slug(in))
	policy := "random"
	switch c.key {
	case "path":
		// The path is decoded, so that both ways to write a key give the same process.
		f.line("		request_header Lyceum-Key {http.request.uri.path.%d}", c.field-1)
		policy = "header Lyceum-Key"
	case "user":
		f.line("		@query query access_token=*")
		f.line("		@token header Authorization *")
		f.line("		route {")
		f.line("			request_header Lyceum-Key {http.request.remote.host}")
		f.line("			request_header @query Lyceum-Key \"Bearer {http.request.uri.query.access_token}\"")
		f.line("			request_header @token Lyceum-Key {http.request.header.Authorization}")
		f.line("		}")
		policy = "header Lyceum-Key"
	}
	b := in.Backends[c.backend]
	back, backed := in.backup(c.backend)
	backed = backed && len(b.Servers) == 1 && back.DNS == ""
	upstreams := caddyUpstreams(b)
	if backed {
		f.because("		", "The others take requests when the first can not be reached, as after a restart that moved it: "+
			"they know where it is now.")
		upstreams += caddyUpstreams(back)
		policy = "first"
	}
	f.line("		reverse_proxy %s{", upstreams)
	if b.DNS != "" {
		f.line("			dynamic a %s %d {", b.DNS, b.Port)
		f.line("				refresh 5s")
		f.line("			}")
	}
	f.line("			lb_policy %s", policy)
	f.because("			", "A process that can not be reached is passed over at once, for all requests. Others are tried again only when",
		"doing them twice is the same as once and nothing of a body is gone.")
	f.line("			lb_try_duration %s", seconds(min(in.Timeout/2, 5*time.Second)))
	f.line("			lb_try_interval 100ms")
	f.line("			lb_retry_match {")
	f.line("				method GET HEAD DELETE")
	f.line("			}")
	if b.DNS == "" {
		f.line("			health_uri /health")
		f.line("			health_interval 2s")
		f.line("			health_timeout 2s")
	}
	if backed { // the others are well, and health checks find out meanwhile
		f.line("			fail_duration 10s")
		f.line("			max_fails 1")
	} else {
		f.line("			fail_duration 2s")
		f.line("			max_fails 3")
	}
	f.because("			", "What comes is passed on at once. With -1 a process would not hear that a client hung up.")
	f.line("			flush_interval 1ms")
	if len(in.TrustedProxies) > 0 {
		f.line("			trusted_proxies %s", strings.Join(in.TrustedProxies, " "))
	}
	f.line("			header_up -Lyceum-Key")
	f.line("			header_up -X-Forwarded-Host")
	f.line("			header_up Host {http.request.host}")
	f.line("			transport http {")
	f.line("				dial_timeout 3s")
	f.line("				response_header_timeout %s", seconds(c.timeout))
	f.line("				keepalive %s", seconds(in.keep()))
	f.line("				keepalive_idle_conns_per_host 64")
	f.line("				compression off")
	f.line("			}")
	f.line("		}")
}

func caddyUpstreams(b Backend) string {
	var out strings.Builder
	for _, server := range b.Servers {
		out.WriteString(server + " ")
	}
	return out.String()
}
