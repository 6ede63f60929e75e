package router

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/prometheus/client_golang/prometheus"

	"lyceum/platform/web"
)

// HopHeader carries the machine id of the process that passed a request on.
const HopHeader = "Lyceum-Hop"

const (
	avoidFor   = 2 * time.Second // how long a process that could not be reached is not tried again
	drainGrace = time.Second     // how long a GET under way elsewhere may still take when this process stops
)

// Places knows where the roles are played.
type Places interface {
	// Pick returns the internal address (host:port) of the process that serves the key of a role best. The same key
	// gives the same place while the fleet does not change. With the key "" any process of the role will do: this
	// one when it plays the role, else each in turn. local says that it is this process; ok is false when
	// nobody plays the role.
	Pick(role, key string) (addr string, local, ok bool)
}

// Options is what a Router is given; all but Registry is required.
type Options struct {
	Places    Places
	Transport http.RoundTripper // speaks to internal listeners, authenticated both ways; its dial timeout is what a dead machine costs
	Machine   int               // id of this process
	Log       *slog.Logger
	Registry  *prometheus.Registry // nil: no metrics
}

// Router passes requests on.
type Router struct {
	places    Places
	transport http.RoundTripper
	machine   string
	log       *slog.Logger
	proxyLog  *log.Logger
	hops      *prometheus.CounterVec

	mu    sync.Mutex
	avoid map[string]time.Time // addresses that could not be reached, until when
}

// New makes a Router. Its Dispatch goes into web.Options.
func New(o Options) *Router {
	r := &Router{
		places: o.Places, transport: o.Transport, machine: strconv.Itoa(o.Machine), log: o.Log, proxyLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), avoid: map[string]time.Time{},
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
// (502) means that the other process was lost while it may have worked on the request.
func (r *Router) Dispatch(request *web.Request) (handled bool, err error) {
	route := request.Route
	if request.Internal() || route.Role == "" {
		return false, nil
	}
	key := keyOf(request)
	addr, local, ok := r.places.Pick(route.Role, key)
	if !ok || local || r.avoided(addr) {
		return false, nil
	}
	h := &hop{router: r, request: request, addr: addr}
	err = h.do()
	if errors.Is(err, errUnreached) {
		// The fleet may have moved the key meanwhile; one more place is tried, and then this one.
		if second, local, ok := r.places.Pick(route.Role, key); ok && !local && second != addr && !r.avoided(second) {
			h = &hop{router: r, request: request, addr: second}
			err = h.do()
		}
	}
	switch {
	case err == nil:
		r.hops.WithLabelValues(route.Role, "passed").Inc()
		return true, nil
	case errors.Is(err, errUnreached), errors.Is(err, errRepeatable):
		r.hops.WithLabelValues(route.Role, "served_here").Inc()
		r.log.InfoContext(request.Context(), "a request is served here, as its place did not answer", "request", request.ID(), "place", h.addr, "error", err)
		return false, nil
	case request.Context().Err() != nil:
		return false, err
	}
	r.hops.WithLabelValues(route.Role, "failed").Inc()
	return false, &web.Error{
		Status: http.StatusBadGateway, Code: "M_UNKNOWN", Cause: err,
		Message: "The process that worked on the request was lost; it may or may not have been done",
	}
}

// keyOf returns what balances the request. A caller is balanced by the token's hash, for which no database is
// needed, or by address when there is no token.
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

func (r *Router) avoided(addr string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.avoid[addr]
	if ok && time.Now().After(until) {
		delete(r.avoid, addr)
		return false
	}
	return ok
}

func (r *Router) avoidNow(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for old, until := range r.avoid {
		if now.After(until) {
			delete(r.avoid, old)
		}
	}
	r.avoid[addr] = now.Add(avoidFor)
}

// What became of a hop that gave no answer.
var (
	errUnreached  = errors.New("the process could not be reached")            // nothing was sent
	errRepeatable = errors.New("the process was lost before it answered")     // doing it again is safe
	errDraining   = errors.New("this process stops; the request was waiting") // cause of the cancelled hop
)

// hop is one try to have a request answered elsewhere.
type hop struct {
	router    *Router
	request   *web.Request
	addr      string
	body      *body
	failure   error
	headed    bool          // the head of an answer came, so that this was no lost process
	connected atomic.Bool   // a connection was there, so that something may have been sent
	begun     chan struct{} // closed when the answer has begun; nil when nobody waits for that
	once      sync.Once
}

// do returns nil when the answer was written. After errUnreached and errRepeatable the request's body can be
// read from its start again.
func (h *hop) do() error {
	in := h.request.Request
	ctx, cancel := context.WithCancelCause(in.Context())
	defer cancel(nil)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { h.connected.Store(true) }})
	if in.Method == http.MethodGet || in.Method == http.MethodHead {
		h.begun = make(chan struct{})
		go h.leaveWhenDraining(cancel)
		defer h.answerBegins()
	}
	in = in.WithContext(ctx)
	if in.Body != nil && in.Body != http.NoBody {
		h.body = &body{source: in.Body}
		in.Body = h.body
	}
	proxy := httputil.ReverseProxy{
		Rewrite:        h.rewrite,
		Transport:      h.router.transport,
		ModifyResponse: h.modify,
		ErrorHandler:   func(_ http.ResponseWriter, _ *http.Request, err error) { h.failure = err },
		BufferPool:     copyBuffers,
		ErrorLog:       h.router.proxyLog,
	}
	proxy.ServeHTTP(h.request.Writer(), in)
	if h.failure == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, errDraining) {
		h.failure = cause
	}
	return h.classify()
}

