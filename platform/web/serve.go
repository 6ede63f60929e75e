package web

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"lyceum/platform/caller"
)

// statusClientGone is the status in metrics of a request whose client left. It is never sent.
const statusClientGone = 499

// refusedBodyTime is how long a client whose request was answered before its end may still send its body.
const refusedBodyTime = 5 * time.Second

// refusedBodyBytes is how large such a body may be that is read before the connection is closed.
const refusedBodyBytes = 256 << 10

// The headers of CORS are the same for all (Client-Server API, "Web browser clients"). The slices are shared
// by all answers and never written to.
var (
	corsOrigin  = []string{"*"}
	corsMethods = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
	corsHeaders = []string{"X-Requested-With, Content-Type, Authorization"}
	corsMaxAge  = []string{"86400"}
	typeJSON    = []string{"application/json"}
)

// exchange is one request and its answer. It is the http.ResponseWriter of all handlers.
type exchange struct {
	http.ResponseWriter
	request          Request
	endpoint         *endpoint
	matched          bool // a route takes it
	status           int  // 0 until the head is written
	bytes            int64
	stalled          bool // the body could not be read to its end
	abandoned        bool // the client left before anything was done
	body             *pacedBody
	charged          int64       // bytes of the body and the answer that its caller is charged for
	chargedForAnswer int64       // of these, the bytes of the answer
	chargedTo        string      // the caller who is charged for them; under the mu of memoryBudget
	madeBytes        int64       // bytes that the handler made of the body and of what it read
	madeFor          string      // the caller who is charged for madeBytes
	cut              atomic.Bool // the memory is needed for others: the answer ends with errCut
	start            time.Time
	wasSetAside      bool                         // the request was parked: another goroutine may use the exchange
	place            atomic.Pointer[callerPlaces] // its place among its caller's handlers at work; nil: none
	work             *caller.Work                 // what this does for its caller; nil for requests of other processes of the fleet
	actingUser       string                       // the user id of a request that may change something and had a place
	ended            chan struct{}                // closed when it leaves UnderWay; under the mu of its shard there; nil: nobody waits
	token            string                       // of a request that waits

	clock         *time.Timer     // ends the time of the handler; nil while there is none
	timeLimit     time.Duration   // how long the handler may take
	expired       atomic.Bool     // timeLimit is over
	clientContext context.Context // the request's context before the time limit was added; nil before that

	// When the piece of the answer or the body began that is under way, in Unix nanoseconds; 0: none.
	writing, reading atomic.Int64
}

// WriteHeader notes the status of the answer. Informational ones go through.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		x.status = status
		x.leavePlace() // whoever takes the answer may take long
		if x.body != nil {
			x.body.limitRest()
		}
	}
	x.pace()
	x.startClock(0)
	x.ResponseWriter.WriteHeader(status)
}

// Hijack hands over the connection, for websockets.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err == nil && x.status == 0 {
		x.status = http.StatusSwitchingProtocols
	}
	if err == nil {
		x.leavePlace()
		x.stopClock()
	}
	return conn, buffered, err
}

// Unwrap serves http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// serve handles every request. wasSetAside: the request was parked, and another goroutine goes on with it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, internal bool) (wasSetAside bool) {
	x := &exchange{ResponseWriter: w, endpoint: s.unmatched, start: time.Now()}
	x.request = Request{Request: r, server: s, writer: x, internal: internal}
	x.request.id = s.requestID(r, internal)
	s.inflight.Add(1)
	markHandling(r.Context())
	if r.Body != nil && r.Body != http.NoBody {
		x.body = &pacedBody{ReadCloser: r.Body, exchange: x, sinceDeadline: -1}
		r.Body = x.body
		defer func() { r.Body = x.body.ReadCloser }() // restored: the caller of serve owns the request
		if r.Header.Get("Expect") != "" {
			x.pace() // net/http says that the body may come; the deadline of the answer before may be over
		}
	}
	defer func() {
		fault := recover()
		if wasSetAside = x.wasSetAside; wasSetAside { // another goroutine may use it already
			return
		}
		x.releaseMemory()
		if fault != nil && fault != http.ErrAbortHandler { //nolint:errorlint // net/http panics with this very value
			s.log.ErrorContext(r.Context(), "a handler panicked", "request", x.request.id, "route", x.endpoint.route.Pattern,
				"panic", fault, "stack", string(debug.Stack()))
			if x.status == 0 {
				x.write(answerTo(unknown(nil)))
				fault = nil
			}
		}
		x.done(s, time.Since(x.start))
		if fault != nil {
			panic(http.ErrAbortHandler) // the answer has begun: cutting the connection is the only way to say that it is broken
		}
	}()

	header := w.Header()
	header["Access-Control-Allow-Origin"] = corsOrigin
	header["Access-Control-Allow-Methods"] = corsMethods
	header["Access-Control-Allow-Headers"] = corsHeaders
	header["X-Request-Id"] = []string{x.request.id}
	if s.leaving.Load() && r.ProtoMajor == 1 {
		header.Set("Connection", "close")
	}
	switch {
	case r.Method == http.MethodOptions:
		header["Access-Control-Max-Age"] = corsMaxAge
		x.WriteHeader(http.StatusNoContent)
	case !cleanPath(r.URL):
		x.fail(unrecognized(http.StatusNotFound))
	default:
		s.mux.ServeHTTP(x, s.modern(r))
	}
	return false
}

