package router_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"lyceum/platform/router"
	"lyceum/platform/rpc"
	"lyceum/platform/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testPlaces is a Places that a test changes.
type testPlaces struct {
	mu    sync.Mutex
	to    []string // one address per Pick, the last for all later ones; "" is this process
	asked []string
	dead  []string // addresses of processes that are gone
}

func (p *testPlaces) IsAlive(addr string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.Contains(p.dead, addr)
}

func (p *testPlaces) die(addr string) {
	p.mu.Lock()
	p.dead = append(p.dead, addr)
	p.mu.Unlock()
}

func (p *testPlaces) Route(role, key string) (addr string, local, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, role+"/"+key)
	if len(p.to) == 0 {
		return "", false, false
	}
	addr = p.to[0]
	if len(p.to) > 1 {
		p.to = p.to[1:]
	}
	return addr, addr == "", true
}

func (p *testPlaces) send(to ...string) {
	p.mu.Lock()
	p.to = to
	p.mu.Unlock()
}

func (p *testPlaces) keys() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// node is one process of a fleet: a public and an internal listener over the same server.
type node struct {
	name      string
	places    *testPlaces
	web       *web.Server
	public    *httptest.Server
	internal  *httptest.Server
	transport *http.Transport
	fleet     http.RoundTripper      // to the listeners of package rpc
	listener  net.Listener           // of package rpc
	own       bool                   // the nodes speak the fleet's own protocol
	proto     atomic.Pointer[string] // what others spoke to this node's handlers
	dials     atomic.Int64
	waiting   chan string // names of handlers that have begun to wait
	release   chan struct{}
	hold      atomic.Bool // handlers of /hold wait
	probes    atomic.Int64
	registry  *prometheus.Registry
}

func (n *node) addr() string {
	if n.own {
		return n.listener.Addr().String()
	}
	return n.internal.Listener.Addr().String()
}

// RoundTrip speaks to other nodes as the test wants it.
func (n *node) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == "/health" {
		n.probes.Add(1)
	}
	if n.own {
		return n.fleet.RoundTrip(r)
	}
	return n.transport.RoundTrip(r)
}

// overBoth runs a body on two fresh processes that speak HTTP/1.1 to each other, HTTP/2, and the protocol of package rpc.
func overBoth(t *testing.T, body func(t *testing.T, a, b *node)) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0", "fleet"} {
		t.Run(protocol, func(t *testing.T) {
			a, b := newNode(t, "a"), newNode(t, "bb")
			a.http2(protocol == "HTTP/2.0")
			b.http2(protocol == "HTTP/2.0")
			if protocol == "fleet" { // which is HTTP/2 to handlers
				a.own, b.own, protocol = true, true, "HTTP/2.0"
			}
			body(t, a, b)
			if proto := b.proto.Load(); proto != nil && *proto != protocol {
				t.Errorf("the processes spoke %s", *proto)
			}
		})
	}
}

// http2 makes the node speak HTTP/2 or HTTP/1.1 to others.
func (n *node) http2(on bool) {
	n.transport.ForceAttemptHTTP2 = on
}

func newNode(t testing.TB, name string) *node {
	n := &node{
		name: name, places: &testPlaces{}, waiting: make(chan string, 10), release: make(chan struct{}),
		registry: prometheus.NewRegistry(),
	}
	log := slog.New(slog.DiscardHandler)
	dialer := &net.Dialer{Timeout: time.Second}
	// Each process trusts the certificate of httptest, which all of its servers share.
	transport := httptest.NewTLSServer(nil)
	base := transport.Client().Transport.(*http.Transport).Clone()
	transport.Close()
	base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		n.dials.Add(1)
		return dialer.DialContext(ctx, network, addr)
	}
	n.transport = base
	r := router.New(router.Options{Directory: n.places, Transport: n, Machine: len(name), Log: log, Registry: n.registry})
	s, err := web.New(web.Options{Log: log, Dispatch: r.Dispatch, Config: web.Config{Compress: true, TrustedProxies: []string{"192.0.2.9"}}})
	if err != nil {
		t.Fatal(err)
	}
	n.web = s
	s.Add(n.routes()...)
	n.public = httptest.NewServer(s.Handler())
	n.internal = httptest.NewUnstartedServer(s.Internal())
	n.internal.EnableHTTP2 = true
	n.internal.StartTLS()
	wire, err := rpc.New(rpc.Options{Secret: []byte("a secret for the tests")})
	if err != nil {
		t.Fatal(err)
	}
	wire.Fallback(s.Internal())
	if n.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	n.fleet = wire.Transport()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- wire.Serve(ctx, n.listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		n.public.CloseClientConnections()
		n.public.Close()
		base.CloseIdleConnections()
		n.internal.CloseClientConnections()
		n.internal.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return n
}

