package web

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// OldPath says that requests whose path begins with Prefix are served by the routes that begin with Now, unless a route matches the path
// itself. Both end with a slash. Of several that fit, the first whose route exists counts.
type OldPath struct{ Prefix, Now string }

// modern returns the request with a current path: r itself, or a copy with another path. The mux checks the method.
func (s *Server) modern(r *http.Request) *http.Request {
	for _, old := range s.oldPaths {
		rest, ok := strings.CutPrefix(r.URL.Path, old.Prefix)
		if !ok {
			continue
		}
		if s.exists(r.URL) {
			return r
		}
		to := *r.URL
		to.Path = old.Now + rest
		if to.RawPath != "" {
			if rest, ok = strings.CutPrefix(to.RawPath, old.Prefix); !ok {
				continue // escaped letters in the prefix are not supported
			}
			to.RawPath = old.Now + rest
		}
		if s.exists(&to) {
			moved := *r
			moved.URL = &to
			return &moved
		}
	}
	return r
}

// exists reports whether a route matches the path with any method.
func (s *Server) exists(path *url.URL) bool {
	for _, method := range methods {
		if e, ok := s.find(method, path); ok && !e.root {
			return true
		}
	}
	return false
}

// find returns the route of a method and a path.
func (s *Server) find(method string, path *url.URL) (e *endpoint, ok bool) {
	handler, _ := s.mux.Handler(&http.Request{Method: method, URL: path})
	e, ok = handler.(*endpoint)
	return e, ok
}

// methods are those that routes can have.
var methods = [...]string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch}

// WithOldPaths returns the routes, and a copy of each under its old paths, for load balancers, which route by path.
func WithOldPaths(routes []Route, old []OldPath) []Route {
	taken := map[string]bool{}
	for _, r := range routes {
		taken[r.Pattern] = true
	}
	all := slices.Clone(routes)
	for _, o := range old {
		for _, r := range routes {
			rest, ok := strings.CutPrefix(r.Path(), o.Now)
			if !ok {
				continue
			}
			r.Pattern = r.Method() + " " + o.Prefix + rest
			if !taken[r.Pattern] {
				taken[r.Pattern] = true
				all = append(all, r)
			}
		}
	}
	return all
}
