package router_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"lyceum/platform/router"
	"lyceum/platform/rpc"
	"lyceum/platform/web"
)

func TestAnswerComesTooLate(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		for _, method := range []string{"GET", "POST"} {
			request, _ := http.NewRequest(method, a.public.URL+"/late", nil)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(response.Body)
			response.Body.Close()
			// On a busy machine the router, after 300 ms, may be before the other process, after 250.
			if response.StatusCode != http.StatusGatewayTimeout || !strings.Contains(string(text), "The answer did not begin within") {
				t.Errorf("%s: %d %s", method, response.StatusCode, text)
			}
			<-b.waiting
			if got := <-b.waiting; got != "cancelled" {
				t.Errorf("the other process saw %q", got)
			}
		}
	})
}

// A process whose handler does not end with its context does not answer in time itself.
func TestAStuckProcessIsNotWaitedFor(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		for _, method := range []string{"GET", "POST"} {
			request, _ := http.NewRequest(method, a.public.URL+"/stuck", nil)
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode != http.StatusGatewayTimeout || !strings.Contains(string(text), "did not begin within 300ms") {
				t.Errorf("%s: %d %s", method, response.StatusCode, text)
			}
			<-b.waiting
		}
		close(b.release)
	})
}

func TestUploadLimit(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		a.places.send(b.addr())
		for _, c := range []struct {
			size, status int
			chunked      bool
		}{{1000, 200, false}, {1000, 200, true}, {1001, 413, false}, {1001, 413, true}, {1 << 20, 413, true}} {
			var body io.Reader = strings.NewReader(strings.Repeat("x", c.size))
			if c.chunked {
				body = struct{ io.Reader }{body}
			}
			response, err := http.Post(a.public.URL+"/limited", "image/png", body)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if response.StatusCode != c.status || c.status == 413 && !strings.Contains(string(text), "M_TOO_LARGE") {
				t.Errorf("%d bytes, chunked %v: %d %s", c.size, c.chunked, response.StatusCode, text)
			}
			for len(b.waiting) > 0 {
				<-b.waiting
			}
		}
	})
}

// A process that is cut off from the database works on what it can not finish. Who waits for it is told so, once its
// keys have been elsewhere for a while.
func TestALostPlaceEndsWhatMayNotBeDoneTwice(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		c := newNode(t, "ccc")
		c.http2(a.transport.ForceAttemptHTTP2)
		c.own = a.own
		b.hold.Store(true)
		a.places.send(b.addr())
		go func() {
			<-b.waiting
			a.places.send(c.addr())
		}()
		start := time.Now()
		response, err := http.Post(a.public.URL+"/hold/k", "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusBadGateway || !strings.Contains(string(text), "may or may not have been done") {
			t.Errorf("%d %s", response.StatusCode, text)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

// What any process of a role does is done by another one when the one that was asked is not heard of any more.
func TestWhatHasNoKeyLeavesADeadProcess(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		c := newNode(t, "ccc")
		c.http2(a.transport.ForceAttemptHTTP2)
		c.own = a.own
		b.hold.Store(true)
		a.places.send(b.addr(), c.addr())
		go func() {
			<-b.waiting
			a.places.die(b.addr())
		}()
		if answer, _ := a.call(t, "PUT /anywhere", strings.NewReader("body")); answer.Node != c.name || answer.Body != "body" {
			t.Errorf("it was answered by %+v", answer)
		}
	})
}

