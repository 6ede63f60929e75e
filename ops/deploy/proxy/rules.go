package proxy

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"lyceum/platform/web"
)

// class is what becomes of a request: two requests of one class are treated alike.
type class struct {
	backend string // "" is refused
	key     string // "", "user", or "path"
	field   int    // with "path": the segment of the path, from 1
	timeout time.Duration
	limit   int64 // bytes of the body
	upload  bool  // the body is streamed
}

// slug is a name for the class, unique in one file.
func (c class) slug(in *Input) string {
	if c.backend == "" {
		return "refused"
	}
	name := c.backend
	switch c.key {
	case "user":
		name += "-user"
	case "path":
		name += fmt.Sprintf("-path%d", c.field)
	}
	if c.upload {
		name += fmt.Sprintf("-upload%d", c.limit)
	} else if c.limit != in.MaxBody {
		name += fmt.Sprintf("-body%d", c.limit)
	}
	if c.timeout != in.Timeout {
		name += "-" + seconds(c.timeout)
	}
	return name
}

// ending says what may follow the segments of a rule.
type ending uint8

const (
	exact ending = iota
	slash        // one slash
	tree         // a slash and anything
	below        // nothing, or a slash and anything
)

// segment is the set of words that may stand at one place of a path; nil is any word.
type segment []string

func (s segment) overlaps(o segment) bool {
	return s == nil || o == nil || slices.ContainsFunc(s, func(w string) bool { return slices.Contains(o, w) })
}

func (s segment) covers(o segment) bool {
	return s == nil || o != nil && !slices.ContainsFunc(o, func(w string) bool { return !slices.Contains(s, w) })
}

// rule matches requests by method and path.
type rule struct {
	methods  []string // nil is any; GET stands with HEAD
	segments []segment
	end      ending
	class    class
}

func (r *rule) key() string { return fmt.Sprint(r.segments, r.end) }

func (r *rule) overlaps(o *rule) bool {
	if r.methods != nil && o.methods != nil && !slices.ContainsFunc(r.methods, func(m string) bool { return slices.Contains(o.methods, m) }) {
		return false
	}
	return r.overlapsPath(o)
}

func (r *rule) overlapsPath(o *rule) bool {
	short, long := r, o
	if len(short.segments) > len(long.segments) {
		short, long = long, short
	}
	for i, s := range short.segments {
		if !s.overlaps(long.segments[i]) {
			return false
		}
	}
	if len(short.segments) < len(long.segments) {
		return short.end >= tree
	}
	low, high := min(short.end, long.end), max(short.end, long.end)
	return low == high || high == below || high == tree && low == slash
}

// covers tells that r matches all that o does.
func (r *rule) covers(o *rule) bool {
	if r.methods != nil && (o.methods == nil || slices.ContainsFunc(o.methods,
		func(m string) bool { return !slices.Contains(r.methods, m) })) {
		return false
	}
	if len(r.segments) > len(o.segments) || len(r.segments) < len(o.segments) && r.end < tree {
		return false
	}
	for i, s := range r.segments {
		if !s.covers(o.segments[i]) {
			return false
		}
	}
	return len(r.segments) < len(o.segments) || r.end == below || r.end == o.end || r.end == tree && o.end == slash
}

// parse makes a rule of a pattern of net/http.ServeMux, without its class. The field is where key stands.
func parse(route *web.Route) (r rule, field int, err error) {
	method, path := route.Method(), route.Path()
	r.methods = []string{method}
	if method == http.MethodGet {
		r.methods = []string{http.MethodGet, http.MethodHead}
	}
	key, _ := route.Key.PathName()
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, part := range parts {
		last := i == len(parts)-1
		name, wild := strings.CutPrefix(part, "{")
		name = strings.TrimSuffix(name, "}")
		switch {
		case last && part == "{$}":
			r.end = slash
		case last && (part == "" || wild && strings.HasSuffix(name, "...")):
			r.end = tree
		case wild:
			r.segments = append(r.segments, nil)
		case regexp.MustCompile(`^[A-Za-z0-9._~-]+$`).MatchString(part):
			r.segments = append(r.segments, segment{part})
		default:
			return r, 0, fmt.Errorf("route %q: expected a path of letters, digits and ._~-, found %q", route.Pattern, part)
		}
		if wild && key != "" && strings.TrimSuffix(name, "...") == key {
			field = i + 1
		}
	}
	return r, field, nil
}

