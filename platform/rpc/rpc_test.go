package rpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lyceum/platform/rpc"
)

var errKnown = errors.New("known on both sides")

type wire struct{}

func (wire) Encode(err error) []byte {
	if errors.Is(err, errKnown) {
		return []byte("known")
	}
	return []byte("other: " + err.Error())
}

func (wire) Decode(data []byte) error {
	if string(data) == "known" {
		return errKnown
	}
	return errors.New(string(data))
}

func node(t testing.TB, secret string) *rpc.Node {
	t.Helper()
	n, err := rpc.New(rpc.Options{Secret: []byte(secret), Errors: wire{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { (&http.Client{Transport: n.Transport()}).CloseIdleConnections() })
	return n
}

// serve runs a node's listener and returns its address and what stops it.
func serve(t testing.TB, n *rpc.Node) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

const secret = "a secret of the whole fleet"

func echo(_ context.Context, s string) (string, error) {
	switch s {
	case "known":
		return "", fmt.Errorf("wrapped: %w", errKnown)
	case "panic":
		panic("a mistake in a method")
	}
	return s, nil
}

func TestCallsAndErrors(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	server, client := node(t, secret), node(t, secret)
	rpc.Handle(server, "echo", echo)
	addr, stop := serve(t, server)
	ctx := t.Context()
	if got, err := rpc.Call[string, string](ctx, client, addr, "echo", "hello"); err != nil || got != "hello" {
		t.Errorf("answer %q, %v", got, err)
	}
	if _, err := rpc.Call[string, string](ctx, client, addr, "echo", "known"); !errors.Is(err, errKnown) {
		t.Errorf("an error that both sides know: %v", err)
	}
	for _, call := range [][2]string{{"echo", "panic"}, {"nothing", "x"}} {
		_, err := rpc.Call[string, string](ctx, client, addr, call[0], call[1])
		if err == nil || errors.Is(err, rpc.ErrBroken) || errors.Is(err, rpc.ErrUnreachable) {
			t.Errorf("%s(%s): %v, expected an answer that says what is wrong", call[0], call[1], err)
		}
	}
	if _, err := rpc.Call[int, string](ctx, client, addr, "echo", 5); err == nil {
		t.Error("a number was taken for a text")
	}
	big := strings.Repeat("x", 1<<20)
	if got, err := rpc.Call[string, string](ctx, client, addr, "echo", big); err != nil || got != big {
		t.Errorf("a large body: %d bytes, %v", len(got), err)
	}
	if _, err := rpc.Call[string, string](ctx, client, addr, "echo", strings.Repeat("x", 64<<20)); err == nil ||
		errors.Is(err, rpc.ErrBroken) {
		t.Errorf("a body beyond the limit: %v", err)
	}
	rpc.Handle(server, "huge", func(context.Context, int) (string, error) { return strings.Repeat("x", 64<<20), nil })
	if _, err := rpc.Call[int, string](ctx, client, addr, "huge", 1); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("an answer beyond the limit: %v", err)
	}
	stop()
	(&http.Client{Transport: client.Transport()}).CloseIdleConnections()
}

func TestManyCallsShareAConnection(t *testing.T) {
	server, client := node(t, secret), node(t, secret)
	var mu sync.Mutex
	from := map[string]bool{}
	server.Fallback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		from[r.RemoteAddr] = true
		fmt.Fprint(w, r.Proto)
	}))
	addr, _ := serve(t, server)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+"/page", nil)
			res, err := client.Transport().RoundTrip(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if body, err := io.ReadAll(res.Body); err != nil || string(body) != "HTTP/2.0" {
				t.Errorf("answer %q, %v", body, err)
			}
		})
	}
	wg.Wait()
	if len(from) > 20 {
		t.Errorf("200 calls took %d connections", len(from))
	}
}

func TestStrangersAreRefused(t *testing.T) {
	server := node(t, secret)
	var served atomic.Int64
	rpc.Handle(server, "echo", func(_ context.Context, s string) (string, error) {
		served.Add(1)
		return s, nil
	})
	server.Fallback(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	addr, _ := serve(t, server)
	if _, err := rpc.Call[string, string](t.Context(), node(t, "another secret, also long"), addr, "echo", "x"); !errors.Is(err,
		rpc.ErrUnreachable) {
		t.Errorf("a node of another fleet: %v", err)
	}
	anyone := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		ForceAttemptHTTP2: true,
	}} //nolint:gosec // the stranger
	defer anyone.CloseIdleConnections()
	for _, url := range []string{"https://" + addr + "/_lyceum/rpc/echo", "http://" + addr + "/_lyceum/rpc/echo", "http://" + addr + "/"} {
		res, err := anyone.Post(url, "application/json", strings.NewReader(`"x"`))
		if err == nil {
			res.Body.Close()
			if res.StatusCode != http.StatusBadRequest { // the server's word to plain HTTP
				t.Errorf("%s answered %s to a stranger", url, res.Status)
			}
		}
	}
	if n := served.Load(); n != 0 {
		t.Errorf("%d requests of strangers were served", n)
	}
	for _, short := range []string{"", "fifteen bytes.."} {
		if _, err := rpc.New(rpc.Options{Secret: []byte(short)}); err == nil {
			t.Errorf("the secret %q was taken", short)
		}
	}
}

