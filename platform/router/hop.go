package router

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"sync/atomic"
	"time"

	"lyceum/platform/web"
)

// What became of a hop that gave no answer.
var (
	errUnreached  = errors.New("the process could not be reached")                 // nothing was sent
	errRepeatable = errors.New("the process was lost before it answered")          // doing it again is safe
	errDraining   = errors.New("this process stops; the request was waiting")      // cause of the cancelled hop
	errMoved      = errors.New("another process serves the key now")               // cause of the cancelled hop
	errLost       = errors.New("another process has served the key for a while")   // cause of a cancelled hop that is not repeated
	errLate       = errors.New("the answer did not begin within the route's time") // cause of the cancelled hop
)

// The states of a hop: an answer that begins and a hop that is given up exclude each other.
const (
	waiting int32 = iota
	answering
	givenUp
)

// hop is one try to have a request answered elsewhere.
type hop struct {
	router    *Router
	request   *web.Request
	addr, key string
	deadline  time.Time // until which the answer must have begun
	body      *body
	failure   error
	state     atomic.Int32
	connected atomic.Bool   // a connection was there, so that something may have been sent
	begun     chan struct{} // closed when the answer has begun or the hop is over
}

// do returns nil when the answer was written. After errUnreached and errRepeatable the request's body can be
// read from its start again.
func (h *hop) do() error {
	in := h.request.Request
	ctx, cancel := context.WithCancelCause(in.Context())
	defer cancel(nil)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { h.connected.Store(true) }})
	in = in.WithContext(ctx)
	if in.Body != nil && in.Body != http.NoBody {
		h.body = &body{source: in.Body, limit: h.request.Route.Upload}
		in.Body = h.body
	}
	h.begun = make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		h.watch(cancel)
	}()
	proxy := httputil.ReverseProxy{
		Rewrite:        h.rewrite,
		Transport:      h.router.transport,
		ModifyResponse: h.modify,
		ErrorHandler:   func(_ http.ResponseWriter, _ *http.Request, err error) { h.failure = err },
		BufferPool:     copyBuffers,
		ErrorLog:       h.router.proxyLog,
	}
	defer func() { // also when a broken answer is cut by a panic
		if h.state.CompareAndSwap(waiting, givenUp) {
			close(h.begun)
		}
		<-watched
	}()
	proxy.ServeHTTP(h.request.Writer(), in)
	if h.failure == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && in.Context().Err() != nil && h.request.Context().Err() == nil {
		h.failure = cause
	}
	return h.classify()
}

// watch gives the hop up when waiting for its answer is no longer the best that can be done.
func (h *hop) watch(cancel context.CancelCauseFunc) {
	late := time.NewTimer(time.Until(h.deadline))
	defer late.Stop()
	var draining <-chan struct{}
	if method := h.request.Method; method == http.MethodGet || method == http.MethodHead {
		draining = h.request.Draining()
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var grace <-chan time.Time
	var moved time.Time // since when another place has the key; zero: it has not
	for {
		var cause error
		select {
		case <-h.begun:
			return
		case <-draining:
			draining, grace = nil, time.After(drainGrace)
			continue
		case <-grace:
			cause = errDraining
		case <-late.C:
			cause = errLate
		case <-look.C:
			if !h.misplaced() {
				moved = time.Time{}
				continue
			}
			if moved.IsZero() { // a place that only hands its keys over may be about to answer: it gets one look more
				moved = time.Now()
				continue
			}
			cause = errMoved
			if !h.idempotent() || h.body != nil && !h.body.repeatable() {
				if cause = errLost; time.Since(moved) < lostAfter {
					continue
				}
			}
		}
		if h.state.CompareAndSwap(waiting, givenUp) {
			cancel(cause)
		}
		return
	}
}

// misplaced tells whether another process serves the key now. Without a key the places change with each question, and
// a place is as good as any while its process lives.
func (h *hop) misplaced() bool {
	if h.key == "" {
		return !h.router.places.Lives(h.addr)
	}
	addr, _, ok := h.router.places.Pick(h.request.Route.Role, h.key)
	return ok && addr != h.addr
}

func (h *hop) idempotent() bool {
	switch h.request.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// classify says whether the failed request may be done again, and makes its body readable from the start.
func (h *hop) classify() error {
	original := h.request.Request
	switch {
	case original.Context().Err() != nil:
		return original.Context().Err()
	case h.state.Load() == answering, errors.Is(h.failure, errLate):
		return h.failure
	case h.body != nil && h.body.tooLarge():
		return errTooLarge
	}
	// A transport may have had an old connection that was closed, and then fail to make a new one.
	op, ok := errors.AsType[*net.OpError](h.failure)
	unsent := !h.connected.Load() || ok && op.Op == "dial"
	switch {
	case errors.Is(h.failure, errDraining):
	case errors.Is(h.failure, errMoved):
		h.router.health.suspect(h.addr)
	case unsent:
		h.router.health.lost(h.addr)
	default:
		h.router.health.suspect(h.addr)
	}
	if !unsent && !h.idempotent() || errors.Is(h.failure, errLost) {
		return h.failure
	}
	if h.body != nil {
		again, ok := h.body.again()
		if !ok {
			return h.failure
		}
		original.Body = again
	}
	if unsent && !errors.Is(h.failure, errMoved) {
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
	if !h.state.CompareAndSwap(waiting, answering) {
		return errDraining // given up in this moment; the cause is in the context
	}
	close(h.begun)
	for name := range h.request.Writer().Header() {
		response.Header.Del(name)
	}
	return nil
}