func (x *exchange) series() *series {
	if x.request.internal {
		return x.endpoint.hops
	}
	return x.endpoint.series
}

// done counts a request that has ended.
func (x *exchange) done(s *Server, took time.Duration) {
	s.inflight.Add(-1)
	if x.matched {
		x.series().inflight.Dec()
	}
	x.series().observe(x.status, took)
	s.logAccess(x, took)
}

// ServeHTTP is called by the mux, with the exchange as writer.
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := w.(*exchange)
	x.endpoint = e
	x.request.Request, x.request.Route = r, &e.route
	x.series().inflight.Inc()
	x.matched = true
	if tracer := x.request.server.tracer; tracer != nil {
		ctx := propagation.TraceContext{}.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, e.route.Pattern, trace.WithSpanKind(trace.SpanKindServer))
		defer func() {
			span.SetAttributes(attribute.Int("http.response.status_code", x.status), attribute.String("lyceum.role", e.route.Role))
			span.End()
		}()
		x.request.Request = r.WithContext(ctx)
	}
	handled, err := x.request.server.tryDispatch(x)
	if !handled && err == nil {
		end := x.startTimeLimit()
		defer end()
		err = x.request.server.handle(x)
	}
	if err != nil {
		x.fail(err)
	}
}

// tryDispatch lets another process answer a matched request, if it should.
func (s *Server) tryDispatch(x *exchange) (handled bool, err error) {
	r, e := &x.request, x.endpoint
	if e.route.Auth == Fleet && !r.internal || e.root && strings.HasPrefix(r.URL.Path, "/_") {
		return false, unrecognized(http.StatusNotFound)
	}
	if err := checkText(r); err != nil || s.dispatch == nil {
		return false, err
	}
	if err := x.refuseIfClientLeft(); err != nil {
		return false, err
	}
	return s.dispatch(r)
}

// handle takes a matched request through the steps of its route.
func (s *Server) handle(x *exchange) error {
	r, e := &x.request, x.endpoint
	if x.body != nil && e.route.Upload > 0 {
		x.body.unpaced = true // a file has rules of its own
	}
	if err := s.authenticateAfterBarrier(r); err != nil {
		return err
	}
	if r.Identity != nil && x.work != nil {
		x.work.SetID(r.callerID())
	}
	if err := s.takeRateLimit(r, e); err != nil {
		return err
	}
	defer x.leavePlace()
	if err := x.takePlace(); err != nil {
		return err
	}
	result, err := e.route.Handler(r)
	if err != nil {
		return err
	}
	if r.reads() {
		if err := r.recheckIfOld(); err != nil {
			if stream, ok := result.(*Stream); ok {
				stream.close()
			}
			return err
		}
	}
	return x.answer(result)
}

// fail writes err as the answer, or cuts the connection when another answer has begun.
func (x *exchange) fail(err error) {
	r := &x.request
	log := r.server.log
	refusal := x.refusal(err)
	level := levelOf(err, refusal.HTTPStatus())
	if (errors.Is(err, context.Canceled) || level > slog.LevelDebug) && x.clientLeft() { // work that is cancelled fails in many ways
		log.DebugContext(r.Context(), "the client left", "request", r.id, "route", x.endpoint.route.Pattern, "error", err)
		x.status = cmp.Or(x.status, statusClientGone)
		panic(http.ErrAbortHandler) // a client that closed only its sending side would take a partial answer for a complete one
	}
	if x.status != 0 {
		log.InfoContext(r.Context(), "an answer was cut", "request", r.id, "route", x.endpoint.route.Pattern, "error", err)
		x.resetConnection()
		panic(http.ErrAbortHandler)
	}
	message := "a request failed"
	if level == slog.LevelDebug {
		message = "a request was refused"
	}
	if x.expired.Load() && !errors.Is(err, errLate) { // what was cancelled for it does not say why
		err = fmt.Errorf("%w, %s: %w", errLate, x.timeLimit, err)
	}
	log.Log(r.Context(), level, message, "request", r.id, "route", x.endpoint.route.Pattern, "error", err)
	x.write(x.page(answerTo(refusal)))
}