// seen is what a handler answers about its request.
type seen struct{ Node, Key, Body, Client, Scheme, Hop, ID, Host string }

func (n *node) routes() []web.Route {
	see := func(r *web.Request) (any, error) {
		if r.Internal() {
			n.proto.Store(&r.Proto)
		}
		body, err := r.Raw()
		return &web.Reply{Header: http.Header{"X-Node": {n.name}}, Value: seen{
			n.name, r.Path("key"), string(body), r.RemoteIP().String(), r.Scheme(), r.Header.Get(router.HopHeader), r.ID(), r.Host,
		}}, err
	}
	wait := func(r *web.Request) (any, error) {
		n.waiting <- n.name
		select {
		case <-r.Draining():
			return seen{Node: n.name, Key: "drained"}, nil
		case <-n.release:
			return seen{Node: n.name, Key: "released"}, nil
		case <-r.Context().Done():
			n.waiting <- "cancelled"
			return nil, r.Context().Err()
		}
	}
	work := func(r *web.Request) (any, error) {
		n.waiting <- n.name
		<-n.release
		return see(r)
	}
	upload := func(r *web.Request) (any, error) {
		part, total := make([]byte, 32<<10), 0
		for {
			got, err := r.Body.Read(part)
			if total += got; got > 0 {
				n.waiting <- "part"
			}
			if err == io.EOF {
				return seen{Node: n.name, Key: fmt.Sprint(total)}, nil
			}
			if err != nil {
				return nil, err
			}
		}
	}
	download := func(*web.Request) (any, error) {
		return &web.Stream{Header: http.Header{"Content-Type": {"video/mp4"}}, Write: func(w io.Writer) error {
			for range 3 {
				if _, err := io.WriteString(w, "part"); err != nil {
					return err
				}
				w.(http.Flusher).Flush()
				<-n.release
			}
			return nil
		}}, nil
	}
	echo := func(*web.Request) (any, error) {
		return &web.Takeover{Serve: func(w http.ResponseWriter, r *http.Request) {
			socket, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer socket.CloseNow()
			for {
				kind, text, err := socket.Read(r.Context())
				if err != nil {
					return
				}
				if err := socket.Write(r.Context(), kind, append([]byte(n.name+":"), text...)); err != nil {
					return
				}
			}
		}}, nil
	}
	cut := func(*web.Request) (any, error) {
		return &web.Stream{Write: func(w io.Writer) error {
			_, _ = io.WriteString(w, "half")
			w.(http.Flusher).Flush()
			return io.ErrUnexpectedEOF
		}}, nil
	}
	die := func(r *web.Request) (any, error) {
		if !r.Internal() {
			return see(r)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}
	once := func(r *web.Request) (any, error) {
		n.waiting <- r.Once()
		return die(r)
	}
	hold := func(r *web.Request) (any, error) {
		answer, err := see(r)
		if n.hold.Load() {
			n.waiting <- n.name
			select {
			case <-n.release:
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		return answer, err
	}
	const late = 300 * time.Millisecond
	byKey := web.KeyPath("key")
	return []web.Route{
		{Pattern: "GET /late", Auth: web.None, Role: "r", Timeout: late, Handler: wait},
		{Pattern: "POST /late", Auth: web.None, Role: "r", Timeout: late, Handler: wait},
		{Pattern: "GET /stuck", Auth: web.None, Role: "r", Timeout: late, Handler: work},
		{Pattern: "POST /stuck", Auth: web.None, Role: "r", Timeout: late, Handler: work},
		{Pattern: "POST /limited", Auth: web.None, Role: "r", Upload: 1000, Handler: upload},
		{Pattern: "GET /hold/{key}", Auth: web.None, Role: "r", Key: byKey, Handler: hold},
		{Pattern: "PUT /hold/{key}", Auth: web.None, Role: "r", Key: byKey, Handler: hold},
		{Pattern: "DELETE /hold/{key}", Auth: web.None, Role: "r", Key: byKey, Handler: hold},
		{Pattern: "PUT /anywhere", Auth: web.None, Role: "r", Handler: hold},
		{Pattern: "POST /hold/{key}", Auth: web.None, Role: "r", Key: byKey, Handler: hold},
		{Pattern: "GET /see/{key}", Auth: web.None, Role: "r", Key: web.KeyPath("key"), Handler: see},
		{Pattern: "POST /see/{key}", Auth: web.None, Role: "r", Key: web.KeyPath("key"), Handler: see},
		{Pattern: "GET /user", Auth: web.None, Role: "r", Key: web.KeyUser, Handler: see},
		{Pattern: "GET /any", Auth: web.None, Role: "r", Handler: see},
		{Pattern: "GET /here", Auth: web.None, Handler: see},
		{Pattern: "GET /wait", Auth: web.None, Role: "r", Handler: wait},
		{Pattern: "POST /work", Auth: web.None, Role: "r", Handler: work},
		{Pattern: "POST /upload", Auth: web.None, Role: "r", Handler: upload},
		{Pattern: "GET /download", Auth: web.None, Role: "r", Handler: download},
		{Pattern: "GET /socket", Auth: web.None, Role: "r", Handler: echo},
		{Pattern: "GET /die", Auth: web.None, Role: "r", Handler: die},
		{Pattern: "PUT /die", Auth: web.None, Role: "r", Handler: die, MaxBody: 1 << 30},
		{Pattern: "GET /cut", Auth: web.None, Role: "r", Handler: cut},
		{Pattern: "PUT /once", Auth: web.None, Role: "r", Handler: once},
		{Pattern: "POST /die", Auth: web.None, Role: "r", Handler: die},
		{Pattern: "POST /again", Auth: web.None, Role: "r", Idempotent: true, Handler: die},
	}
}

func (n *node) call(t testing.TB, target string, body io.Reader, headers ...string) (seen, *http.Response) {
	t.Helper()
	method, path, _ := strings.Cut(target, " ")
	r, err := http.NewRequest(method, n.public.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer seen
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		t.Fatalf("%s: %d %q: %v", target, response.StatusCode, text, err)
	}
	return answer, response
}

func TestHop(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		answer, response := a.call(t, "POST /see/%21room%2F1?x=%20y", strings.NewReader("hello"), "X-Forwarded-For: 6.6.6.6",
			"X-Forwarded-Proto: https", "Lyceum-Hop: 9")
		want := seen{
			Node: "bb", Key: "!room/1", Body: "hello", Client: "127.0.0.1", Scheme: "http", Hop: "1",
			ID: response.Header.Get("X-Request-Id"), Host: a.public.Listener.Addr().String(),
		}
		if answer != want {
			t.Errorf("the handler saw %+v, want %+v", answer, want)
		}
		for name, values := range response.Header {
			if len(values) != 1 {
				t.Errorf("%s stands there %d times", name, len(values))
			}
		}
		if response.Header.Get("X-Node") != "bb" || response.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("headers: %v", response.Header)
		}
		if keys := a.places.keys(); !slices.Equal(keys, []string{"r/!room/1"}) {
			t.Errorf("asked for %q", keys)
		}
		if len(b.places.keys()) != 0 {
			t.Error("the second process looked for a third")
		}
	})
}

