package web

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// LimitTaker takes one token from a bucket that the whole fleet shares. wait is 0 when the request may go on,
// else the time after which it may come again.
type LimitTaker interface {
	Take(ctx context.Context, key string, perSecond float64, burst int) (wait time.Duration, err error)
}

// Options is what a Server is given. Only Log is required.
type Options struct {
	Log           *slog.Logger
	Registry      *prometheus.Registry // nil: no metrics
	Authenticator Authenticator        // nil: every token is refused as missing
	Limits        LimitTaker           // nil: no rate limits

	// UnderWay is told which requests of users may change something; nil: one of its own.
	UnderWay *UnderWay
	// Barrier runs before authentication and handler, so that what this process caches is as new as
	// anything that was acknowledged before the request. When it fails a request with a token is refused.
	Barrier func(ctx context.Context) error
	// Dispatch runs after matching and before all else of a route; handled means that the request was
	// answered elsewhere. An error is the answer.
	Dispatch func(r *Request) (handled bool, err error)
	// Tracer makes a span for each request of a route, in the trace that the request's headers name; nil: none.
	Tracer trace.Tracer
	// Ready is told true when Run begins to serve and false when it begins to stop.
	Ready func(ready bool)
	// OldPaths are paths of older specifications, beside those of the routes.
	OldPaths []OldPath
	Config   Config
}

// Server serves routes. Add them all before the first request.
type Server struct {
	log      *slog.Logger
	auth     Authenticator
	limits   LimitTaker
	barrier  func(ctx context.Context) error
	dispatch func(r *Request) (bool, error)
	ready    func(bool)
	tracer   trace.Tracer
	config   Config
	rates    map[string]RateLimit
	trusted  []netip.Prefix
	metrics  *metrics
	oldPaths []OldPath

	mux       *http.ServeMux
	endpoints []*endpoint
	unmatched *endpoint // counts requests that no route matched

	draining    chan struct{}
	drained     atomic.Bool
	leaving     atomic.Bool // answers ask clients to open another connection next time
	inflight    atomic.Int64
	memory      *memoryBudget
	places      *places
	underWay    *UnderWay
	parked      parkedRequests
	connections connections

	untrusted untrusted
}

// New makes a Server without routes. It fails when the configuration is not valid. Zero times and
// sizes in the configuration take their defaults.
func New(o Options) (*Server, error) {
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	s := &Server{
		log: o.Log, auth: o.Authenticator, limits: o.Limits, barrier: o.Barrier, dispatch: o.Dispatch, ready: o.Ready, tracer: o.Tracer,
		config: o.Config.withDefaults(), rates: DefaultRateLimits(),
		mux: http.NewServeMux(), draining: make(chan struct{}), oldPaths: o.OldPaths,
	}
	for name, rate := range o.Config.RateLimits {
		s.rates[name] = rate
	}
	for _, text := range o.Config.TrustedProxies {
		prefix, _ := parsePrefix(text) // Validate has read it
		s.trusted = append(s.trusted, prefix)
	}
	s.memory = newMemoryBudget(s.config.MaxInFlight.Bytes())
	s.metrics = newMetrics(o.Registry)
	s.places = newPlaces(s.metrics.waiting)
	if s.underWay = o.UnderWay; s.underWay == nil {
		s.underWay = NewUnderWay()
	}
	s.unmatched = &endpoint{}
	s.measure(s.unmatched, "none", "")
	s.mux.HandleFunc("/", s.serveMissing)
	return s, nil
}

// endpoint is a route with what the server keeps beside it.
type endpoint struct {
	route  Route
	rate   RateLimit
	series *series // of requests that clients sent
	hops   *series // of those that another process passed on
	root   bool    // it matches every path that nothing else does
}

// measure gives an endpoint its series.
func (s *Server) measure(e *endpoint, route, role string) {
	e.series = s.metrics.series(route, role, fromClient)
	if e.hops = e.series; s.dispatch != nil {
		e.hops = s.metrics.series(route, role, fromProcess)
	}
}

// Add adds routes. It panics on a route that can not be served as written (no method, no Auth, no handler, a
// Key or a Limit that does not exist) and on two routes that match the same request: these are mistakes
// of the program, seen when it starts.
func (s *Server) Add(routes ...Route) {
	for _, route := range routes {
		if err := s.check(&route); err != nil {
			panic(fmt.Sprintf("web: route %q: %v", route.Pattern, err))
		}
		e := &endpoint{route: route}
		s.measure(e, route.Pattern, route.Role)
		e.rate = s.rates[route.Limit]
		path := route.Path()
		e.root = path == "/" || strings.Count(path, "/") == 1 && strings.HasPrefix(path, "/{") && strings.HasSuffix(path, "...}")
		s.mux.Handle(route.Pattern, e)
		s.endpoints = append(s.endpoints, e)
	}
}

func (s *Server) check(route *Route) error {
	switch method := route.Method(); {
	case method == "" || method != strings.ToUpper(method) || !strings.HasPrefix(route.Path(), "/"):
		return fmt.Errorf("want METHOD /path")
	case method == http.MethodOptions:
		return fmt.Errorf("OPTIONS is answered by the server itself")
	case route.Auth.String() == "":
		return fmt.Errorf("say who may call it: Auth is not set")
	case route.Handler == nil:
		return fmt.Errorf("it has no Handler")
	}
	if name, ok := route.Key.PathName(); ok {
		if path := route.Path(); !strings.Contains(path, "{"+name+"}") && !strings.Contains(path, "{"+name+"...}") {
			return fmt.Errorf("the key %q is no wildcard of the pattern", name)
		}
	} else if route.Key != KeyNone && route.Key != KeyUser {
		return fmt.Errorf("unknown key %q", route.Key)
	}
	if _, ok := s.rates[route.Limit]; !ok && route.Limit != "" {
		return fmt.Errorf("unknown rate limit %q; see DefaultRateLimits", route.Limit)
	}
	return nil
}

// Routes returns all routes, sorted by path and method.
func (s *Server) Routes() []Route {
	routes := make([]Route, len(s.endpoints))
	for i, e := range s.endpoints {
		routes[i] = e.route
	}
	sortRoutes(routes)
	return routes
}

func sortRoutes(routes []Route) {
	slices.SortFunc(routes, func(a, b Route) int {
		return cmp.Or(cmp.Compare(a.Path(), b.Path()), cmp.Compare(a.Method(), b.Method()))
	})
}

// Handler serves clients. Fleet routes do not exist there.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, false) })
}

// Internal serves the other processes of the fleet: the same routes and those marked Fleet. The caller that mounts it must have
// authenticated the peer.
func (s *Server) Internal() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, true) })
}

// Drain tells all waiting handlers to answer at once. It may be called more than once.
func (s *Server) Drain() {
	s.leaving.Store(true)
	if s.drained.CompareAndSwap(false, true) {
		close(s.draining)
		s.parked.wakeAll()
	}
}

// serveMissing answers what no route matched: 405 when the path exists with another method, else 404.
func (s *Server) serveMissing(w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range methods {
		if method == r.Method {
			continue
		}
		if e, ok := s.find(method, r.URL); ok && !e.root && (e.route.Auth != Fleet || w.(*exchange).request.internal) {
			allowed = append(allowed, method)
		}
	}
	slices.Sort(allowed)
	if len(allowed) == 0 {
		w.(*exchange).fail(unrecognized(http.StatusNotFound))
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	w.(*exchange).fail(unrecognized(http.StatusMethodNotAllowed))
}
