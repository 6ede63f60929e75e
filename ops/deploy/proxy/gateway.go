package proxy

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"lyceum/platform/role"
)

// The limits of gateway.networking.k8s.io/v1.
const (
	maxGatewayRules   = 16
	maxGatewayMatches = 8
)

// servicePort is the port of clients on the Services of Kubernetes.
const servicePort = 8008

// gatewayClass is what a Gateway can tell apart. files tells that the route has files as answers.
func (in *Input) gatewayClass(c class, files bool) class {
	if files || in.streams(c.backend) {
		c.timeout = 0
	}
	c.key, c.field, c.limit, c.upload = "", 0, 0, false
	return c
}

// streams tells whether the answers of a role may be long: files. A time-out of a Gateway is for the whole
// answer, not for its beginning.
func (in *Input) streams(name string) bool {
	return slices.ContainsFunc(in.Roles, func(r role.Role) bool { return r.Name == name && (r.Key == "media" || r.Pool == "media") })
}

// Gateway renders HTTPRoutes of the Kubernetes Gateway API, v1. The backend of a role is the Service that Backends name, else the Service
// lyceum-<role>, port 8008. Path expressions need a Gateway that takes RegularExpression with the syntax of RE2 or PCRE, such as Envoy
// Gateway or Istio.
func Gateway(in Input) ([]byte, error) {
	in, err := in.check(false)
	if err != nil {
		return nil, err
	}
	list, err := in.rules(in.gatewayClass)
	if err != nil {
		return nil, err
	}
	f := &file{}
	f.head(&in, "The routing of Lyceum for a Gateway of Kubernetes:",
		"    kubectl apply -f "+cmp.Or(in.File, "FILE"),
		"",
		"A HTTPRoute can not name a key to hash by, a limit of bodies, or repeat what failed. Lyceum does without: a process",
		"passes a request on to the one that has the key, and counts bodies itself. Time-outs are for whole answers,",
		"so routes of files have none.")
	byBackend := map[string][]rule{}
	var names []string
	for _, r := range list {
		if r.class.backend == "" {
			continue // no public listener serves it, so it needs no rule
		}
		if byBackend[r.class.backend] == nil {
			names = append(names, r.class.backend)
		}
		byBackend[r.class.backend] = append(byBackend[r.class.backend], r)
	}
	other := in.gatewayClass(in.other(), false)
	if !slices.Contains(names, other.backend) {
		names = append(names, other.backend)
	}
	slices.Sort(names)
	first := true
	for _, name := range names {
		var blocks [][]rule
		var times []time.Duration
		for _, r := range byBackend[name] {
			i := len(blocks) - 1
			for ; i >= 0; i-- {
				if times[i] == r.class.timeout && matches(blocks[i])+max(1, len(r.methods)) <= maxGatewayMatches {
					break
				}
			}
			if i < 0 {
				blocks, times, i = append(blocks, nil), append(times, r.class.timeout), len(blocks)
			}
			blocks[i] = append(blocks[i], r)
		}
		if name == other.backend {
			blocks, times = append(blocks, nil), append(times, other.timeout)
		}
		for part := 0; len(blocks) > 0; part++ {
			n := min(len(blocks), maxGatewayRules)
			if !first {
				f.line("---")
			}
			first = false
			f.gatewayRoute(&in, name, part, blocks[:n], times[:n])
			blocks, times = blocks[n:], times[n:]
		}
	}
	return bytes.TrimLeft(f.Bytes(), "\n"), nil
}

// service is the Service of a role and its port.
func (in *Input) service(name string) (string, int) {
	b := in.Backends[name]
	if b.DNS != "" {
		return b.DNS, b.Port
	}
	if len(b.Servers) == 1 {
		if host, text, err := net.SplitHostPort(b.Servers[0]); err == nil && nameOf.MatchString(host) {
			if port, err := strconv.Atoi(text); err == nil {
				return host, port
			}
		}
	}
	return "lyceum-" + name, servicePort
}

func matches(list []rule) (n int) {
	for _, r := range list {
		n += max(1, len(r.methods))
	}
	return n
}

func (f *file) gatewayRoute(in *Input, name string, part int, blocks [][]rule, times []time.Duration) {
	title := "lyceum-" + name
	if part > 0 {
		title += fmt.Sprintf("-%d", part+1)
	}
	f.line("apiVersion: gateway.networking.k8s.io/v1")
	f.line("kind: HTTPRoute")
	f.line("metadata:")
	f.line("  name: %s", title)
	if in.Namespace != "" {
		f.line("  namespace: %s", in.Namespace)
	}
	f.line("  labels:")
	f.line("    app.kubernetes.io/name: lyceum")
	f.line("spec:")
	f.line("  parentRefs:")
	f.line("    - name: %s", in.Gateway)
	if hosts := strings.Fields(in.ServerName); len(hosts) > 0 {
		f.line("  hostnames:")
		for _, host := range hosts {
			f.line("    - %q", host)
		}
	}
	f.line("  rules:")
	for i, block := range blocks {
		f.line("    - matches:")
		if block == nil { // what no other rule matches
			f.gatewayMatch("PathPrefix", "/", "")
		}
		for _, r := range block {
			kind, value := r.gatewayPath()
			methods := r.methods
			if methods == nil {
				methods = []string{""}
			}
			for _, method := range methods {
				f.gatewayMatch(kind, value, method)
			}
		}
		f.line("      backendRefs:")
		service, port := in.service(name)
		f.line("        - name: %s", service)
		f.line("          port: %d", port)
		f.line("      timeouts:")
		if times[i] == 0 {
			f.line("        request: 0s")
		} else {
			// Lyceum's own answer says more than that of a Gateway, so it gets the time to come first.
			f.line("        request: %s", seconds(cmp.Or(times[i], in.Timeout)+5*time.Second))
		}
	}
}

// gatewayPath uses the kinds of match that every Gateway has where they say the same.
func (r *rule) gatewayPath() (kind, value string) {
	plain := true
	var path strings.Builder
	for _, s := range r.segments {
		plain = plain && len(s) == 1
		if plain {
			path.WriteString("/" + s[0])
		}
	}
	switch {
	case plain && r.end == exact:
		return "Exact", path.String()
	case plain && r.end == below && path.Len() > 0:
		return "PathPrefix", path.String()
	}
	switch r.end {
	case below, tree: // an expression is matched against the whole path
		return "RegularExpression", strings.TrimSuffix(strings.TrimSuffix(r.expression(false), `(?:/|$)`), "/") +
			map[ending]string{below: `(?:/.*)?`, tree: `/.*`}[r.end]
	}
	return "RegularExpression", strings.TrimSuffix(r.expression(false), "$")
}

func (f *file) gatewayMatch(kind, value, method string) {
	f.line("        - path:")
	f.line("            type: %s", kind)
	f.line("            value: '%s'", value)
	if method != "" {
		f.line("          method: %s", method)
	}
}