// proxy passes bytes to a server until it is paused or cut.
type proxy struct {
	l      net.Listener
	mu     sync.Mutex
	paused bool
	conns  []net.Conn
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{l: l}
	t.Cleanup(func() {
		l.Close()
		p.cut()
	})
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			go p.pass(in, out)
			go p.pass(out, in)
		}
	}()
	return p
}

func (p *proxy) pass(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		paused := p.paused
		p.mu.Unlock()
		if n > 0 && !paused {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

func (p *proxy) pause() {
	p.mu.Lock()
	p.paused = true
	p.mu.Unlock()
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func TestUnreachableAndBroken(t *testing.T) {
	server, client := node(t, secret), node(t, secret)
	var runs atomic.Int64
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	rpc.Handle(server, "echo", func(_ context.Context, s string) (string, error) {
		runs.Add(1)
		if s == "slow" {
			entered <- struct{}{}
			<-leave
		}
		return s, nil
	})
	addr, stop := serve(t, server)
	p := newProxy(t, addr)
	via := p.l.Addr().String()
	call := func(s string) error {
		_, err := rpc.Call[string, string](t.Context(), client, via, "echo", s)
		return err
	}
	if err := call("x"); err != nil {
		t.Fatal(err)
	}
	// A kept connection that died in between: the call takes a new one, or says what happened.
	p.cut()
	before := runs.Load()
	err := call("x")
	if done := runs.Load() - before; (err == nil) != (done == 1) || errors.Is(err, rpc.ErrUnreachable) && done != 0 {
		t.Errorf("over a dead connection: ran %d times, %v", done, err)
	}
	for err != nil && !t.Failed() { // the transport may need one call to notice
		err = call("x")
	}
	// The connection breaks while the method runs.
	result := make(chan error, 1)
	go func() { result <- call("slow") }()
	<-entered
	p.cut()
	if err := <-result; !errors.Is(err, rpc.ErrBroken) {
		t.Errorf("cut in the middle: %v", err)
	}
	close(leave)
	// The server says good-bye on a kept connection and is gone.
	if err := call("x"); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := call("x"); !errors.Is(err, rpc.ErrUnreachable) {
		t.Errorf("after the server's end: %v", err)
	}
	for _, nowhere := range []string{"127.0.0.1:1", "", "no such address"} {
		_, err := rpc.Call[string, string](t.Context(), client, nowhere, "echo", "x")
		if !errors.Is(err, rpc.ErrUnreachable) {
			t.Errorf("call to %q: %v", nowhere, err)
		}
	}
}

func TestAPausedPeerIsFound(t *testing.T) {
	server, client := node(t, secret), node(t, secret)
	entered, leave := make(chan struct{}), make(chan struct{})
	rpc.Handle(server, "slow", func(context.Context, int) (int, error) {
		close(entered)
		<-leave
		return 1, nil
	})
	defer close(leave)
	addr, _ := serve(t, server)
	p := newProxy(t, addr)
	result := make(chan error, 1)
	go func() {
		_, err := rpc.Call[int, int](t.Context(), client, p.l.Addr().String(), "slow", 1)
		result <- err
	}()
	<-entered
	p.pause()
	began := time.Now()
	err := <-result
	if took := time.Since(began); !errors.Is(err, rpc.ErrBroken) || took > 6*time.Second {
		t.Errorf("a call to a paused process ended after %s with %v", took, err)
	}
}

// TestAPausedPeerWithoutAConnectionIsFound holds that the wait for the handshake ends: the kernel takes connections for
// a process that is stopped.
func TestAPausedPeerWithoutAConnectionIsFound(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	began := time.Now()
	_, err = rpc.Call[string, string](ctx, node(t, secret), l.Addr().String(), "echo", "x")
	if !errors.Is(err, rpc.ErrUnreachable) {
		t.Errorf("after %s: %v, expected %v", time.Since(began), err, rpc.ErrUnreachable)
	}
}

func TestCancellationReachesTheMethod(t *testing.T) {
	server, client := node(t, secret), node(t, secret)
	entered, cancelled := make(chan struct{}), make(chan struct{})
	rpc.Handle(server, "wait", func(ctx context.Context, _ int) (int, error) {
		close(entered)
		<-ctx.Done()
		close(cancelled)
		return 0, ctx.Err()
	})
	addr, _ := serve(t, server)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := rpc.Call[int, int](ctx, client, addr, "wait", 1)
		result <- err
	}()
	<-entered
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call: %v", err)
	}
	select {
	case <-cancelled:
	case <-time.After(10 * time.Second):
		t.Error("the method runs on")
	}
}

func TestServeLetsCallsFinish(t *testing.T) {
	server, client := node(t, secret), node(t, secret)
	entered, leave := make(chan struct{}), make(chan struct{})
	rpc.Handle(server, "slow", func(context.Context, int) (string, error) {
		close(entered)
		<-leave
		return "finished", nil
	})
	addr, stop := serve(t, server)
	result := make(chan string, 1)
	go func() {
		got, err := rpc.Call[int, string](t.Context(), client, addr, "slow", 1)
		if err != nil {
			t.Error(err)
		}
		result <- got
	}()
	<-entered
	stopped := make(chan struct{})
	go func() {
		stop()
		close(stopped)
	}()
	for { // until the listener is closed
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		c.Close()
	}
	close(leave)
	if got := <-result; got != "finished" {
		t.Errorf("answer %q", got)
	}
	<-stopped
}
