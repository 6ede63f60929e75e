package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"lyceum/platform/engines"
	"lyceum/platform/web"
)

// proxied is a balancer under test and how it differs from the others.
type proxied struct {
	name   string
	render func(Input) ([]byte, error)
	start  func(ctx context.Context, dir string, config func(listen string) ([]byte, error)) (*engines.Proxy, error)
	// chunked: it counts bodies whose length is not told
	chunked bool
	// unlimited: it leaves limits of bodies to Lyceum
	unlimited bool
	// putAgain: it repeats a PUT whose connection broke
	putAgain bool
}

var proxies = []proxied{
	{name: "haproxy", render: HAProxy, start: engines.StartHAProxy, putAgain: true},
	{name: "nginx", render: Nginx, start: engines.StartNginx, chunked: true, putAgain: true},
	{name: "caddy", render: Caddy, start: engines.StartCaddy, unlimited: true},
}

// replica is one process behind the balancer. It tells who it is and what it was sent.
type replica struct {
	name   string
	server *httptest.Server
	hits   atomic.Int64
	bytes  atomic.Int64 // of bodies
	left   atomic.Int64 // requests whose client hung up while they waited
	cut    atomic.Bool  // the next request's connection is closed without an answer
	sick   atomic.Bool
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

type told struct {
	Name    string
	Method  string
	Target  string
	Headers http.Header
	Body    int64
}

func startReplica(t testing.TB, name string) *replica {
	r := &replica{name: name}
	r.server = httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.server.Close)
	return r
}

func (r *replica) serve(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == "/health" {
		if r.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	r.hits.Add(1)
	if r.cut.CompareAndSwap(true, false) {
		panic(http.ErrAbortHandler)
	}
	if strings.EqualFold(q.Header.Get("Upgrade"), "websocket") {
		socket, err := websocket.Accept(w, q, nil)
		if err != nil {
			return
		}
		defer socket.CloseNow()
		for {
			kind, text, err := socket.Read(q.Context())
			if err != nil {
				return
			}
			if socket.Write(q.Context(), kind, append([]byte(r.name+":"), text...)) != nil {
				return
			}
		}
	}
	if wait, err := time.ParseDuration(q.URL.Query().Get("wait")); err == nil {
		select {
		case <-time.After(wait):
		case <-q.Context().Done():
			r.left.Add(1)
			return
		}
	}
	answer := told{Name: r.name, Method: q.Method, Target: q.RequestURI, Headers: q.Header}
	var err error
	if answer.Body, err = io.Copy(counter{&r.bytes}, q.Body); err != nil {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// fleet is a balancer before two real replicas of each role.
type fleet struct {
	t        testing.TB
	in       Input
	proxy    *engines.Proxy
	replicas map[string]*replica
	client   *http.Client
	dir      string // with the log of the balancer
}

const (
	testTimeout = 600 * time.Millisecond
	testSync    = 4 * time.Second
	testUpload  = 30 << 20
)

func begin(t testing.TB, p proxied, change func(in *Input)) *fleet {
	t.Helper()
	f := &fleet{t: t, replicas: map[string]*replica{}}
	routes := table(t)
	for i := range routes {
		switch r := &routes[i]; r.Role {
		case "uploads":
			r.Upload, r.Timeout = testUpload, testSync
		case "sync":
			r.Timeout = testSync
		}
	}
	routes = append(routes, web.Route{Pattern: "POST /_lyceum/fleet/secret", Auth: web.Fleet})
	f.in = Input{Command: "lyceum render " + p.name, Roles: tableRoles, Routes: routes, Backends: map[string]Backend{}, Timeout: testTimeout}
	for _, role := range []string{"router", "client", "sync", "events", "receipts", "media", "accountdata"} {
		b := Backend{}
		for i := range 3 {
			r := startReplica(t, fmt.Sprintf("%s-%d", role, i))
			f.replicas[r.name] = r
			b.Servers = append(b.Servers, r.server.Listener.Addr().String())
		}
		f.in.Backends[role] = b
	}
	if change != nil {
		change(&f.in)
	}
	f.start(p)
	f.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 20 * time.Second}
	t.Cleanup(f.client.CloseIdleConnections)
	// On a busy machine first health checks may fail; a balancer is ready when they have not.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, response, err := f.ask("GET", "/_matrix/client/versions", nil); err == nil && response.StatusCode == 200 {
			return f
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not reach its processes", p.name)
		}
	}
}