// classify gives the class of a route.
func (in *Input) classify(route *web.Route, field int) class {
	if route.Auth == web.Fleet {
		return class{}
	}
	c := class{timeout: cmp.Or(route.Timeout, in.Timeout), limit: cmp.Or(route.MaxBody, in.MaxBody)}
	if route.Upload > 0 {
		c.upload, c.limit = true, route.Upload
		if in.UploadLimit > 0 {
			c.limit = min(c.limit, in.UploadLimit)
		}
	}
	name := route.Role
	var own bool
	if c.backend, own = in.backend(name); !own {
		return c // a process of the default backend passes it on by the key
	}
	switch {
	case route.Key == web.KeyUser:
		c.key = "user"
	case field > 0:
		c.key, c.field = "path", field
	}
	return c
}

// other is the class of what no rule matches.
func (in *Input) other() class {
	return class{backend: in.fallback(), timeout: in.Timeout, limit: in.MaxBody}
}

// rules makes the ordered list of rules. same may make classes equal that a balancer can not tell apart.
func (in *Input) rules(same func(c class, files bool) class) ([]rule, error) {
	if same == nil {
		same = func(c class, _ bool) class { return c }
	}
	var all []rule
	for i := range in.Routes {
		r, field, err := parse(&in.Routes[i])
		if err != nil {
			return nil, err
		}
		r.class = same(in.classify(&in.Routes[i], field), in.streams(in.Routes[i].Role))
		all = append(all, r)
	}
	list := joinMethods(all)
	for i := range list {
		list[i] = widen(list[i], all)
	}
	slices.SortStableFunc(list, moreSpecific)
	list = slices.CompactFunc(list, func(a, b rule) bool {
		return a.key() == b.key() && slices.Equal(a.methods, b.methods) && a.class == b.class
	})
	list = dropNeedless(list, same(in.other(), false))
	return joinWords(list), nil
}

// joinMethods makes one rule of those that differ by method alone, and one for all methods where that changes
// nothing: a method that no route has is refused by every process alike.
func joinMethods(all []rule) []rule {
	var list []rule
	for _, r := range all {
		i := slices.IndexFunc(list, func(o rule) bool { return o.key() == r.key() && o.class == r.class })
		if i < 0 {
			r.methods = slices.Clone(r.methods)
			list = append(list, r)
			continue
		}
		for _, m := range r.methods {
			if !slices.Contains(list[i].methods, m) {
				list[i].methods = append(list[i].methods, m)
			}
		}
	}
	for i := range list {
		r := &list[i]
		slices.Sort(r.methods)
		if !slices.ContainsFunc(all, func(o rule) bool { return o.class != r.class && o.overlapsPath(r) }) {
			r.methods = nil
		}
	}
	return list
}

// widen replaces a rule by the shortest prefix under which all routes are of its class.
func widen(r rule, all []rule) rule {
	for n := 1; n <= len(r.segments); n++ {
		if r.segments[n-1] == nil {
			continue
		}
		prefix := rule{segments: r.segments[:n], end: below, class: r.class}
		// What serves all paths that nothing else does never gets those that begin with an underscore.
		reserved := r.segments[0] != nil && strings.HasPrefix(r.segments[0][0], "_")
		if !slices.ContainsFunc(all, func(o rule) bool {
			return o.class != r.class && prefix.overlapsPath(&o) && (len(o.segments) > 0 || !reserved)
		}) {
			return prefix
		}
	}
	return r
}

