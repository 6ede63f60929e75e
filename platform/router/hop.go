package router

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lyceum/platform/rpc"
	"lyceum/platform/web"
)

// What became of a hop that gave no answer.
var (
	errUnreachable = errors.New("the process could not be reached")                 // nothing was sent
	errRepeatable  = errors.New("the process was lost before it answered")          // doing it again is safe
	errDraining    = errors.New("this process stops; the request was waiting")      // cause of the cancelled hop
	errKeyMoved    = errors.New("another process serves the key now")               // cause of the cancelled hop
	errWrongOwner  = errors.New("another process has served the key for a while")   // cause of a cancelled hop that is not repeated
	errLate        = errors.New("the answer did not begin within the route's time") // cause of the cancelled hop
)

// The states of a hop: an answer that begins and a hop that is given up exclude each other.
const (
	waiting = iota
	answering
	givenUp
)

// hop is one attempt to have a request answered by another process.
type hop struct {
	router    *Router
	request   *web.Request
	addr, key string
	deadline  time.Time // by which the answer must have begun
	body      *body
	failure   error
	cancel    context.CancelCauseFunc
	trace     httptrace.ClientTrace
	connected atomic.Bool // there was a connection, so something may have been sent

	mu              sync.Mutex
	state           int
	wrongOwnerSince time.Time // since when another process serves the key; zero: none does
	drainingSince   time.Time // when this process was first seen to stop
}

// do returns nil when the answer was written. After errUnreached and errRepeatable the request's body can be read from
// its start again.
func (h *hop) do() error {
	in := h.request.Request
	ctx, cancel := context.WithCancelCause(in.Context())
	defer cancel(nil)
	h.cancel = cancel
	h.trace.GotConn = func(httptrace.GotConnInfo) { h.connected.Store(true) }
	ctx = httptrace.WithClientTrace(ctx, &h.trace)
	if in.Body != nil && in.Body != http.NoBody && in.ContentLength != 0 {
		h.body = &body{source: in.Body, limit: h.request.MaxBytes()}
	}
	h.router.watch.add(h)
	defer h.finish() // also when a broken answer is cut by a panic
	if in.Header["Upgrade"] != nil {
		h.upgrade(in.WithContext(ctx))
	} else {
		h.forward(in, ctx)
	}
	if h.failure == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && h.request.Context().Err() == nil {
		h.failure = cause
	}
	return h.classify()
}

// begin marks the answer as begun. It is false when the hop was given up just before: the failure is then set to errDraining, and do
// replaces it by the cause of the cancelled context, which says why (errLate, errKeyMoved and so on).
func (h *hop) begin() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state != waiting {
		return false
	}
	h.state = answering
	h.router.watch.remove(h)
	return true
}

func (h *hop) finish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == waiting {
		h.state = givenUp
	}
	h.router.watch.remove(h)
}

// forward sends the request and copies the answer.
func (h *hop) forward(in *http.Request, ctx context.Context) { //nolint:revive // the context is the hop's, not the request's
	out := in.WithContext(ctx)
	at := *in.URL
	at.Scheme, at.Host, at.User = "https", h.addr, nil
	out.URL, out.RequestURI, out.Close = &at, "", false
	out.Header = make(http.Header, len(in.Header)+4)
	for name, values := range in.Header {
		if !isHopByHop(name) && !isForwardedHeader(name) {
			out.Header[name] = values
		}
	}
	deleteListed(out.Header, in.Header["Connection"])
	h.addHopHeaders(out.Header)
	out.Body = nil
	if h.body != nil {
		out.Body = h.body
	}
	if out.Header["User-Agent"] == nil {
		out.Header["User-Agent"] = emptyValue // otherwise the transport names itself
	}
	response, err := h.router.transport.RoundTrip(out)
	if err != nil {
		h.failure = err
		return
	}
	defer response.Body.Close()
	if !h.begin() {
		h.failure = errDraining
		return
	}
	w := h.request.Writer()
	header := w.Header()
	mine := len(header)
	deleteListed(response.Header, response.Header["Connection"])
	for name, values := range response.Header {
		if isHopByHop(name) {
			continue
		}
		if mine > 0 && header[name] != nil { // this process has set it already, such as CORS
			continue
		}
		header[name] = values
	}
	w.WriteHeader(response.StatusCode)
	if response.Body == http.NoBody {
		return
	}
	if err := copyBody(w, response); err != nil {
		h.router.log.DebugContext(ctx, "an answer of another process was cut", "request", h.request.ID(), "process", h.addr, "error", err)
		panic(http.ErrAbortHandler) // the answer has begun: only a cut shows the client that it is broken
	}
}