func (f *fleet) start(p proxied) {
	f.t.Helper()
	dir := f.t.TempDir()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	var err error
	f.dir = dir
	f.proxy, err = p.start(ctx, dir, func(listen string) ([]byte, error) {
		in := f.in
		in.Listen = listen
		return p.render(in)
	})
	if err != nil {
		f.t.Fatalf("this test needs a real %s: %v", p.name, err)
	}
	f.t.Cleanup(func() {
		if err := f.proxy.Stop(); err != nil {
			f.t.Error(err)
		}
		if f.t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "server.log"))
			f.t.Logf("the end of its log: %s", text[max(0, len(text)-3000):])
		}
	})
}

func (f *fleet) ask(method, target string, body io.Reader, headers ...string) (told, *http.Response, error) {
	request, err := http.NewRequest(method, "http://"+f.proxy.Addr()+target, body)
	if err != nil {
		return told{}, nil, err
	}
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		request.Header.Add(name, value)
	}
	response, err := f.client.Do(request)
	if err != nil {
		return told{}, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	var answer told
	if response.StatusCode == 200 && method != "HEAD" {
		err = errors.Join(err, json.Unmarshal(text, &answer))
	} else if method != "HEAD" && !json.Valid(text) {
		err = errors.Join(err, fmt.Errorf("%s is no JSON", text))
	}
	return answer, response, err
}

func (f *fleet) get(target string, headers ...string) told {
	f.t.Helper()
	answer, response, err := f.ask("GET", target, nil, headers...)
	if err != nil || response.StatusCode != 200 {
		f.t.Fatalf("GET %s: %v %v", target, response, err)
	}
	return answer
}

func (a told) role() string {
	role, _, _ := strings.Cut(a.Name, "-")
	return role
}

func TestLive(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			f := begin(t, p, nil)
			t.Run("roles", func(t *testing.T) { f.roles(t) })
			t.Run("keys", func(t *testing.T) { f.keys(t) })
			t.Run("clients", func(t *testing.T) { f.clients(t) })
			t.Run("hidden", func(t *testing.T) { f.hidden(t) })
			t.Run("bodies", func(t *testing.T) { f.bodies(t, p) })
			t.Run("times", func(t *testing.T) { f.times(t) })
			t.Run("left", func(t *testing.T) { f.left(t) })
			t.Run("websocket", func(t *testing.T) { f.websocket(t) })
			t.Run("broken", func(t *testing.T) { f.broken(t, p) })
			t.Run("death", func(t *testing.T) { f.death(t) })
		})
	}
}

