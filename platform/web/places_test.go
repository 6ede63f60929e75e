package web_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/web"
)

// What a user, and an address, may have at work, and how many more may wait.
const (
	userAtWork, userWaiting       = 8, 1000
	addressAtWork, addressWaiting = 128, 2000
)

// work is handlers that go on when they are told.
type work struct {
	now, most, done atomic.Int64
	release         chan struct{}
}

func newWork() *work { return &work{release: make(chan struct{})} }

func (w *work) handle(r *web.Request) (any, error) {
	n := w.now.Add(1)
	defer w.now.Add(-1)
	for most := w.most.Load(); n > most && !w.most.CompareAndSwap(most, n); most = w.most.Load() {
	}
	select {
	case <-w.release:
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
	w.done.Add(1)
	return nil, nil
}

// server is one with a route for everything that may wait.
func (w *work) server(t *testing.T) *web.Server {
	return newServer(t, web.Options{},
		web.Route{Pattern: "GET /work", Auth: web.Optional, Handler: w.handle},
		web.Route{Pattern: "GET /short", Auth: web.Optional, Timeout: slow, Handler: w.handle},
		web.Route{Pattern: "GET /fleet", Auth: web.Fleet, Handler: w.handle},
		web.Route{Pattern: "GET /open", Auth: web.None, Handler: ok},
		web.Route{Pattern: "GET /small", Auth: web.Optional, Handler: ok})
}

// askMany sends n requests and counts the statuses.
func askMany(h http.Handler, n int, target string, headers ...string) (statuses *sync.Map, wait func()) {
	var all sync.WaitGroup
	statuses = &sync.Map{}
	for range n {
		all.Go(func() {
			a := call(h, target, "", headers...)
			count, _ := statuses.LoadOrStore(a.Code, new(atomic.Int64))
			count.(*atomic.Int64).Add(1)
		})
	}
	return statuses, all.Wait
}

func counted(statuses *sync.Map, code int) int64 {
	if n, ok := statuses.Load(code); ok {
		return n.(*atomic.Int64).Load()
	}
	return 0
}

// soon is a status and how long it took, of a request that must not wait.
func soon(t *testing.T, h http.Handler, what, target, body string, headers ...string) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	method, path, _ := strings.Cut(target, " ")
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	answered := make(chan int, 1)
	go func() {
		defer func() { _ = recover() }() // a client that left
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		answered <- w.Code
	}()
	select {
	case code := <-answered:
		if code != 200 {
			t.Errorf("%s: %d", what, code)
		}
	case <-ctx.Done():
		t.Errorf("%s waits after %s", what, time.Since(began))
	}
}

// One user who asks for much at once has a few handlers at work: the others of his wait, and nobody else does.
func TestACallerHasFewHandlersAtWork(t *testing.T) {
	for name, c := range map[string]struct {
		header, other   string
		atWork, waiting int
	}{
		"a user":              {"Authorization: Bearer alice", "Authorization: Bearer guest", userAtWork, userWaiting},
		"an address":          {"X-Forwarded-For: 192.0.2.7", "X-Forwarded-For: 192.0.2.8", addressAtWork, addressWaiting},
		"a network of IPv6":   {"X-Forwarded-For: 2001:db8::7", "X-Forwarded-For: 2001:db8:0:1::7", addressAtWork, addressWaiting},
		"beside his own user": {"X-Forwarded-For: 192.0.2.7", "Authorization: Bearer alice", addressAtWork, addressWaiting},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWork()
			h := w.server(t).Internal()
			first, wait := askMany(h, c.atWork+c.waiting+100, "GET /work", c.header)
			until(t, "the others are refused", func() bool { return counted(first, 429) == 100 })
			until(t, "as many as may are at work", func() bool { return w.now.Load() == int64(c.atWork) })
			soon(t, h, "another", "GET /small", "", c.other)
			soon(t, h, "a load balancer", "GET /open", "", c.header)
			a := call(h, "GET /small", "", c.header)
			if a.Code != 429 || errcode(t, a) != "M_LIMIT_EXCEEDED" || !strings.Contains(a.Body.String(), "retry_after_ms") ||
				a.Header().Get("Retry-After") == "" {
				t.Errorf("one too many: %d %s", a.Code, a.Body)
			}
			close(w.release)
			wait()
			if most := w.most.Load(); most != int64(c.atWork) {
				t.Errorf("%d were at work at once", most)
			}
			if n := counted(first, 200); n != int64(c.atWork+c.waiting) {
				t.Errorf("%d were answered", n)
			}
			soon(t, h, "afterwards", "GET /small", "", c.header)
		})
	}
}