// classify says whether the failed request may be done again, and makes its body readable from the start.
func (h *hop) classify() error {
	original := h.request.Request
	if original.Context().Err() != nil {
		return original.Context().Err()
	}
	if h.headed {
		return h.failure
	}
	// A transport may have had an old connection that was closed, and then fail to make a new one.
	op, ok := errors.AsType[*net.OpError](h.failure)
	unsent := !h.connected.Load() || ok && op.Op == "dial"
	if unsent {
		h.router.avoidNow(h.addr)
	}
	idempotent := false
	switch original.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		idempotent = true
	}
	if !unsent && !idempotent {
		return h.failure
	}
	if h.body != nil {
		again, ok := h.body.again()
		if !ok {
			return h.failure
		}
		original.Body = again
	}
	if unsent {
		return errors.Join(errUnreached, h.failure)
	}
	return errors.Join(errRepeatable, h.failure)
}

func (h *hop) rewrite(p *httputil.ProxyRequest) {
	p.Out.URL.Scheme = "https"
	p.Out.URL.Host = h.addr
	header := p.Out.Header
	header.Set(HopHeader, h.router.machine)
	header.Set("X-Request-Id", h.request.ID())
	header.Set("X-Forwarded-Proto", h.request.Scheme())
	if client := h.request.RemoteIP(); client.IsValid() {
		header.Set("X-Forwarded-For", client.String())
	}
	if header.Get("Accept-Encoding") == "" {
		header.Set("Accept-Encoding", "identity") // else the transport asks for gzip and unpacks it, and the length is lost
	}
}

// modify drops what this process has set already, such as CORS, so that it does not stand there twice.
func (h *hop) modify(response *http.Response) error {
	h.headed = true
	h.answerBegins()
	for name := range h.request.Writer().Header() {
		response.Header.Del(name)
	}
	return nil
}

func (h *hop) answerBegins() {
	if h.begun != nil {
		h.once.Do(func() { close(h.begun) })
	}
}

func (h *hop) leaveWhenDraining(cancel context.CancelCauseFunc) {
	select {
	case <-h.begun:
		return
	case <-h.request.Draining():
	}
	grace := time.NewTimer(drainGrace)
	defer grace.Stop()
	select {
	case <-h.begun:
	case <-grace.C:
		cancel(errDraining)
	}
}
