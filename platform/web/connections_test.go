package web_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/conf"
	"lyceum/platform/web"
)

// TestAServerThatIsReplacedDropsNothing lets servers that share one socket, as processes of lyceum up do, follow each other
// while clients open a connection for each request.
func TestAServerThatIsReplacedDropsNothing(t *testing.T) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	whileReplaced(t, 40, 50, func(address string, over *atomic.Bool, answers *atomic.Int64) {
		for !over.Load() {
			if err := ask(client, "http://"+address+"/hello"); err != nil {
				t.Error(err)
			}
			answers.Add(1)
		}
	})
}

// TestWhoWaitsMovesToTheNextServer does it with clients that wait for news over connections which they keep.
func TestWhoWaitsMovesToTheNextServer(t *testing.T) {
	whileReplaced(t, 12, 400, func(address string, over *atomic.Bool, kept *atomic.Int64) {
		transport := &http.Transport{MaxConnsPerHost: 1}
		client := &http.Client{Transport: transport, Timeout: time.Minute}
		defer transport.CloseIdleConnections()
		wait := 400 // long enough to be set aside
		for !over.Load() {
			text, reused, err := fetch(client, fmt.Sprintf("http://%s/wait?ms=%d", address, wait))
			if err != nil || text != `200 {"news":"none"}` {
				t.Errorf("%s, %v", text, err)
			}
			answered := time.Now()
			if wait = rand.IntN(20); !reused {
				wait = 400
			} else {
				kept.Add(1)
			}
			if rand.IntN(8) == 0 { // it is not sent again when its connection breaks
				res, err := client.Post("http://"+address+"/hello", "application/json", strings.NewReader("{}"))
				if err != nil {
					if since := time.Since(answered); since < 400*time.Millisecond { // else it may have been closed as idle
						t.Errorf("%v, %v after the answer before", err, since)
					}
					continue
				}
				_, _ = io.Copy(io.Discard, res.Body) // it is small
				_ = res.Body.Close()
			}
		}
	})
}

// whileReplaced runs 16 clients until servers on one socket have followed each other so many times, each after the clients counted so many
// answers more.
func whileReplaced(t *testing.T, times int, each int64, client func(address string, over *atomic.Bool, answers *atomic.Int64)) {
	t.Helper()
	socket, address := sharedSocket(t)
	end := serveOn(t, socket)
	var over atomic.Bool
	var answers atomic.Int64
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() { client(address, &over, &answers) })
	}
	func() {
		defer clients.Wait()
		defer over.Store(true)
		for range times {
			seen := answers.Load()
			until(t, "the new server serves too", func() bool { return answers.Load() >= seen+each })
			next := serveOn(t, socket)
			end()
			end = next
		}
	}()
	end()
	t.Logf("%d answers", answers.Load())
}

// TestAConnectionFromBeforeTheEndIsAnswered sends the first request of a connection after the listener was closed.
func TestAConnectionFromBeforeTheEndIsAnswered(t *testing.T) {
	for range 20 {
		if answeredAtTheEnd(t) {
			return
		}
	}
	t.Error("this machine is too slow: a connection is older than five seconds each time")
}

// answeredAtTheEnd is false when it took too long to tell.
func answeredAtTheEnd(t *testing.T) bool {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	end := serveAt(t, l)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// the one before was accepted
	if err := ask(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, "http://"+l.Addr().String()+"/hello"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		end()
		close(ended)
	}()
	defer func() { <-ended }()
	for {
		other, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		_ = other.Close()
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // the end goes as far as it goes
	_, err = io.WriteString(conn, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
	var text []byte
	if err == nil {
		text, err = io.ReadAll(conn)
	}
	if time.Since(began) > 4*time.Second {
		return false
	}
	if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 200 ") || !strings.Contains(string(text), "Connection: close\r\n") {
		t.Errorf("answered %q, %v", text, err)
	}
	return true
}

// sharedSocket opens a listening socket that servers can follow each other on.
func sharedSocket(t *testing.T) (socket *os.File, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // the file is a copy
	if socket, err = l.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = socket.Close() })
	return socket, l.Addr().String()
}

// serveOn serves on a socket until end, which returns when the server has ended.
func serveOn(t *testing.T, socket *os.File) (end func()) {
	t.Helper()
	l, err := net.FileListener(socket)
	if err != nil {
		t.Fatal(err)
	}
	return serveAt(t, l)
}

func serveAt(t *testing.T, l net.Listener) (end func()) {
	t.Helper()
	hello := func(*web.Request) (any, error) { return map[string]string{"hello": "you"}, nil }
	wait := func(r *web.Request) (any, error) {
		ms, err := r.Int("ms", 0, 1000)
		return &web.Park{
			Until:  time.Now().Add(time.Duration(ms) * time.Millisecond),
			Wait:   func(func()) func() { return func() {} },
			Resume: func(context.Context, bool) (any, error) { return map[string]string{"news": "none"}, nil },
		}, err
	}
	s := newServer(
		t,
		web.Options{Config: web.Config{DrainDelay: conf.Duration(20 * time.Millisecond)}},
		web.Route{
			Pattern: "GET /hello",
			Auth:    web.None,
			Handler: hello,
		},
		web.Route{Pattern: "POST /hello", Auth: web.None, Handler: hello},
		web.Route{Pattern: "GET /wait", Auth: web.None, Handler: wait},
	)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func ask(client *http.Client, url string) error {
	res, err := client.Get(url)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	return err
}
