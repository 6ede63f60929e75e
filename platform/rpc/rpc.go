package rpc

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// ErrUnreachable says that the request did not reach the other process: nothing was done.
var ErrUnreachable = errors.New("the other process can not be reached")

// ErrBroken says that the connection broke after the request was sent: it may or may not have been done.
var ErrBroken = errors.New("the other process went away during the call")

// prefix is the path under which methods are served; all other paths of the internal listener go to Fallback.
const prefix = "/_lyceum/rpc/"

// maxBody is the largest request and answer in bytes.
const maxBody = 64 << 20

// Errors encodes the errors of methods. Callers can tell what Decode returns apart as they can the errors that Encode was given.
type Errors interface {
	Encode(err error) []byte
	Decode(data []byte) error
}

// Options wires a Node.
type Options struct {
	Secret   []byte // shared by the fleet
	Errors   Errors
	Log      *slog.Logger
	Registry *prometheus.Registry // may be nil
	Tracer   trace.Tracer         // makes a span for each method served; may be nil
	OnLost   func(address string) // called when a connection to a process ended; may be nil
}

// methodFunc runs a method on the JSON of its request, and returns the JSON of its answer.
type methodFunc func(ctx context.Context, request []byte) (answer []byte, err error)

// Node is this process's end: it serves methods and calls those of others.
type Node struct {
	o       Options
	links   *links
	client  *http.Client
	server  *http.Server
	latency *prometheus.HistogramVec

	linksMu   sync.Mutex
	served    map[*link]bool // links that other processes opened
	goingAway bool           // no more of those are served

	mu       sync.RWMutex
	methods  map[string]methodFunc
	fallback http.Handler
}

// New makes a Node; Serve runs its listener.
func New(o Options) (*Node, error) {
	serverTLS, clientTLS, err := configs(o.Secret)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{o: o, served: map[*link]bool{}, methods: map[string]methodFunc{}}
	n.latency = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "lyceum_rpc_seconds", Help: "Time of calls to other processes.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
	}, []string{"method"})
	if o.Registry != nil {
		o.Registry.MustRegister(n.latency)
	}
	n.links = newLinks(&http.Transport{
		DialContext: (&net.Dialer{Timeout: dialTimeout, KeepAlive: 5 * time.Second}).DialContext,
		// The kernel accepts connections for a paused process, so only the handshake finds out that it is paused.
		TLSHandshakeTimeout: 2 * time.Second,
		TLSClientConfig:     clientTLS, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second,
		// Pings find out within 4 s that a peer is gone or paused.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 2 * time.Second, PingTimeout: 2 * time.Second, MaxConcurrentStreams: 10_000},
	}, clientTLS, o.OnLost)
	n.client = &http.Client{Transport: n.Transport()}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	n.server = &http.Server{
		Protocols: &protocols,
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){linkProtocol: func(_ *http.Server, conn *tls.Conn,
			_ http.Handler,
		) {
			n.serveLink(conn)
		}},
		Handler: n, TLSConfig: serverTLS, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		// Pings find out that a caller is gone, and its calls are cancelled.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second, MaxConcurrentStreams: 10_000},
	}
	n.server.RegisterOnShutdown(n.goAway)
	return n, nil
}

// Transport makes authenticated requests to the internal listeners of other processes.
func (n *Node) Transport() http.RoundTripper { return traced{n.links} }

// traced puts the trace of a request into its headers.
type traced struct{ next http.RoundTripper }

// CloseIdleConnections is called by http.Client.CloseIdleConnections.
func (t traced) CloseIdleConnections() { (&http.Client{Transport: t.next}).CloseIdleConnections() }

func (t traced) RoundTrip(r *http.Request) (*http.Response, error) {
	if trace.SpanContextFromContext(r.Context()).IsValid() {
		r = r.Clone(r.Context())
		propagation.TraceContext{}.Inject(r.Context(), propagation.HeaderCarrier(r.Header))
	}
	return t.next.RoundTrip(r)
}

// Fallback serves requests of the internal listener that are not method calls.
func (n *Node) Fallback(h http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fallback = h
}