// roles sends an example of each route and looks at who answered.
func (f *fleet) roles(t *testing.T) {
	in, err := f.in.check(false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range in.Routes {
		route := &in.Routes[i]
		_, field, err := parse(route)
		if err != nil {
			t.Fatal(err)
		}
		want := in.classify(route, field)
		if want.backend == "" {
			continue
		}
		for _, word := range []string{"%21a%3Ab", "a%2Fb"} {
			target := plainExample(route, word)
			answer, response, err := f.ask(route.Method(), target, nil)
			if err != nil {
				t.Errorf("%s %s: %v", route.Method(), target, err)
			} else if answer.role() != want.backend || answer.Target != target {
				t.Errorf("%s %s: %d, %q was sent %q, want %s", route.Method(), target, response.StatusCode, answer.Name, answer.Target, want.backend)
			}
		}
	}
	if answer, _, err := f.ask("OPTIONS", "/_matrix/client/v3/sync", nil); err != nil || answer.Method != "OPTIONS" {
		t.Errorf("OPTIONS: %+v %v", answer, err)
	}
}

func (f *fleet) keys(t *testing.T) {
	spread := func(what string, same func(i int) []told) {
		t.Helper()
		seen := map[string]int{}
		const many = 60 // that one of three gets none of them does not happen; of 24 it did
		for i := range many {
			answers := same(i)
			for _, a := range answers {
				if a.Name != answers[0].Name {
					t.Errorf("%s: one key went to %s and to %s", what, answers[0].Name, a.Name)
				}
			}
			seen[answers[0].Name]++
		}
		if len(seen) != 3 {
			t.Errorf("%s: %d keys went to %v", what, many, seen)
		}
	}
	ask := func(method, target string, headers ...string) told {
		t.Helper()
		answer, response, err := f.ask(method, target, nil, headers...)
		if err != nil || response.StatusCode != 200 {
			t.Fatalf("%s %s: %v %v", method, target, response, err)
		}
		return answer
	}
	spread("rooms", func(i int) []told {
		room := fmt.Sprintf("!room%d:example.org", i)
		return []told{
			ask("PUT", "/_matrix/client/v3/rooms/"+room+"/send/m.room.message/1"),
			ask("POST", "/_matrix/client/v3/rooms/"+url.QueryEscape(room)+"/join"),
			ask("PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(room)+"/state/m.x/a%2Fb"),
		}
	})
	spread("tokens", func(i int) []told {
		token := fmt.Sprintf("token%d", i)
		return []told{
			ask("GET", "/_matrix/client/v3/sync", "Authorization: Bearer "+token),
			ask("GET", "/_matrix/client/v3/sync?since=x", "Authorization: Bearer "+token),
			ask("GET", "/_matrix/client/v3/sync?access_token="+token),
		}
	})
	spread("media", func(i int) []told {
		return []told{
			ask("GET", fmt.Sprintf("/_matrix/client/v1/media/download/a.org/id%d", i)),
			ask("GET", fmt.Sprintf("/_matrix/media/v3/thumbnail/a.org/id%d?width=1", i)),
		}
	})
	spread("no key", func(int) []told { return []told{ask("GET", "/_matrix/client/versions")} })
	one := ask("GET", "/_matrix/client/v3/sync")
	if again := ask("GET", "/_matrix/client/v3/sync"); one.Name != again.Name {
		t.Error("one address without a token went to two")
	}
}

// clients looks at what a process is told of the client.
func (f *fleet) clients(t *testing.T) {
	forged := []string{
		"X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6", "Lyceum-Hop: 1",
		"X-Forwarded-Host: evil", "X-Request-Id: mine",
	}
	h := f.get("/_matrix/client/versions", forged...).Headers
	if got := h.Values("X-Forwarded-For"); !slices.Equal(got, []string{"127.0.0.1"}) {
		t.Errorf("X-Forwarded-For: %q", got)
	}
	if got := h.Values("X-Forwarded-Proto"); !slices.Equal(got, []string{"http"}) {
		t.Errorf("X-Forwarded-Proto: %q", got)
	}
	for _, name := range []string{"Forwarded", "X-Real-IP", "Lyceum-Hop", "X-Forwarded-Host", "X-Request-Id"} {
		if h.Get(name) != "" {
			t.Errorf("%s passed: %q", name, h.Get(name))
		}
	}
}

func TestTrustedProxies(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			f := begin(t, p, func(in *Input) { in.TrustedProxies = []string{"127.0.0.0/8"} })
			h := f.get("/_matrix/client/versions", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https").Headers
			got := strings.ReplaceAll(strings.Join(h.Values("X-Forwarded-For"), ","), " ", "")
			if got != "203.0.113.9,127.0.0.1" || !slices.Equal(h.Values("X-Forwarded-Proto"), []string{"https"}) {
				t.Errorf("%q %q", got, h.Values("X-Forwarded-Proto"))
			}
		})
	}
}

func (f *fleet) hidden(t *testing.T) {
	for _, target := range []string{
		"POST /_lyceum/fleet/secret", "POST /_lyceum/rpc/x", "GET /metrics", "GET /ready", "GET /debug/pprof/",
		"GET /metrics?x",
	} {
		method, path, _ := strings.Cut(target, " ")
		_, response, err := f.ask(method, path, nil)
		if err != nil || response.StatusCode != 404 {
			t.Errorf("%s: %v %v", target, response, err)
		}
	}
}

