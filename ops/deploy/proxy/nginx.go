package proxy

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// Nginx renders a file for the http context of nginx 1.22 or newer (conf.d).
func Nginx(in Input) ([]byte, error) {
	in, err := in.check(true)
	if err != nil {
		return nil, err
	}
	if in.TLSCertificate != "" && in.TLSKey == "" {
		return nil, fmt.Errorf("TLS key: nginx wants the private key in a file of its own; name it")
	}
	list, err := in.rules(nil)
	if err != nil {
		return nil, err
	}
	f := &file{}
	f.head(&in, "The routing of Lyceum for nginx 1.22 or newer. Put it in /etc/nginx/conf.d/lyceum.conf, then:",
		"    nginx -t && systemctl reload nginx",
		"A reload starts new workers; the old ones finish what they have begun.",
		"",
		"nginx without a licence has no health checks of its own. A request that can not reach a process goes to the next",
		"one; after three within 2 s a process is left out for 2 s.")
	f.nginxUpstreams(&in)
	f.nginxMaps(&in, list)
	f.nginxServer(&in, list)
	return f.Bytes(), nil
}

func (f *file) nginxUpstreams(in *Input) {
	for _, name := range in.names() {
		f.line("upstream lyceum_%s {", name)
		f.because("    ", "The same key goes to the same process; when one is lost only its keys move. Without a key: any.")
		f.line("    hash $lyceum_hash consistent;")
		f.nginxServers(in, in.Backends[name], "")
		f.line("}")
		f.line("")
		back, ok := in.backup(name)
		if !ok {
			continue
		}
		f.because("", "For bodies that are passed on as they come, which can not be sent again from here.")
		f.line("upstream lyceum_%s_upload {", name)
		f.nginxServers(in, in.Backends[name], "")
		f.nginxServers(in, back, " backup")
		f.line("}")
		f.line("")
	}
}

// nginxServers are the lines of an upstream but for its rule.
func (f *file) nginxServers(in *Input, b Backend, role string) {
	for _, server := range b.Servers {
		f.line("    server %s max_fails=3 fail_timeout=2s%s;", server, role)
	}
	if b.DNS != "" {
		f.because("    ", "The name is looked up at the start and at each reload. From nginx 1.27.3 on, \"resolve\" with a zone follows it.")
		f.line("    server %s:%d max_fails=3 fail_timeout=2s%s;", b.DNS, b.Port, role)
	}
	if role == "" {
		f.because("    ", "Less than Lyceum keeps them (http.idle_timeout, "+seconds(in.IdleTimeout)+"), so that none is used while it closes.")
		f.line("    keepalive 64;")
		f.line("    keepalive_timeout %s;", seconds(in.keep()))
		f.line("    keepalive_time 1h;")
	}
}

func (f *file) nginxMap(source, name string, lines ...string) {
	f.line("map %s %s {", source, name)
	for _, text := range lines {
		f.line("    %s;", text)
	}
	f.line("}")
	f.line("")
}