func TestNobodyMayForgeTheClient(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		for peer, want := range map[string]string{"203.0.113.5:99": "203.0.113.5 http", "192.0.2.9:99": "6.6.6.6 https"} {
			r := httptest.NewRequest("GET", "/see/k", nil)
			r.RemoteAddr = peer
			r.Header.Set("X-Forwarded-For", "6.6.6.6")
			r.Header.Set("X-Forwarded-Proto", "https")
			r.Header.Set("Forwarded", "for=7.7.7.7")
			w := httptest.NewRecorder()
			a.web.Handler().ServeHTTP(w, r)
			var answer seen
			if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
				t.Fatal(err)
			}
			if got := answer.Client + " " + answer.Scheme; got != want || answer.Node != "bb" {
				t.Errorf("from %s: %s on %s, want %s", peer, got, answer.Node, want)
			}
		}
	})
}

func TestNoCircle(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		b.places.send(a.addr())
		if answer, _ := a.call(t, "GET /see/k", nil); answer.Node != "bb" {
			t.Errorf("served by %q", answer.Node)
		}
		if answer, _ := b.call(t, "GET /see/k", nil, "Lyceum-Hop: 1"); answer.Node != "a" {
			t.Errorf("a client's hop header was believed: served by %q", answer.Node)
		}
	})
}