// What processes ask each other for themselves waits for nobody: a request that has a place may wait for it.
func TestTheFleetNeedsNoPlace(t *testing.T) {
	w := newWork()
	h := w.server(t).Internal()
	_, wait := askMany(h, addressAtWork+10, "GET /fleet")
	until(t, "all are at work", func() bool { return w.now.Load() == addressAtWork+10 })
	soon(t, h, "a request", "GET /small", "")
	close(w.release)
	wait()
}

// The wait for a place is part of the time of a request.
func TestAWaitForAPlaceEnds(t *testing.T) {
	w := newWork()
	h := w.server(t).Handler()
	_, wait := askMany(h, userAtWork, "GET /work", "Authorization: Bearer alice")
	until(t, "all are at work", func() bool { return w.now.Load() == userAtWork })
	began := time.Now()
	a := call(h, "GET /short", "", "Authorization: Bearer alice")
	if a.Code != 429 || errcode(t, a) != "M_LIMIT_EXCEEDED" || time.Since(began) < slowWork {
		t.Errorf("after %s: %d %s", time.Since(began), a.Code, a.Body)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan any)
	go func() {
		defer func() { gone <- recover() }()
		r := httptest.NewRequestWithContext(ctx, "GET", "/work", nil)
		r.Header.Set("Authorization", "Bearer alice")
		h.ServeHTTP(httptest.NewRecorder(), r)
	}()
	time.Sleep(50 * time.Millisecond)
	cancel()
	select {
	case <-gone:
	case <-time.After(5 * time.Second):
		t.Error("a request waits whose client has left")
	}
	close(w.release)
	wait()
	if n := w.done.Load(); n != userAtWork {
		t.Errorf("%d were done", n)
	}
}

// More requests of a user than may be at work wait for others, and he is served all the same.
func TestWhatHoldsNoPlace(t *testing.T) {
	const n = userAtWork + 6
	release := make(chan struct{})
	var begun atomic.Int64
	large := strings.Repeat("x", 8<<20)
	park := func(r *web.Request) (any, error) {
		begun.Add(1)
		return &web.Park{
			Until: time.Now().Add(time.Minute),
			Wait: func(wake func()) func() {
				go func() { <-release; wake() }()
				return func() {}
			},
			Resume: func(ctx context.Context, over bool) (any, error) {
				begun.Add(1)
				return &web.Pieces{Write: func(w io.Writer) error {
					_, err := io.WriteString(w, `{}`)
					return err
				}}, nil
			},
		}, nil
	}
	body := web.JSON(func(r *web.Request, _ *struct{}) (any, error) { return nil, nil })
	s := newServer(t, web.Options{Config: web.Config{MaxInFlight: 1 << 30}},
		web.Route{Pattern: "GET /small", Auth: web.User, Handler: ok},
		web.Route{Pattern: "GET /large", Auth: web.User, Handler: func(*web.Request) (any, error) {
			begun.Add(1)
			return &web.Stream{Write: func(w io.Writer) error {
				_, err := io.WriteString(w, large)
				return err
			}}, nil
		}},
		web.Route{Pattern: "GET /pieces", Auth: web.User, Handler: func(*web.Request) (any, error) {
			return &web.Pieces{Write: func(w io.Writer) error {
				_, err := io.WriteString(w, large[:1<<20])
				begun.Add(1)
				<-release
				return err
			}}, nil
		}},
		web.Route{Pattern: "GET /park", Auth: web.User, Handler: park},
		web.Route{Pattern: "POST /body", Auth: web.User, Handler: body},
		web.Route{Pattern: "POST /file", Auth: web.User, Upload: 1 << 20, Handler: func(r *web.Request) (any, error) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return nil, err
			}
			return nil, r.RecheckAccess()
		}},
		web.Route{Pattern: "GET /waits", Auth: web.User, Handler: func(r *web.Request) (any, error) {
			if r.QueryParam("how") == "lends" {
				r.LendPlace()
			} else {
				r.Waits(time.Minute)
			}
			begun.Add(1)
			<-release
			return nil, r.RecheckAccess()
		}},
		web.Route{Pattern: "GET /socket", Auth: web.User, Handler: func(*web.Request) (any, error) {
			return &web.Takeover{Serve: func(w http.ResponseWriter, _ *http.Request) {
				c, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				begun.Add(1)
				<-release
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				_ = c.Close()
			}}, nil
		}})
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	const head = " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n"
	for _, c := range []struct {
		target, fields, rest string
		begins               bool // its handler says that it began
	}{
		{"GET /large", "", "", true},
		{"GET /pieces", "Accept-Encoding: identity\r\n", "", true},
		{"GET /park", "", "", true},
		{"POST /body", "Content-Length: 2\r\n", "{}", false},
		{"POST /file", "Content-Length: 2\r\n", "{}", false},
		{"GET /waits", "", "", true},
		{"GET /waits?how=lends", "", "", true},
		{"GET /socket", "", "", true},
	} {
		t.Run(c.target, func(t *testing.T) {
			begun.Store(0)
			release = make(chan struct{})
			letGo := sync.OnceFunc(func() { close(release) })
			defer letGo()
			var clients []io.ReadWriteCloser
			for range n {
				clients = append(clients, dial(t, address, c.target+head+c.fields+"\r\n"))
			}
			if c.begins {
				until(t, "all have begun", func() bool { return begun.Load() == n })
			}
			time.Sleep(50 * time.Millisecond)
			soon(t, s.Handler(), "a small one", "GET /small", "", "Authorization: Bearer alice")
			soon(t, s.Handler(), "one with a body", "POST /body", "{}", "Authorization: Bearer alice")
			letGo()
			for i, client := range clients {
				_, _ = io.WriteString(client, c.rest)
				answer, err := http.ReadResponse(bufio.NewReader(client), nil)
				if err != nil || answer.StatusCode != 200 {
					t.Fatalf("%d: %+v %v", i, answer, err)
				}
				_ = client.Close()
			}
			soon(t, s.Handler(), "afterwards", "GET /small", "", "Authorization: Bearer alice")
		})
	}
}