func (f *file) nginxMaps(in *Input, list []rule) {
	f.because("", "The routes: the first rule that matches decides. They look at the request as it was sent, since nginx's own",
		"idea of the path has lost which slashes were escaped. A route's name says backend, key, limits and time.")
	var lines []string
	for _, path := range hiddenPaths {
		lines = append(lines, fmt.Sprintf(`"~^[A-Z]+:%s(?:[/?]|$)" refused`, path))
	}
	for i := range list {
		r := &list[i]
		method := "[A-Z]+"
		if r.methods != nil {
			method = "(?:" + strings.Join(r.methods, "|") + ")"
		}
		lines = append(lines, fmt.Sprintf(`"~^%s:%s" %s`, method, r.expression(true), r.class.slug(in)))
	}
	other := in.other()
	lines = append(lines, "default "+other.slug(in))
	f.nginxMap(`"$request_method:$request_uri"`, "$lyceum_route", lines...)

	all := classes(list, other)
	f.because("", "The key: requests of one room, user or file go to one process, which has them in memory.")
	keys := []string{`default ""`}
	for _, field := range distinct(all, func(c class) int { return c.field }) {
		if field == 0 {
			continue
		}
		name := fmt.Sprintf("$lyceum_path%d", field)
		for _, slug := range strings.Fields(slugs(in, all, func(c class) bool { return c.field == field })) {
			keys = append(keys, slug+" "+name)
		}
		f.nginxMap("$uri", name, fmt.Sprintf(`"~^(?:/[^/]*){%d}/(?<lyceum_part%d>[^/]+)" $lyceum_part%d`, field-1, field, field), `default ""`)
	}
	byUser := slugs(in, all, func(c class) bool { return c.key == "user" })
	if byUser != "" {
		f.nginxMap("$http_authorization", "$lyceum_bearer", `"~*^bearer +(?<lyceum_token>.+)$" $lyceum_token`, `default ""`)
		f.nginxMap("$arg_access_token", "$lyceum_query", `"" $remote_addr`, "default $arg_access_token")
		f.nginxMap("$lyceum_bearer", "$lyceum_user", `"" $lyceum_query`, "default $lyceum_bearer")
		for slug := range strings.FieldsSeq(byUser) {
			keys = append(keys, slug+" $lyceum_user")
		}
	}
	f.nginxMap("$lyceum_route", "$lyceum_key", keys...)
	f.nginxMap("$lyceum_key", "$lyceum_spread", `"" $request_id`, "default $lyceum_key")

	f.because("", "What becomes of a request that no process of its own took: it is sent to the default ones, which know where the",
		"processes are now, unless it may have been done already.")
	f.nginxMap("$upstream_connect_time", "$lyceum_reached", "~[0-9] reached", "default away")
	f.nginxMap(`"$request_method:$lyceum_reached:$upstream_status"`, "$lyceum_again", "~:away: again", "~504$ late",
		`"~^(?:POST|PATCH):" lost`, "default again")

	f.because("", "The log has no query, which may hold an access token. The error log of nginx has it, of requests that failed.")
	f.nginxMap("$request_uri", "$lyceum_path", `"~^(?<lyceum_logged>[^?]*)" $lyceum_logged`, `default ""`)
	f.line("log_format lyceum '$remote_addr [$time_local] \"$request_method $lyceum_path $server_protocol\" $status $body_bytes_sent '")
	f.line("    '$request_time $upstream_addr \"$http_user_agent\"';")
	f.line("")

	f.nginxMap("$http_upgrade", "$lyceum_connection", `"" ""`, "default upgrade")
	f.because("", "Who the client is says this balancer alone: what clients claim is dropped. Name this host in http.trusted_proxies.")
	f.line("geo $lyceum_trusted {")
	f.line("    default 0;")
	for _, network := range in.TrustedProxies {
		f.line("    %s 1;", network)
	}
	f.line("}")
	f.line("")
	f.nginxMap("$lyceum_trusted", "$lyceum_for", "1 $proxy_add_x_forwarded_for", "default $remote_addr")
	f.nginxMap(`"$lyceum_trusted:$http_x_forwarded_proto"`, "$lyceum_proto", "1:https https", "1:http http", "default $scheme")
}

// nginxListen writes the addresses to listen on: without a host all of IPv4 and IPv6.
func (f *file) nginxListen(address, options string) {
	host, port, _ := net.SplitHostPort(address)
	if host != "" {
		f.line("    listen %s%s;", net.JoinHostPort(host, port), options)
		return
	}
	f.line("    listen %s%s;", port, options)
	f.line("    listen [::]:%s%s;", port, options)
}

func (f *file) nginxServer(in *Input, list []rule) {
	name := in.ServerName
	if name == "" {
		name = "_"
	}
	if in.Redirect != "" && in.TLSCertificate != "" {
		f.line("server {")
		f.nginxListen(in.Redirect, "")
		f.line("    server_name %s;", name)
		f.line("    return 308 https://$host$request_uri;")
		f.line("}")
		f.line("")
	}
	f.line("server {")
	if in.TLSCertificate != "" {
		f.nginxListen(in.Listen, " ssl http2")
		f.line("    ssl_certificate %s;", in.TLSCertificate)
		f.line("    ssl_certificate_key %s;", in.TLSKey)
		f.line("    ssl_protocols TLSv1.2 TLSv1.3;")
		if in.HSTS {
			f.line("    add_header Strict-Transport-Security \"%s\" always;", hsts)
		}
	} else {
		f.nginxListen(in.Listen, "")
	}
	f.line("    server_name %s;", name)
	f.line("    access_log /var/log/nginx/access.log lyceum;")
	f.line("    merge_slashes off;")
	f.line("    server_tokens off;")
	f.line("    large_client_header_buffers 4 32k;")
	f.line("")
	f.nginxProxySettings(in)
	f.nginxErrors()
	f.line("")
	f.because("    ", "The key is taken before the path changes; then the route's name picks the location. The request passes unchanged.")
	f.line("    set $lyceum_hash $lyceum_spread;")
	f.line("    rewrite ^ /-/$lyceum_route last;")
	f.line("")
	f.line("    location = /-/refused {")
	f.line("        internal;")
	f.line("        default_type application/json;")
	f.line("        add_header Access-Control-Allow-Origin * always;")
	f.line("        return 404 '%s';", noEndpointBody)
	f.line("    }")
	for _, c := range classes(list, in.other()) {
		if c.backend != "" {
			f.nginxLocation(in, c)
		}
	}
	f.line("}")
}