func (f *fleet) bodies(t *testing.T, p proxied) {
	const upload = "/_matrix/media/v3/upload"
	answer, _, err := f.ask("POST", upload, bytes.NewReader(make([]byte, 20<<20)))
	if err != nil || answer.Body != 20<<20 || answer.role() != "media" {
		t.Errorf("20 MiB: %+v %v", answer, err)
	}
	for _, c := range []struct {
		target string
		size   int
		status int
	}{
		{upload, testUpload, 200},
		{upload, testUpload + 1, 413},
		{"/_matrix/client/v3/login", defaultMaxBody, 200},
		{"/_matrix/client/v3/login", defaultMaxBody + 1, 413},
	} {
		if p.unlimited && c.status == 413 {
			continue
		}
		_, response, err := f.ask("POST", c.target, bytes.NewReader(make([]byte, c.size)))
		if err != nil && c.status == 413 && strings.Contains(err.Error(), "write") {
			continue // the balancer answered and hung up while the body was still sent
		}
		if err != nil || response.StatusCode != c.status {
			t.Errorf("%s with %d bytes: %v %v", c.target, c.size, response, err)
		} else if c.status == 413 && response.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("a page could not read the answer: %v", response.Header)
		}
	}
	if p.chunked {
		_, response, err := f.ask("POST", "/_matrix/client/v3/login", struct{ io.Reader }{bytes.NewReader(make([]byte, defaultMaxBody+1))})
		if err != nil || response.StatusCode != 413 {
			t.Errorf("too much in chunks: %v %v", response, err)
		}
	}
	// The process sees the first part before the second is sent.
	read := func() (n int64) {
		for _, r := range f.replicas {
			n += r.bytes.Load()
		}
		return n
	}
	before := read()
	reader, writer := io.Pipe()
	go func() {
		_, _ = writer.Write(make([]byte, 128<<10))
		for deadline := time.Now().Add(5 * time.Second); read() < before+64<<10; time.Sleep(2 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Error("an upload was held back until it was complete")
				break
			}
		}
		_, _ = writer.Write(make([]byte, 64<<10))
		_ = writer.Close()
	}()
	if answer, _, err := f.ask("POST", upload, reader); err != nil || answer.Body != 192<<10 {
		t.Errorf("a body in chunks: %+v %v", answer, err)
	}
}

func (f *fleet) times(t *testing.T) {
	start := time.Now()
	wait := 3 * testTimeout
	if f.get("/_matrix/client/v3/sync?wait=" + wait.String()); time.Since(start) < wait {
		t.Error("the long poll did not wait")
	}
	start = time.Now()
	_, response, err := f.ask("GET", "/_matrix/client/versions?wait=5s", nil)
	if err != nil || response.StatusCode != 504 || time.Since(start) > 4*testTimeout {
		t.Errorf("a route that takes too long: %v %v after %s", response, err, time.Since(start))
	}
}

// left holds that a client that hangs up is known to the process that serves it, before the answer.
func (f *fleet) left(t *testing.T) {
	left := func() (n int64) {
		for _, r := range f.replicas {
			n += r.left.Load()
		}
		return n
	}
	before := left()
	ctx, hangUp := context.WithTimeout(t.Context(), testTimeout)
	defer hangUp()
	request, err := http.NewRequestWithContext(ctx, "GET",
		"http://"+f.proxy.Addr()+"/_matrix/client/v3/sync?wait="+(testSync*7/8).String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.client.Do(request); err == nil { //nolint:bodyclose // there is none
		t.Fatal("it was answered")
	}
	for deadline := time.Now().Add(testSync); left() == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the process that serves a client does not hear that it hung up")
		}
	}
}

