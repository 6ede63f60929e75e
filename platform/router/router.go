package router

import (
	"cmp"
	"errors"
	"log"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"

	"lyceum/platform/web"
)

// HopHeader carries the machine id of the process that passed a request on.
const HopHeader = "Lyceum-Hop"

const (
	drainGrace = time.Second            // how long a GET under way elsewhere may still take when this process stops
	checkEvery = 250 * time.Millisecond // how often a waiting request checks whether its key has moved
	// How long a request that may not be done twice waits for a process that has lost its key. A process that hands its
	// keys over finishes earlier requests long before that, and one that is cut off from the database never does.
	wrongOwnerLimit = 3 * time.Second
	maxProcesses    = 3 // processes that one request is tried at before it is served here
)

// Directory knows which processes have which roles.
type Directory interface {
	// Route returns the internal address (host:port) of the process that serves the key of a role best. The same key
	// gives the same process while the fleet does not change. With the key "" any process of the role will do: this
	// one when it has the role, else each in turn. local says that it is this process; ok is false when no process has
	// the role.
	Route(role, key string) (addr string, local, ok bool)
	// IsAlive reports whether the process at an internal address is alive.
	IsAlive(addr string) bool
}

// Options wires a Router; all but Registry is required.
type Options struct {
	Directory Directory
	Transport http.RoundTripper // speaks to internal listeners, authenticated both ways; its dial timeout is what a dead machine costs
	Machine   int               // id of this process
	Log       *slog.Logger
	Registry  *prometheus.Registry // nil: no metrics
}

// Router passes requests on.
type Router struct {
	directory    Directory
	transport    http.RoundTripper
	machineValue []string // header value
	watch        watch
	log          *slog.Logger
	proxyLog     *log.Logger
	hops         *prometheus.CounterVec
	health       health
}

// New makes a Router. Its Dispatch goes into web.Options.
func New(o Options) *Router {
	r := &Router{
		directory: o.Directory, transport: o.Transport, machineValue: []string{strconv.Itoa(o.Machine)},
		watch: watch{waiting: map[*hop]struct{}{}}, log: o.Log, proxyLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		health: health{transport: o.Transport, down: map[string]*outage{}, suspects: map[string]bool{}},
		hops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lyceum_router_hops_total", Help: "Requests passed on to another process, by role and result (passed, served_here, failed).",
		}, []string{"role", "result"}),
	}
	if o.Registry != nil {
		o.Registry.MustRegister(r.hops)
	}
	return r
}

// Dispatch answers a request in another process, or returns false when it is to be served here. An error
// means that the other process was lost while it may have worked on the request (502), that its answer did not
// begin within the route's time (504), that the body is larger than the route takes (413) or could not be read (400).
func (r *Router) Dispatch(request *web.Request) (handled bool, err error) {
	route := request.Route
	if request.Internal() || route.Role == "" {
		return false, nil
	}
	key := keyOf(request)
	deadline := time.Now().Add(cmp.Or(route.Timeout, web.DefaultTimeout))
	var last *hop
	for range maxProcesses {
		// The fleet may have moved the key meanwhile: each try asks anew.
		addr, local, ok := r.directory.Route(route.Role, key)
		if !ok || local || last != nil && addr == last.addr || r.health.isDown(addr) {
			break
		}
		if last == nil && request.ContentLength > request.MaxBytes() {
			return false, request.TooLarge(request.MaxBytes())
		}
		last = &hop{router: r, request: request, addr: addr, key: key, deadline: deadline}
		if err = last.do(); !errors.Is(err, errUnreachable) && !errors.Is(err, errKeyMoved) {
			break
		}
	}
	switch {
	case last == nil:
		return false, nil
	case errors.Is(err, errTooLarge):
		return false, request.TooLarge(request.MaxBytes())
	case errors.Is(err, errBodyUnreadable):
		return false, request.Unread(err)
	case err == nil:
		r.hops.WithLabelValues(route.Role, "passed").Inc()
		return true, nil
	case errors.Is(err, errUnreachable), errors.Is(err, errRepeatable):
		r.hops.WithLabelValues(route.Role, "served_here").Inc()
		r.log.InfoContext(request.Context(), "a request is served here, as its process did not answer", "request", request.ID(), "process",
			last.addr, "error", err)
		return false, nil
	case request.Context().Err() != nil:
		return false, err
	}
	r.hops.WithLabelValues(route.Role, "failed").Inc()
	answer := &web.Error{Status: http.StatusBadGateway, Code: "M_UNKNOWN", Cause: err}
	switch {
	case errors.Is(err, errLate):
		answer = web.Late(cmp.Or(route.Timeout, web.DefaultTimeout), err)
	default:
		answer.Message = "The process that worked on the request was lost; it may or may not have been done"
	}
	return false, answer
}

// keyOf returns the key that balances the request. A user is balanced by the token's hash, which needs no database, or
// by address when there is no token.
func keyOf(r *web.Request) string {
	if name, ok := r.Route.Key.PathName(); ok {
		return r.Path(name)
	}
	if r.Route.Key != web.KeyUser {
		return ""
	}
	if token := r.Token(); token != "" {
		return strconv.FormatUint(xxhash.Sum64String(token), 36)
	}
	return r.RemoteIP().String()
}