// moreSpecific orders rules so that of two that match one request the one for fewer requests stands first.
// That is an order because net/http.ServeMux takes no two patterns of which neither is more specific.
func moreSpecific(a, b rule) int {
	for i := range min(len(a.segments), len(b.segments)) {
		x, y := a.segments[i], b.segments[i]
		switch {
		case x == nil && y == nil:
		case x == nil:
			return 1
		case y == nil:
			return -1
		default:
			if c := slices.Compare(x, y); c != 0 {
				return c
			}
		}
	}
	if c := cmp.Compare(len(b.segments), len(a.segments)); c != 0 {
		return c
	}
	if c := cmp.Compare(a.end, b.end); c != 0 {
		return c
	}
	// A route for HEAD alone is more specific than one for GET.
	return cmp.Or(cmp.Compare(a.width(), b.width()), slices.Compare(a.methods, b.methods))
}

// width orders rules of one path: those for HEAD alone, those for other methods, those for any.
func (r *rule) width() int {
	switch {
	case r.methods == nil:
		return 2
	case slices.Contains(r.methods, http.MethodHead) && !slices.Contains(r.methods, http.MethodGet):
		return 0
	}
	return 1
}

// dropNeedless leaves out each rule without which its requests get the same class.
func dropNeedless(list []rule, other class) []rule {
	for i := len(list) - 1; i >= 0; i-- {
		r := &list[i]
		needed := r.class != other
		for j := i + 1; j < len(list); j++ {
			o := &list[j]
			if !o.overlaps(r) {
				continue
			}
			if needed = o.class != r.class; needed || o.covers(r) {
				break
			}
			needed = r.class != other
		}
		if !needed {
			list = slices.Delete(list, i, i+1)
		}
	}
	return list
}

// joinWords makes one rule of two that differ in one word of the path.
func joinWords(list []rule) []rule {
	for i := 0; i < len(list); i++ {
		for j := i + 1; j < len(list); j++ {
			joined, ok := join(&list[i], &list[j])
			if !ok || slices.ContainsFunc(list[i+1:j], func(o rule) bool { return o.class != list[j].class && o.overlaps(&list[j]) }) {
				continue
			}
			list[i] = joined
			list = slices.Delete(list, j, j+1)
			j = i
		}
	}
	return list
}

func join(a, b *rule) (rule, bool) {
	if a.class != b.class || a.end != b.end || len(a.segments) != len(b.segments) || !slices.Equal(a.methods, b.methods) {
		return rule{}, false
	}
	at := -1
	for i := range a.segments {
		if slices.Equal(a.segments[i], b.segments[i]) && (a.segments[i] == nil) == (b.segments[i] == nil) {
			continue
		}
		if at >= 0 || a.segments[i] == nil || b.segments[i] == nil {
			return rule{}, false
		}
		at = i
	}
	if at < 0 {
		return rule{}, false
	}
	joined := *a
	joined.segments = slices.Clone(a.segments)
	words := append(slices.Clone(a.segments[at]), b.segments[at]...)
	slices.Sort(words)
	joined.segments[at] = slices.Compact(words)
	return joined, true
}

// expression is the path of the rule as a regular expression, in the syntax that PCRE and RE2 have in common.
// uri is true when it is matched against a request target with its query.
func (r *rule) expression(uri bool) string {
	word, stop, more := `[^/]+`, `$`, `(?:/|$)`
	if uri {
		word, stop, more = `[^/?]+`, `(?:\?|$)`, `(?:[/?]|$)`
	}
	var b strings.Builder
	for _, s := range r.segments {
		b.WriteByte('/')
		switch len(s) {
		case 0:
			b.WriteString(word)
		case 1:
			b.WriteString(regexp.QuoteMeta(s[0]))
		default:
			quoted := make([]string, len(s))
			for i, w := range s {
				quoted[i] = regexp.QuoteMeta(w)
			}
			b.WriteString("(?:" + strings.Join(quoted, "|") + ")")
		}
	}
	switch r.end {
	case exact:
		b.WriteString(stop)
	case slash:
		b.WriteString("/" + stop)
	case tree:
		b.WriteString("/")
	case below:
		b.WriteString(more)
	}
	return b.String()
}

// classes are those of the rules and of the rest, each once, in the order of the rules.
func classes(list []rule, other class) []class {
	out := []class{}
	for _, r := range list {
		if !slices.Contains(out, r.class) {
			out = append(out, r.class)
		}
	}
	if !slices.Contains(out, other) {
		out = append(out, other)
	}
	return out
}