// nginxProxySettings says how requests are passed on.
func (f *file) nginxProxySettings(in *Input) {
	f.line("    proxy_http_version 1.1;")
	f.line("    proxy_set_header Host $http_host;")
	f.line("    proxy_set_header X-Forwarded-For $lyceum_for;")
	f.line("    proxy_set_header X-Forwarded-Proto $lyceum_proto;")
	for _, name := range []string{"Forwarded", "X-Forwarded-Host", "X-Real-IP", "Lyceum-Hop", "X-Request-Id"} {
		f.line("    proxy_set_header %s \"\";", name)
	}
	f.line("    proxy_set_header Upgrade $http_upgrade;")
	f.line("    proxy_set_header Connection $lyceum_connection;")
	f.line("")
	f.because("    ", "A request that no process has seen goes to the next one. One that was sent is tried again only when doing it",
		"twice is the same as once: nginx never repeats POST, and the time limit keeps a slow answer from being asked for twice.")
	f.line("    proxy_connect_timeout 3s;")
	f.line("    proxy_next_upstream error timeout;")
	f.line("    proxy_next_upstream_tries 3;")
	f.line("    proxy_next_upstream_timeout %s;", seconds(min(10*time.Second, in.Timeout*9/10)))
	f.because("    ", "Answers are passed on as they come: syncs, downloads, websockets. JSON bodies are read first, so that a slow client",
		"holds no process; routes with streamed bodies turn that off.")
	f.line("    proxy_buffering off;")
	f.line("    client_body_buffer_size %d;", in.MaxBody)
	f.line("    proxy_redirect off;")
	f.line("")
}

// nginxErrors are the answers of nginx itself.
func (f *file) nginxErrors() {
	f.line("    recursive_error_pages on;")
	f.because("    ", "The answers of nginx itself, in the form of Lyceum's. Those of Lyceum pass as they are.")
	for _, e := range []struct {
		status int
		body   string
	}{{413, tooLargeBody}, {502, brokenBody}, {504, lateBody}} {
		f.nginxErrorPage("    ", e.status, "")
		f.line("    location @lyceum_%d {", e.status)
		f.line("        default_type application/json;")
		f.line("        add_header Access-Control-Allow-Origin * always;")
		if e.status == 502 {
			f.because("        ", "nginx says 502 also when no process is left.")
			f.line("        return 503 '%s';", unavailableBody)
		} else {
			f.line("        return %d '%s';", e.status, e.body)
		}
		f.line("    }")
	}
}

// nginxLocation passes on the requests of a class of routes.
func (f *file) nginxLocation(in *Input, c class) {
	upstream := c.backend
	_, backed := in.backup(c.backend)
	f.line("    location = /-/%s {", c.slug(in))
	f.line("        internal;")
	f.line("        client_max_body_size %d;", c.limit)
	if backed && c.upload {
		upstream += "_upload"
		f.line("        proxy_next_upstream_tries 0;")
	} else if backed {
		f.nginxErrorPage("        ", 413, "")
		f.nginxErrorPage("        ", 502, c.slug(in))
		f.nginxErrorPage("        ", 504, c.slug(in))
	}
	f.nginxPass(c, upstream)
	if !backed || c.upload {
		return
	}
	f.line("    location @lyceum_again-%s {", c.slug(in))
	f.line("        default_type application/json;")
	for _, e := range []struct {
		when, body string
		status     int
	}{{"lost", unavailableBody, 503}, {"late", lateBody, 504}} {
		f.line("        if ($lyceum_again = %s) {", e.when)
		f.line("            add_header Access-Control-Allow-Origin * always;")
		f.line("            return %d '%s';", e.status, e.body)
		f.line("        }")
	}
	f.nginxPass(c, in.fallback())
}

// nginxErrorPage names the location that answers, or takes a request of a class again.
func (f *file) nginxErrorPage(indent string, status int, again string) {
	if again != "" {
		f.line("%serror_page %d = @lyceum_again-%s;", indent, status, again)
		return
	}
	f.line("%serror_page %d = @lyceum_%d;", indent, status, status)
}

// nginxPass ends a location that passes requests on.
func (f *file) nginxPass(c class, upstream string) {
	f.line("        proxy_read_timeout %s;", seconds(c.timeout))
	f.line("        proxy_send_timeout %s;", seconds(c.timeout))
	if c.upload {
		f.line("        proxy_request_buffering off;")
	}
	f.line("        proxy_pass http://lyceum_%s$request_uri;", upstream)
	f.line("    }")
}