// page makes a page of the answer to an error, if the route has pages and a browser asks for one.
func (x *exchange) page(m message) message {
	if x.endpoint.route.Page == nil || !strings.Contains(x.request.Header.Get("Accept"), "text/html") {
		return m
	}
	var told struct {
		Message string `json:"error"`
	}
	if json.Unmarshal(m.body, &told) != nil {
		return m
	}
	if wait := m.header.Get("Retry-After"); wait != "" {
		told.Message += " (" + wait + " s)"
	}
	page, err := x.endpoint.route.Page(&x.request, m.status, told.Message)
	if err != nil {
		x.request.server.log.ErrorContext(x.request.Context(), "no page could be made of an error", "request", x.request.id, "error", err)
		return m
	}
	header := page.Header.Clone()
	maps.Copy(header, m.header)
	return message{status: m.status, header: header, body: page.Body}
}

// resetConnection makes the end of the connection an error for a client of HTTP/1.0, whose answers have no other end.
func (x *exchange) resetConnection() {
	if x.request.ProtoMajor != 1 || x.request.ProtoMinor != 0 {
		return
	}
	if l := connectionOf(x.request.Context()); l != nil {
		if c, plain := unwrap(l.conn).(*net.TCPConn); plain {
			_ = c.SetLinger(0)
		}
	}
}

// levelOf is the level at which an answer to err is logged. An answer on purpose, such as for work that moves to another process or a file
// that is not uploaded yet, is no failure. A database that is unavailable for a while is a warning.
func levelOf(err error, status int) slog.Level {
	answer, meant := errors.AsType[Answerer](err)
	switch {
	case status < http.StatusInternalServerError,
		meant && status != http.StatusInternalServerError && errors.Unwrap(answer) == nil:
		return slog.LevelDebug
	case status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout: // too much to do, as a rule
		return slog.LevelWarn
	}
	return slog.LevelError
}

// logAccess writes one line per request at level debug.
func (s *Server) logAccess(x *exchange, took time.Duration) {
	r := &x.request
	if !s.log.Enabled(r.Context(), slog.LevelDebug) {
		return
	}
	s.log.DebugContext(
		r.Context(), "request", "request", r.id, "method", r.Method, "path", r.URL.Path, "query", safeQuery(r.URL.RawQuery), "status",
		x.status, "bytes", x.bytes, "took", took, "user", r.UserID(), "client", r.RemoteIP().String(), "route", x.endpoint.route.Pattern,
	)
}

// safeQuery keeps the names of a query and the values that can hold no secret.
func safeQuery(raw string) string {
	if raw == "" {
		return ""
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return "(malformed)"
	}
	for name := range values {
		lower := strings.ToLower(name)
		if strings.Contains(lower, "token") || strings.Contains(lower, "secret") || strings.Contains(lower, "password") || lower == "code" {
			values[name] = []string{"…"}
		}
	}
	return values.Encode()
}

// cleanPath reports whether the mux accepts the path as it is. It answers others with a redirect, which no client of an API expects.
func cleanPath(u *url.URL) bool {
	p := u.EscapedPath()
	if p == "" || p[0] != '/' {
		return false
	}
	if strings.Contains(p, "//") {
		return false
	}
	if !strings.Contains(p, "/.") {
		return true
	}
	return path.Clean(p) == strings.TrimSuffix(p, "/") || p == "/"
}

// checkText refuses paths and queries that are not UTF-8 or hold NUL: no database could store them as text.
func checkText(r *Request) error {
	if !isText(r.URL.Path) {
		return invalidParam("The path must be UTF-8 without NUL")
	}
	for i := 0; i < len(r.URL.RawQuery); i++ {
		if c := r.URL.RawQuery[i]; c != '%' && c < utf8.RuneSelf {
			continue
		}
		for name, values := range r.Query() {
			for _, value := range values {
				if !isText(value) {
					return invalidParam("The parameter " + strings.ToValidUTF8(name, "?") + " must be UTF-8 without NUL")
				}
			}
		}
		break
	}
	return nil
}

func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// requestID takes the id of a process of the fleet or of a trusted proxy, so that one request has one id in
// all logs, and else makes one.
func (s *Server) requestID(r *http.Request, internal bool) string {
	if given := r.Header.Get("X-Request-Id"); given != "" && len(given) <= 64 && (internal || s.trusts(peerIP(r))) {
		if strings.IndexFunc(given, func(c rune) bool { return c <= ' ' || c > '~' }) < 0 {
			return given
		}
	}
	return strconv.FormatUint(rand.Uint64(), 36)
}