// copyBody copies the answer's body. When its length is unknown, every part is flushed as it comes.
func copyBody(w http.ResponseWriter, response *http.Response) error {
	buffer := copyBuffers.take()
	defer copyBuffers.give(buffer)
	control, stream := http.NewResponseController(w), response.ContentLength < 0
	if stream {
		_ = control.Flush()
	}
	for {
		n, err := response.Body.Read(*buffer)
		if n > 0 {
			if _, err := w.Write((*buffer)[:n]); err != nil {
				return err
			}
			if stream {
				_ = control.Flush()
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var emptyValue = []string{""}

// isHopByHop reports whether a header concerns one connection only (RFC 9110, 7.6.1).
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding",
		"Upgrade", "Expect":
		return true
	}
	return false
}

// isForwardedHeader reports whether a header makes a claim about the client that the other process would believe.
func isForwardedHeader(name string) bool {
	switch name {
	case "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
		return true
	}
	return false
}

// deleteListed deletes the headers that the header Connection names.
func deleteListed(header http.Header, lines []string) {
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			header.Del(strings.TrimSpace(name))
		}
	}
}

// upgrade forwards a websocket, over a connection of its own.
func (h *hop) upgrade(in *http.Request) {
	if h.body != nil {
		in.Body = h.body
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL.Scheme, p.Out.URL.Host = "https", h.addr
			h.addHopHeaders(p.Out.Header)
		},
		Transport:      h.router.transport,
		ModifyResponse: h.modifyResponse,
		ErrorHandler:   func(_ http.ResponseWriter, _ *http.Request, err error) { h.failure = err },
		ErrorLog:       h.router.proxyLog,
	}
	proxy.ServeHTTP(h.request.Writer(), in)
}

// wrongOwner reports whether another process serves the key now. Without a key each call of Route may give another
// process, and any is right while it lives.
func (h *hop) wrongOwner() bool {
	if h.key == "" {
		return !h.router.directory.IsAlive(h.addr)
	}
	addr, _, ok := h.router.directory.Route(h.request.Route.Role, h.key)
	return ok && addr != h.addr
}

func (h *hop) idempotent() bool {
	if h.request.Route.Idempotent {
		return true
	}
	switch h.request.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// classify returns the error of a failed hop: errUnreachable or errRepeatable when the request may be done again, whose body can then be
// read from its start.
func (h *hop) classify() error {
	if err := h.finalFailure(); err != nil {
		return err
	}
	// A transport may have had an old connection that was closed, and then fail to make a new one.
	op, ok := errors.AsType[*net.OpError](h.failure)
	unsent := !h.connected.Load() || ok && op.Op == "dial" || errors.Is(h.failure, rpc.ErrUnreachable)
	switch {
	case errors.Is(h.failure, errDraining):
	case errors.Is(h.failure, errKeyMoved):
		h.router.health.probeSuspect(h.addr)
	case unsent:
		h.router.health.markDown(h.addr)
	default:
		h.router.health.probeSuspect(h.addr)
	}
	if !unsent && !h.idempotent() || errors.Is(h.failure, errWrongOwner) {
		return h.failure
	}
	if h.body != nil {
		again, ok := h.body.rewind()
		if !ok {
			return h.failure
		}
		h.request.Request.Body = again
	}
	if unsent && !errors.Is(h.failure, errKeyMoved) {
		return errors.Join(errUnreachable, h.failure)
	}
	return errors.Join(errRepeatable, h.failure)
}

// finalFailure returns the error of a request that is over: its client is gone or at fault, its answer has begun, or its time
// is up. nil: the other process failed.
func (h *hop) finalFailure() error {
	h.mu.Lock()
	begun := h.state == answering
	h.mu.Unlock()
	clientErr := h.request.Request.Context().Err()
	var bodyErr error
	if h.body != nil && (clientErr != nil || !begun && !errors.Is(h.failure, errLate)) {
		bodyErr = h.body.clientFault()
	}
	switch {
	case clientErr != nil && bodyErr != nil: // it closed one direction only
		return bodyErr
	case clientErr != nil:
		return clientErr
	case errors.Is(h.failure, errLate) && h.body != nil && h.body.waitsForClient():
		return errors.Join(errBodyUnreadable, h.failure)
	case begun, errors.Is(h.failure, errLate):
		return h.failure
	}
	return bodyErr
}

// addHopHeaders adds what the other process must know about the request.
func (h *hop) addHopHeaders(header http.Header) {
	header[HopHeader] = h.router.machineValue
	header["X-Request-Id"] = []string{h.request.ID()}
	header[web.OnceHeader] = []string{h.request.Once()}
	header["X-Forwarded-Proto"] = []string{h.request.Scheme()}
	if client := h.request.RemoteIP(); client.IsValid() {
		header["X-Forwarded-For"] = []string{client.String()}
	}
	if header["Accept-Encoding"] == nil {
		header["Accept-Encoding"] = identity // otherwise the transport asks for gzip and unpacks it, and the length is lost
	}
}

var identity = []string{"identity"}

// modifyResponse deletes headers that this process has set already, such as CORS, so that they do not appear twice.
func (h *hop) modifyResponse(response *http.Response) error {
	if !h.begin() {
		return errDraining
	}
	for name := range h.request.Writer().Header() {
		response.Header.Del(name)
	}
	return nil
}