func TestServedHere(t *testing.T) {
	a := newNode(t, "a")
	for _, to := range [][]string{nil, {""}} {
		a.places.send(to...)
		if answer, _ := a.call(t, "POST /see/k", strings.NewReader("x")); answer.Node != "a" || answer.Body != "x" {
			t.Errorf("%v: %+v", to, answer)
		}
	}
	asked := len(a.places.keys())
	if answer, _ := a.call(t, "GET /here", nil); answer.Node != "a" || len(a.places.keys()) != asked {
		t.Errorf("a route of any role: %+v", answer)
	}
}

func TestKeys(t *testing.T) {
	a := newNode(t, "a")
	a.places.send("")
	a.call(t, "GET /user", nil, "Authorization: Bearer one")
	a.call(t, "GET /user?access_token=one", nil)
	a.call(t, "GET /user", nil, "Authorization: Bearer two")
	a.call(t, "GET /user", nil)
	a.call(t, "GET /any", nil)
	keys := a.places.keys()
	if keys[0] != keys[1] || keys[0] == keys[2] || strings.Contains(keys[0], "one") || keys[3] != "r/127.0.0.1" || keys[4] != "r/" {
		t.Errorf("keys: %q", keys)
	}
}

// deadAddress is an address where nobody listens.
func deadAddress(t testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func TestPlaceIsDown(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		dead := deadAddress(t)
		a.places.send(dead)
		big := strings.Repeat("x", 500_000)
		answer, _ := a.call(t, "POST /see/k", strings.NewReader(big))
		if answer.Node != "a" || answer.Body != big {
			t.Errorf("a POST whose place is down: %s, %d bytes", answer.Node, len(answer.Body))
		}
		dials := a.dials.Load()
		if answer, _ := a.call(t, "GET /see/k", nil); answer.Node != "a" || a.dials.Load() != dials {
			t.Errorf("the dead place was tried again at once (%d dials): %+v", a.dials.Load(), answer)
		}
		// A place whose TLS is not the fleet's was sent nothing either.
		a.places.send(a.public.Listener.Addr().String())
		if answer, _ := a.call(t, "POST /see/k", strings.NewReader("x")); answer.Node != "a" || answer.Body != "x" {
			t.Errorf("a stranger's place: %+v", answer)
		}
		a.places.send(deadAddress(t), b.addr())
		if answer, _ := a.call(t, "POST /see/k", strings.NewReader("x")); answer.Node != "bb" || answer.Body != "x" {
			t.Errorf("the second place: %+v", answer)
		}
	})
}

func TestPlaceDiesAtWork(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		for _, c := range []struct {
			target, body, node string
			status             int
		}{
			{"GET /die", "", "a", 200},
			{"PUT /die", "small", "a", 200},
			{"PUT /die", strings.Repeat("x", 200_000), "", 502},
			{"POST /die", "small", "", 502},
		} {
			answer, response := a.call(t, c.target, strings.NewReader(c.body))
			if response.StatusCode != c.status || answer.Node != c.node || c.node != "" && answer.Body != c.body {
				t.Errorf("%s with %d bytes: %d, %+v", c.target, len(c.body), response.StatusCode, answer)
			}
		}
	})
}

// What is done again by another process has the id of the first time, which no client can choose.
func TestARequestIsTheSameWhereverItIsDone(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		a.call(t, "PUT /once", strings.NewReader("x"), web.OnceHeader+": chosen")
		if there, here := <-b.waiting, <-a.waiting; there != here || here == "" || here == "chosen" {
			t.Errorf("%s there, then %s here", there, here)
		}
	})
}