// A process that is paused keeps its connections open and answers nothing. When its keys have moved, what may
// be done twice is done at the new place.
func TestAMovedKeyIsTakenBack(t *testing.T) {
	overBoth(t, func(t *testing.T, a, b *node) {
		c := newNode(t, "ccc")
		c.http2(a.transport.ForceAttemptHTTP2)
		c.own = a.own
		b.hold.Store(true)
		for _, to := range []*node{c, a} {
			for _, request := range []string{"GET ", "PUT body", "DELETE "} {
				method, body, _ := strings.Cut(request, " ")
				a.places.send(b.addr())
				go func() {
					<-b.waiting
					if to == a {
						a.places.send("")
					} else {
						a.places.send(to.addr())
					}
				}()
				start := time.Now()
				if answer, _ := a.call(t, method+" /hold/k", strings.NewReader(body)); answer.Node != to.name || answer.Body != body {
					t.Errorf("%s was answered by %+v, want %s", method, answer, to.name)
				}
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("%s took %s", method, took)
				}
			}
		}
		// What may not be done twice, and what can not be sent twice, waits where it is.
		for _, request := range []string{"POST /hold/k", "PUT /hold/k"} {
			size := 10
			if request[:3] == "PUT" {
				size = 200_000
			}
			a.places.send(b.addr())
			go func() {
				<-b.waiting
				asked := len(a.places.keys())
				a.places.send(c.addr())
				deadline := time.Now().Add(time.Second)
				for len(a.places.keys()) < asked+4 && time.Now().Before(deadline) {
					time.Sleep(5 * time.Millisecond)
				}
				b.release <- struct{}{}
			}()
			if answer, _ := a.call(t, request, strings.NewReader(strings.Repeat("x", size))); answer.Node != b.name || len(answer.Body) != size {
				t.Errorf("%s of %d bytes was answered by %s", request, size, answer.Node)
			}
		}
		// A key that moves and comes back at once was not lost.
		a.places.send(b.addr())
		go func() {
			<-b.waiting
			a.places.send(c.addr(), b.addr())
			asked := len(a.places.keys())
			for len(a.places.keys()) < asked+3 {
				time.Sleep(5 * time.Millisecond)
			}
			b.release <- struct{}{}
		}()
		if answer, _ := a.call(t, "GET /hold/k", nil); answer.Node != b.name {
			t.Errorf("a key that came back: %s", answer.Node)
		}
	})
}

func TestADeadPlaceIsAskedUntilItIsBack(t *testing.T) {
	a, b := newNode(t, "a"), newNode(t, "bb")
	addr := deadAddress(t)
	a.places.send(addr)
	if answer, _ := a.call(t, "POST /see/k", strings.NewReader("x")); answer.Node != "a" {
		t.Fatalf("served by %q", answer.Node)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the port was taken meanwhile: %v", err)
	}
	back := httptest.NewUnstartedServer(b.web.Internal())
	_ = back.Listener.Close()
	back.Listener = l
	back.EnableHTTP2 = true
	back.StartTLS()
	defer back.Close()
	defer back.CloseClientConnections()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		answer, _ := a.call(t, "POST /see/k", strings.NewReader("x"))
		if answer.Node == "bb" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place that came back was not used again")
		}
	}
}

// Over the connections that a fleet has: authenticated, HTTP/2, which has no websockets in net/http, so that
// those take an HTTP/1.1 connection of their own.
func TestWebsocketBetweenProcessesOfAFleet(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	begin := func(name string) (*node, *rpc.Node, string, *web.Server) {
		n := &node{name: name, places: &testPlaces{}, waiting: make(chan string, 10), release: make(chan struct{})}
		wire, err := rpc.New(rpc.Options{Secret: []byte("a secret for the tests"), Log: log})
		if err != nil {
			t.Fatal(err)
		}
		r := router.New(router.Options{Directory: n.places, Transport: wire.Transport(), Log: log})
		s, err := web.New(web.Options{Log: log, Dispatch: r.Dispatch})
		if err != nil {
			t.Fatal(err)
		}
		s.Add(n.routes()...)
		wire.Fallback(s.Internal())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- wire.Serve(ctx, l) }()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		return n, wire, l.Addr().String(), s
	}
	a, _, _, server := begin("a")
	b, _, address, _ := begin("bb")
	a.places.send(address)
	public := httptest.NewServer(server.Handler())
	defer public.Close()
	defer http.DefaultClient.CloseIdleConnections()
	a.public = public
	if answer, _ := a.call(t, "GET /see/k", nil); answer.Node != "bb" || *b.proto.Load() != "HTTP/2.0" {
		t.Errorf("%+v over %s", answer, *b.proto.Load())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	socket, _, err := websocket.Dial(ctx, public.URL+"/socket", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.CloseNow()
	for range 3 {
		if err := socket.Write(ctx, websocket.MessageText, []byte("hi")); err != nil {
			t.Fatal(err)
		}
		if _, text, err := socket.Read(ctx); err != nil || string(text) != "bb:hi" {
			t.Errorf("%q %v", text, err)
		}
	}
	_ = socket.Close(websocket.StatusNormalClosure, "")
}