func (f *fleet) websocket(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	socket, _, err := websocket.Dial(ctx, "ws://"+f.proxy.Addr()+"/_matrix/client/v3/sync", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.CloseNow()
	for range 3 {
		if err := socket.Write(ctx, websocket.MessageText, []byte("hi")); err != nil {
			t.Fatal(err)
		}
		if _, text, err := socket.Read(ctx); err != nil || !strings.HasPrefix(string(text), "sync-") || !strings.HasSuffix(string(text), ":hi") {
			t.Fatalf("%q %v", text, err)
		}
	}
}

// broken cuts connections without an answer: what may be repeated is, what may not is not.
func (f *fleet) broken(t *testing.T, p proxied) {
	hits := func() (n int64) {
		for _, r := range f.replicas {
			n += r.hits.Load()
		}
		return n
	}
	for _, c := range []struct {
		method string
		again  bool
	}{{"GET", true}, {"PUT", p.putAgain}, {"POST", false}} {
		victim := f.replicas["client-0"]
		victim.cut.Store(true)
		before, asked, failed := hits(), int64(0), 0
		for deadline := time.Now().Add(10 * time.Second); victim.cut.Load() && time.Now().Before(deadline); asked++ {
			var body io.Reader
			if c.method != "GET" {
				body = strings.NewReader("{}")
			}
			_, response, err := f.ask(c.method, "/_matrix/client/v3/profile/@u:h/displayname", body)
			// HAProxy closes the client's connection too when it was reused, so that the client decides.
			if err != nil || response.StatusCode != 200 {
				failed++
			}
		}
		extra := hits() - before - asked
		if victim.cut.Load() || c.again && (failed != 0 || extra != 1) || !c.again && (failed != 1 || extra != 0) {
			t.Errorf("%s: %d asked, %d failed, %d extra tries", c.method, asked, failed, extra)
		}
	}
}

// death closes a process while requests run: no GET fails, its keys move, the others' stay.
func (f *fleet) death(t *testing.T) {
	at := map[string]string{}
	room := func(i int) string { return fmt.Sprintf("/_matrix/client/v3/user/@u%d:h/account_data/x", i) }
	for i := range 30 {
		at[room(i)] = f.get(room(i)).Name
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var asked atomic.Int64
	for w := range 3 {
		wg.Go(func() {
			for i := w; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				_, response, err := f.ask("GET", room(i%30), nil)
				if err != nil || response.StatusCode != 200 {
					t.Errorf("a GET failed: %v %v", response, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	until := func(n int64) {
		for deadline := time.Now().Add(20 * time.Second); asked.Load() < n && time.Now().Before(deadline) && !t.Failed(); {
			time.Sleep(5 * time.Millisecond)
		}
	}
	until(50)
	dead := f.replicas["accountdata-1"]
	dead.server.CloseClientConnections()
	dead.server.Close()
	from := asked.Load()
	until(from + 300)
	// Longer than health checks take to find out.
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline) && !t.Failed(); {
		until(asked.Load() + 20)
	}
	close(stop)
	wg.Wait()
	moved := 0
	for target, before := range at {
		now := f.get(target).Name
		switch {
		case before == dead.name && now != dead.name:
			moved++
		case before != now:
			t.Errorf("%s moved from %s to %s", target, before, now)
		}
	}
	if moved == 0 {
		t.Error("the dead process had no key")
	}
	// With all of them gone, and those that know where they are, the client is told.
	for name, r := range f.replicas {
		if (strings.HasPrefix(name, "accountdata") || strings.HasPrefix(name, "router")) && r != dead {
			r.server.CloseClientConnections()
			r.server.Close()
		}
	}
	_, response, err := f.ask("GET", room(1), nil)
	if err != nil || response.StatusCode != 503 || response.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("no process is left: %v %v", response, err)
	}
}

// A process that drains answers 503 to health checks: it gets nothing new, and what it has is finished.
func TestDrain(t *testing.T) {
	for _, p := range proxies {
		if p.name == "nginx" {
			continue // it has no health checks; a drained process refuses connections, which is tried elsewhere
		}
		t.Run(p.name, func(t *testing.T) {
			f := begin(t, p, nil)
			const target = "/_matrix/client/v3/sync"
			going := f.replicas[f.get(target).Name]
			ended := make(chan error, 1)
			hits := going.hits.Load()
			go func() {
				answer, response, err := f.ask("GET", target+"?wait=3s", nil)
				if err == nil && (response.StatusCode != 200 || answer.Name != going.name) {
					err = fmt.Errorf("%d from %s", response.StatusCode, answer.Name)
				}
				ended <- err
			}()
			for going.hits.Load() == hits {
				time.Sleep(time.Millisecond)
			}
			going.sick.Store(true)
			for deadline := time.Now().Add(15 * time.Second); f.get(target).Name == going.name; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("a draining process still gets requests")
				}
			}
			if err := <-ended; err != nil {
				t.Errorf("a request under way was lost: %v", err)
			}
		})
	}
}

// TestMoved closes all processes of a role, as a restart that gives them new addresses does: the router answers for them.
func TestMoved(t *testing.T) {
	for _, p := range proxies {
		for _, n := range []int{1, 3} {
			if p.name == "caddy" && n > 1 {
				continue // it has no servers that are asked last: it says 503, as TestLive shows
			}
			t.Run(fmt.Sprint(p.name, "/", n), func(t *testing.T) {
				t.Parallel()
				f := begin(t, p, func(in *Input) {
					for _, role := range []string{"events", "media", "accountdata"} {
						in.Backends[role] = Backend{Servers: in.Backends[role].Servers[:n]}
					}
				})
				f.moved(t, n, p.name == "caddy")
			})
		}
	}
}

// moved looks at what is answered from the first request on; with foundOut from when one without a body was answered, as
// Caddy 2.6 has closed the body when it tries another process.
func (f *fleet) moved(t *testing.T, n int, foundOut bool) {
	ask := func(method, target, role string) {
		t.Helper()
		var body io.Reader
		length := int64(0)
		if method != "GET" {
			body, length = strings.NewReader(`{"a":1}`), 7
		}
		answer, response, err := f.ask(method, target, body)
		if err != nil || response.StatusCode != 200 || answer.role() != role || answer.Body != length {
			t.Fatalf("%s %s: %+v %v %v", method, target, answer, response, err)
		}
	}
	all := func(role func(own string) string) {
		t.Helper()
		ask("GET", "/_matrix/client/v3/user/@u:h/account_data/x", role("accountdata"))
		ask("PUT", "/_matrix/client/v3/user/@u:h/account_data/x", role("accountdata"))
		ask("POST", "/_matrix/client/v3/rooms/!a:h/join", role("events"))
		ask("POST", "/_matrix/media/v3/upload", role("media"))
	}
	all(func(own string) string { return own })
	for _, role := range []string{"events", "media", "accountdata"} {
		for i := range n {
			server := f.replicas[fmt.Sprintf("%s-%d", role, i)].server
			server.CloseClientConnections()
			server.Close()
		}
	}
	f.client.CloseIdleConnections() // HAProxy closes the client's connection with that of a process, so that the client decides
	if foundOut {
		ask("GET", "/_matrix/client/v3/user/@u:h/account_data/x", "router")
		if answer, response, err := f.ask("POST", "/_matrix/client/v3/rooms/!a:h/join", nil); err != nil || answer.role() != "router" {
			t.Fatalf("a request without a body: %+v %v %v", answer, response, err)
		}
		ask("GET", "/_matrix/media/v3/thumbnail/a.org/id?width=1", "router")
	}
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); { // before and after it is found out
		all(func(string) string { return "router" })
	}
}

// TestNoLogHoldsATokenOfAQuery, also when no process can be reached.
func TestNoLogHoldsATokenOfAQuery(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			f := &fleet{t: t, in: Input{Roles: tableRoles, Routes: table(t)}, client: &http.Client{}}
			r := startReplica(t, "router-0")
			f.in.Backends = map[string]Backend{"router": {Servers: []string{r.server.Listener.Addr().String()}}}
			const ofNginx = "/var/log/nginx/access.log" // of all tests; its error log is not ours to shape, as its header says
			var before int64
			if info, err := os.Stat(ofNginx); err == nil {
				before = info.Size()
			}
			f.start(p)
			name := filepath.Join(f.dir, "server.log")
			if p.name == "nginx" {
				name = ofNginx
			} else {
				before = 0
			}
			if _, _, err := f.ask("GET", "/_matrix/client/v3/sync?access_token=a-secret-token-"+p.name, nil); err != nil {
				t.Fatal(err)
			}
			r.server.Close()
			_, _, _ = f.ask("GET", "/_matrix/client/v3/sync?access_token=a-secret-token-"+p.name, nil) // 503 or a broken connection
			f.client.CloseIdleConnections()
			if err := f.proxy.Stop(); err != nil { // now its log is complete
				t.Fatal(err)
			}
			all, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text := string(all[min(before, int64(len(all))):])
			if strings.Contains(text, "a-secret-token-"+p.name) {
				t.Errorf("%s: %s", name, text[max(0, len(text)-1500):])
			}
			if p.name != "caddy" && strings.Count(text, "/_matrix/client/v3/sync") != 2 {
				t.Errorf("%s does not tell of both requests: %s", name, text[max(0, len(text)-1500):])
			}
		})
	}
}