// A body that came whole gives its request a place again before the handler goes on, and a Pieces has one while it reads what
// may be a small answer.
func TestWhatTakesAPlaceAgain(t *testing.T) {
	w := newWork()
	working := func(r *web.Request) error {
		_, err := w.handle(r)
		return err
	}
	s := newServer(
		t,
		web.Options{},
		web.Route{
			Pattern: "POST /body",
			Auth:    web.User,
			Handler: web.JSON(func(r *web.Request, _ *struct{}) (any, error) { return nil, working(r) }),
		},
		web.Route{Pattern: "POST /file", Auth: web.User, Upload: 1 << 20, Handler: func(r *web.Request) (any, error) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return nil, err
			}
			if err := r.RecheckAccess(); err != nil {
				return nil, err
			}
			return nil, working(r)
		}},
		web.Route{Pattern: "GET /waits", Auth: web.User, Handler: func(r *web.Request) (any, error) {
			r.Waits(time.Second)
			if err := r.RecheckAccess(); err != nil {
				return nil, err
			}
			return nil, working(r)
		}},
		web.Route{Pattern: "GET /pieces", Auth: web.User, Handler: func(r *web.Request) (any, error) {
			return &web.Pieces{Write: func(out io.Writer) error {
				if err := working(r); err != nil {
					return err
				}
				_, err := io.WriteString(out, "{}")
				return err
			}}, nil
		}},
	)
	for _, target := range []string{"POST /body", "POST /file", "GET /waits", "GET /pieces"} {
		w.release = make(chan struct{})
		w.most.Store(0)
		var all sync.WaitGroup
		for range 3 * userAtWork {
			all.Go(func() {
				if a := call(s.Handler(), target, "{}", "Authorization: Bearer alice"); a.Code != 200 {
					t.Errorf("%s: %d %s", target, a.Code, a.Body)
				}
			})
		}
		until(t, target, func() bool { return w.now.Load() == userAtWork })
		time.Sleep(20 * time.Millisecond)
		close(w.release)
		all.Wait()
		if most := w.most.Load(); most != userAtWork {
			t.Errorf("%s: %d were at work at once", target, most)
		}
	}
}

// A request that waited for long for a place is asked again whether it is let in.
func TestAUserWhoIsLockedWhileHisRequestWaits(t *testing.T) {
	w, door := newWork(), &doors{}
	s := newServer(t, web.Options{Authenticator: door},
		web.Route{Pattern: "POST /work", Auth: web.User, EmptyBody: true, Handler: w.handle})
	_, wait := askMany(s.Handler(), userAtWork, "POST /work", "Authorization: Bearer alice")
	until(t, "all are at work", func() bool { return w.now.Load() == userAtWork })
	last, waitLast := askMany(s.Handler(), 1, "POST /work", "Authorization: Bearer alice")
	time.Sleep(20 * time.Millisecond)
	door.locked.Store(true)
	close(w.release)
	wait()
	waitLast()
	if counted(last, 401) != 1 || w.done.Load() != userAtWork {
		t.Errorf("%d were done, expected %d", w.done.Load(), userAtWork)
	}
}
