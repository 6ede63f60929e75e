package proxy

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lyceum/platform/role"
	"lyceum/platform/web"
)

// table is the table of routes as manual/routes.md prints it, with the limits that it does not print.
func table(t testing.TB) []web.Route {
	t.Helper()
	text, err := os.ReadFile("../../../manual/routes.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []web.Route
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 8 || !strings.Contains(cells[2], "`") {
			continue
		}
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `\n")
		}
		r := web.Route{Pattern: cells[1] + " " + cells[2], Auth: web.None, Role: cells[4], Key: web.Key(cells[5])}
		if r.Role == "uploads" {
			r.Upload, r.Timeout = 100<<20, 10*time.Minute
		}
		if r.Role == "sync" {
			r.Timeout = 150 * time.Second
		}
		out = append(out, r)
	}
	if len(out) < 100 {
		t.Fatalf("%d routes were read from the manual", len(out))
	}
	return out
}

// tableRoles are the roles of the table with their pools.
var tableRoles = []role.Role{
	{Name: "router"},
	{Name: "client"},
	{Name: "sync", Key: "user"},
	{Name: "events", Key: "room"},
	{Name: "receipts", Key: "room"},
	{Name: "typing", Key: "room"},
	{Name: "presence", Key: "user"},
	{Name: "todevice", Key: "user"},
	{Name: "accountdata", Key: "user"},
	{Name: "devicelists", Key: "user"},
	{Name: "push"},
	{Name: "media", Key: "media"},
	{Name: "uploads", Pool: "media"},
	{Name: "downloads", Key: "media", Pool: "media"},
	{Name: "thumbnails", Key: "media", Pool: "media"},
	{Name: "admin", Pool: "client"},
}

func backends(names ...string) map[string]Backend {
	out := map[string]Backend{}
	for i, name := range names {
		out[name] = Backend{Servers: []string{fmt.Sprintf("192.0.2.%d:8008", i+1), fmt.Sprintf("192.0.2.%d:8009", i+1)}}
	}
	return out
}

// shapes are fleets: which roles have processes of their own.
func shapes() map[string]map[string]Backend {
	var all []string
	for _, r := range tableRoles {
		all = append(all, r.Name)
	}
	return map[string]map[string]Backend{
		"each":   backends(all...),
		"some":   backends("router", "sync", "events", "media"),
		"few":    backends("client", "sync", "thumbnails", "accountdata"),
		"router": backends("router"),
	}
}

// muxOf routes as web.Server does.
func muxOf(routes []web.Route) *http.ServeMux {
	mux := http.NewServeMux()
	for i := range routes {
		mux.Handle(routes[i].Pattern, index(i))
	}
	return mux
}

type index int

func (index) ServeHTTP(http.ResponseWriter, *http.Request) {}

// decide is what a balancer does with the list.
func decide(list []rule, other class, method, target string) class {
	path, _, _ := strings.Cut(target, "?")
	for i := range list {
		r := &list[i]
		if r.methods != nil && !slices.Contains(r.methods, method) {
			continue
		}
		if byPath, byTarget := compiled("^"+r.expression(false)).MatchString(path),
			compiled("^"+r.expression(true)).MatchString(target); byPath != byTarget {
			panic(fmt.Sprintf("%s is matched by path %v, by target %v", target, byPath, byTarget))
		} else if byPath {
			return r.class
		}
	}
	return other
}

var expressions = map[string]*regexp.Regexp{}

func compiled(text string) *regexp.Regexp {
	if expressions[text] == nil {
		expressions[text] = regexp.MustCompile(text)
	}
	return expressions[text]
}

// compare looks at one request.
func compare(in *Input, mux *http.ServeMux, list []rule, method, target string) error {
	request := httptest.NewRequest(method, target, nil)
	handler, _ := mux.Handler(request)
	i, ok := handler.(index)
	if !ok {
		return nil // 404, 405 or a redirect, wherever it goes
	}
	route := &in.Routes[i]
	_, field, err := parse(route)
	if err != nil {
		return err
	}
	if want, got := in.classify(route, field), decide(list, in.other(), method, target); got != want {
		return fmt.Errorf("%s %s is %s and was routed as %+v, want %+v", method, target, route.Pattern, got, want)
	}
	return nil
}

// words stand in for wildcards: also such as are literals elsewhere.
func words(routes []web.Route) *rapid.Generator[string] {
	known := []string{"%21a%3Ab", "a%2Fb", "x.y", "@u:h", "%3F", "state", "m.room.name"}
	for i := range routes {
		for part := range strings.SplitSeq(routes[i].Path(), "/") {
			if part != "" && part[0] != '{' && !slices.Contains(known, part) {
				known = append(known, part)
			}
		}
	}
	return rapid.SampledFrom(known)
}

func example(t *rapid.T, route *web.Route, word *rapid.Generator[string]) (method, target string) {
	var b strings.Builder
	for part := range strings.SplitSeq(strings.TrimPrefix(route.Path(), "/"), "/") {
		b.WriteByte('/')
		switch {
		case part == "{$}":
		case strings.HasSuffix(part, "...}"):
			b.WriteString(strings.Join(rapid.SliceOfN(word, 0, 3).Draw(t, "rest"), "/"))
		case strings.HasPrefix(part, "{"):
			b.WriteString(word.Draw(t, "word"))
		default:
			b.WriteString(part)
		}
	}
	b.WriteString(rapid.SampledFrom([]string{"", "?", "?a=/b&c"}).Draw(t, "query"))
	method = route.Method()
	if method == http.MethodGet && rapid.Bool().Draw(t, "HEAD") {
		method = http.MethodHead
	}
	return method, b.String()
}

// plainExample is a path of the route with the same word at each wildcard.
func plainExample(route *web.Route, word string) string {
	return regexp.MustCompile(`\{[^}]+\}`).ReplaceAllString(strings.Replace(route.Path(), "{$}", "", 1), word)
}

func TestEveryRouteGoesWhereTheRouterWouldSendIt(t *testing.T) {
	routes := table(t)
	mux := muxOf(routes)
	word := words(routes)
	for name, b := range shapes() {
		t.Run(name, func(t *testing.T) {
			in, err := Input{Roles: tableRoles, Routes: routes, Backends: b, Listen: ":80"}.check(true)
			if err != nil {
				t.Fatal(err)
			}
			list, err := in.rules(nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d rules for %d routes", len(list), len(routes))
			if len(list) > len(routes)/3 {
				t.Errorf("%d rules are too many for %d routes", len(list), len(routes))
			}
			for i := range routes {
				if method, target := routes[i].Method(), plainExample(&routes[i], "x"); compare(&in, mux, list, method, target) != nil {
					t.Error(compare(&in, mux, list, method, target))
				}
			}
			rapid.Check(t, func(r *rapid.T) {
				for i := range routes {
					method, target := example(r, &routes[i], word)
					if err := compare(&in, mux, list, method, target); err != nil {
						r.Fatal(err)
					}
				}
			})
		})
	}
}

// Tables that nobody wrote: few words, many overlaps.
func TestAnyTable(t *testing.T) {
	part := rapid.SampledFrom([]string{"_a", "b", "c", "{x}", "{x}"})
	rapid.Check(t, func(r *rapid.T) {
		mux := http.NewServeMux()
		in := Input{Roles: tableRoles, Backends: backends("router", "sync", "events", "media"), Timeout: time.Minute, MaxBody: 1}
		for range rapid.IntRange(1, 12).Draw(r, "routes") {
			var path strings.Builder
			n := 0
			for range rapid.IntRange(0, 4).Draw(r, "length") {
				p := part.Draw(r, "part")
				if p == "{x}" {
					n++
					p = fmt.Sprintf("{x%d}", n)
				}
				path.WriteString("/" + p)
			}
			path.WriteString(rapid.SampledFrom([]string{"", "", "/{$}", "/{rest...}"}).Draw(r, "end"))
			route := web.Route{
				Auth: rapid.SampledFrom([]web.Auth{web.None, web.None, web.None, web.Fleet}).Draw(r, "auth"),
				Role: rapid.SampledFrom([]string{"", "sync", "events", "downloads", "client"}).Draw(r, "role"),
			}
			if path.Len() == 0 {
				path.WriteString("/{$}")
			}
			route.Pattern = rapid.SampledFrom([]string{"GET", "PUT", "HEAD"}).Draw(r, "method") + " " + path.String()
			if n > 0 && rapid.Bool().Draw(r, "keyed") {
				route.Key = web.KeyPath(fmt.Sprintf("x%d", n))
			}
			if !accepts(mux, route.Pattern, index(len(in.Routes))) {
				continue // it overlaps another, and neither is more specific
			}
			in.Routes = append(in.Routes, route)
		}
		list, err := in.rules(nil)
		if err != nil {
			r.Fatal(err)
		}
		word := rapid.SampledFrom([]string{"_a", "b", "c", "d", "d%2Fd"})
		for range 30 {
			method, target := example(r, &in.Routes[rapid.IntRange(0, len(in.Routes)-1).Draw(r, "route")], word)
			// web.Server gives no path that begins with an underscore to a route of all paths.
			handler, _ := mux.Handler(httptest.NewRequest(method, target, nil))
			if i, ok := handler.(index); ok && in.Routes[i].Path() == "/{rest...}" && strings.HasPrefix(target, "/_") {
				continue
			}
			if err := compare(&in, mux, list, method, target); err != nil {
				for _, l := range list {
					r.Logf("%v %s %+v", l.methods, l.expression(false), l.class)
				}
				r.Fatal(err)
			}
		}
	})
}

func accepts(mux *http.ServeMux, pattern string, handler http.Handler) (ok bool) {
	defer func() { ok = recover() == nil }()
	mux.Handle(pattern, handler)
	return true
}

func TestWhatIsRefused(t *testing.T) {
	good := Input{Roles: tableRoles, Routes: table(t), Backends: backends("router"), Listen: ":80"}
	for what, change := range map[string]func(in *Input){
		"no default":   func(in *Input) { in.Backends = backends("sync") },
		"no backends":  func(in *Input) { in.Backends = nil },
		"no addresses": func(in *Input) { in.Backends = map[string]Backend{"router": {}} },
		"two kinds": func(in *Input) {
			in.Backends = map[string]Backend{"router": {Servers: []string{"a:1"}, DNS: "b", Port: 1}}
		},
		"no port":       func(in *Input) { in.Backends = map[string]Backend{"router": {DNS: "b"}} },
		"bad address":   func(in *Input) { in.Backends = map[string]Backend{"router": {Servers: []string{"a b:1"}}} },
		"bad name":      func(in *Input) { in.Backends["x\ny"] = Backend{Servers: []string{"a:1"}} },
		"no listener":   func(in *Input) { in.Listen = "" },
		"bad listener":  func(in *Input) { in.Listen = "80" },
		"bad proxy":     func(in *Input) { in.TrustedProxies = []string{"all"} },
		"a second line": func(in *Input) { in.TLSCertificate = "a\nb" },
		"bad host":      func(in *Input) { in.ServerName = "a;b" },
		"odd path":      func(in *Input) { in.Routes = []web.Route{{Pattern: "GET /a'b", Auth: web.None}} },
	} {
		in := good
		in.Backends = backends("router")
		change(&in)
		for name, render := range map[string]func(Input) ([]byte, error){"haproxy": HAProxy, "nginx": Nginx} {
			if _, err := render(in); err == nil {
				t.Errorf("%s: %s took it", what, name)
			}
		}
	}
}