// Handle serves a method. It panics on a name that is taken: that is a mistake in the wiring.
func Handle[Req, Res any](n *Node, method string, fn func(ctx context.Context, req Req) (Res, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.methods[method] != nil {
		panic("rpc method " + method + " is handled twice")
	}
	n.methods[method] = func(ctx context.Context, body []byte) ([]byte, error) {
		var req Req
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, fmt.Errorf("rpc %s: %w", method, err)
		}
		res, err := fn(ctx, req)
		if err != nil {
			return nil, err
		}
		return json.Marshal(res)
	}
}

// Call runs a method in the process whose internal listener is at addr (host:port).
func Call[Req, Res any](ctx context.Context, n *Node, addr, method string, req Req) (res Res, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return res, err
	}
	start := time.Now()
	answer, err := n.post(ctx, addr, method, body)
	n.latency.WithLabelValues(method).Observe(time.Since(start).Seconds())
	if err != nil {
		return res, err
	}
	return res, json.Unmarshal(answer, &res)
}

func (n *Node) post(ctx context.Context, addr, method string, body []byte) ([]byte, error) {
	if len(body) > maxBody {
		return nil, fmt.Errorf("call %s: expected at most %d bytes, found %d", method, maxBody, len(body))
	}
	// The transport repeats a request over another connection only when the other process did not read it. So the last try says whether
	// the request was sent.
	var sent atomic.Bool
	trace := &httptrace.ClientTrace{
		GetConn:      func(string) { sent.Store(false) },
		WroteHeaders: func() { sent.Store(true) },
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodPost, "https://"+addr+prefix+method,
		bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("call %s at %q: %w: %w", method, addr, ErrUnreachable, err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := n.client.Do(req)
	if err != nil {
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !sent.Load(), errors.Is(err, ErrUnreachable):
			return nil, fmt.Errorf("call %s at %s: %w: %w", method, addr, ErrUnreachable, err)
		}
		return nil, fmt.Errorf("call %s at %s: %w: %w", method, addr, ErrBroken, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, fmt.Errorf("call %s at %s: %w: %w", method, addr, ErrBroken, err)
	case len(answer) > maxBody:
		return nil, fmt.Errorf("call %s at %s: expected an answer of at most %d bytes", method, addr, maxBody)
	case res.StatusCode == http.StatusUnprocessableEntity:
		return nil, n.o.Errors.Decode(answer)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("call %s at %s: expected an answer, found %s: %s", method, addr, res.Status, answer[:min(len(answer), 200)])
	}
	return answer, nil
}

// ServeHTTP answers method calls and gives the rest to the fallback.
func (n *Node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, isCall := strings.CutPrefix(r.URL.Path, prefix)
	n.mu.RLock()
	method, fallback := n.methods[name], n.fallback
	n.mu.RUnlock()
	if !isCall {
		if fallback == nil {
			http.NotFound(w, r)
			return
		}
		fallback.ServeHTTP(w, r)
		return
	}
	if method == nil {
		http.Error(w, "no such method", http.StatusNotFound)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "body not read", http.StatusBadRequest)
		return
	}
	ctx := r.Context()
	if n.o.Tracer != nil {
		var span trace.Span
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
		ctx, span = n.o.Tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
	}
	answer, err := n.run(ctx, name, method, body)
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		answer = n.o.Errors.Encode(err)
	}
	_, _ = w.Write(answer) // the caller is gone if this fails
}

// run turns a panic into an error. If it broke the connection, the caller could not tell it from the end of the process, and might try the
// same again.
func (n *Node) run(ctx context.Context, name string, method methodFunc, body []byte) (answer []byte, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			n.o.Log.Error("a call panicked", "method", name, "cause", cause, "stack", string(debug.Stack()))
			answer, err = nil, fmt.Errorf("rpc %s: the method panicked", name)
		}
	}()
	return method(ctx, body)
}

// Serve runs the internal listener until ctx ends, then lets running calls finish for a few seconds.
func (n *Node) Serve(ctx context.Context, l net.Listener) error {
	stopped := make(chan error, 1)
	go func() { stopped <- n.server.ServeTLS(l, "", "") }()
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := n.server.Shutdown(end); err != nil {
		_ = n.server.Close() // cancels the calls that still run
	}
	n.links.CloseIdleConnections()
	return nil
}