func TestBrokenAnswerIsCut(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		response, err := http.Get(a.public.URL + "/cut")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if body, err := io.ReadAll(response.Body); err == nil || string(body) != "half" {
			t.Errorf("half an answer was taken for whole: %q %v", body, err)
		}
	})
}

func TestBodiesStream(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		t.Run("up", func(t *testing.T) {
			reader, writer := io.Pipe()
			go func() {
				for range 3 {
					_, _ = writer.Write(bytes.Repeat([]byte("x"), 1000))
					<-b.waiting // the other process has this part before the next is sent
				}
				_ = writer.Close()
			}()
			if answer, _ := a.call(t, "POST /upload", reader); answer.Node != "bb" || answer.Key != "3000" {
				t.Errorf("%+v", answer)
			}
		})
		t.Run("down", func(t *testing.T) {
			response, err := http.Get(a.public.URL + "/download")
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			part := make([]byte, 4)
			for range 3 {
				if _, err := io.ReadFull(response.Body, part); err != nil || string(part) != "part" {
					t.Fatalf("%q %v", part, err)
				}
				b.release <- struct{}{} // the next part is written only now
			}
			if n, err := response.Body.Read(part); n != 0 || err != io.EOF {
				t.Errorf("at the end: %d %v", n, err)
			}
		})
	})
}

func TestWebsocket(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		for _, to := range []string{"", b.addr(), deadAddress(t)} {
			a.places.send(to)
			want := "a:hi"
			if to == b.addr() {
				want = "bb:hi"
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			socket, _, err := websocket.Dial(ctx, a.public.URL+"/socket", nil)
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := socket.Write(ctx, websocket.MessageText, []byte("hi")); err != nil {
					t.Fatal(err)
				}
				if _, text, err := socket.Read(ctx); err != nil || string(text) != want {
					t.Errorf("%q %v, want %q", text, err, want)
				}
			}
			_ = socket.Close(websocket.StatusNormalClosure, "")
			cancel()
		}
	})
}

func TestClientGoes(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, "GET", a.public.URL+"/wait", nil)
		ended := make(chan error, 1)
		go func() {
			_, err := http.DefaultClient.Do(r) //nolint:bodyclose // there is no answer
			ended <- err
		}()
		<-b.waiting
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if got := <-b.waiting; got != "cancelled" {
			t.Errorf("the other process saw %q", got)
		}
	})
}

// A process that stops loses nothing: a long poll that waits elsewhere is answered here at once, work that
// is under way elsewhere comes back.
func TestStopWhileOthersWork(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- a.web.Run(ctx, listener) }()
		type result struct {
			answer seen
			err    error
		}
		poll, work := make(chan result, 1), make(chan result, 1)
		do := func(method, path, body string, into chan result) {
			r, _ := http.NewRequest(method, "http://"+listener.Addr().String()+path, strings.NewReader(body))
			var got result
			response, err := http.DefaultClient.Do(r)
			if err == nil {
				err = json.NewDecoder(response.Body).Decode(&got.answer)
				response.Body.Close()
			}
			got.err = err
			into <- got
		}
		go do("GET", "/wait", "", poll)
		go do("POST", "/work", "precious", work)
		<-b.waiting
		<-b.waiting
		stop()
		if got := <-poll; got.err != nil || got.answer.Node != "a" || got.answer.Key != "drained" {
			t.Errorf("the long poll: %+v", got)
		}
		if got := <-b.waiting; got != "cancelled" {
			t.Errorf("the other process saw %q", got)
		}
		b.release <- struct{}{}
		if got := <-work; got.err != nil || got.answer.Node != "bb" || got.answer.Body != "precious" {
			t.Errorf("the work: %+v", got)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkHop(b *testing.B) {
	for _, name := range []string{"here", "HTTP1", "HTTP2"} {
		b.Run(name, func(b *testing.B) {
			near, far := newNode(b, "a"), newNode(b, "bb")
			near.http2(name == "HTTP2")
			near.places.send(far.addr())
			if name == "here" {
				near.places.send("")
			}
			h := near.web.Handler()
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/see/k", nil))
				if w.Code != 200 {
					b.Fatal(w.Code)
				}
			}
		})
	}
}
