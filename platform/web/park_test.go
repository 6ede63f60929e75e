package web_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/web"
)

// room is what the polls of a test wait for: the number of what was said.
type room struct {
	mu      sync.Mutex
	said    int
	waiting map[int]func()
	turns   int
	resumed int
	until   time.Duration // how long a poll waits (1 min)
	doors   *doors
}

func (m *room) say() {
	m.mu.Lock()
	m.said++
	waiting := m.waiting
	m.waiting = nil
	m.mu.Unlock()
	for _, wake := range waiting {
		wake()
	}
}

func (m *room) count(of *int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return *of
}

// poll waits until more was said than the client knows: every second saying is nothing to it.
func (m *room) poll(r *web.Request) (any, error) {
	after, err := r.Int("after", 0, 0)
	if err != nil {
		return nil, err
	}
	wait := time.Minute
	if m.until > 0 {
		wait = m.until
	}
	end, fails := time.Now().Add(wait), r.QueryParam("fails") != ""
	var answer func(ctx context.Context, over bool) (any, error)
	answer = func(_ context.Context, over bool) (any, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.resumed++
		said := m.said
		switch {
		case over:
			return map[string]any{"said": said, "over": true}, nil
		case fails && said > after:
			panic("no")
		case said >= after+2:
			return map[string]any{"said": said, "long": strings.Repeat("x", 5000)}, nil
		}
		return &web.Park{Until: end, Resume: answer, Wait: func(wake func()) func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.turns++
			turn := m.turns
			if m.said != said {
				go wake()
				return func() {}
			}
			if m.waiting == nil {
				m.waiting = map[int]func(){}
			}
			m.waiting[turn] = wake
			return func() {
				m.mu.Lock()
				defer m.mu.Unlock()
				delete(m.waiting, turn)
			}
		}}, nil
	}
	if fails { // not before it was set aside
		return &web.Park{Until: end, Resume: answer, Wait: func(wake func()) func() {
			time.AfterFunc(1500*time.Millisecond, wake)
			return func() {}
		}}, nil
	}
	return answer(r.Context(), false)
}

// doors lets everybody in until they are locked.
type doors struct{ locked atomic.Bool }

func (d *doors) Authenticate(context.Context, string) (*web.Identity, error) {
	if d.locked.Load() {
		return nil, &web.Error{Status: 401, Code: "M_USER_LOCKED", Message: "locked"}
	}
	return &web.Identity{UserID: "@a:x"}, nil
}

func (m *room) serve(t *testing.T) (s *web.Server, address string, stop func() error) {
	t.Helper()
	m.doors = &doors{}
	s = newServer(
		t, web.Options{Config: web.Config{Compress: true}, Authenticator: m.doors},
		web.Route{Pattern: "GET /mine", Auth: web.User, Handler: m.poll},
		web.Route{Pattern: "GET /poll", Auth: web.None, Handler: m.poll},
		web.Route{Pattern: "GET /now", Auth: web.None, Handler: func(*web.Request) (any, error) { return map[string]string{"a": "now"}, nil }},
	)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, listener) }()
	var once sync.Once
	stop = func() (err error) {
		once.Do(func() {
			end()
			err = <-ended
		})
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return s, listener.Addr().String(), stop
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 30 s: " + what)
		}
	}
}

func fetch(client *http.Client, url string) (text string, reused bool, err error) {
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "GET", url, nil)
	if err != nil {
		return "", false, err
	}
	response, err := client.Do(r)
	if err != nil {
		return "", reused, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return fmt.Sprint(response.StatusCode, " ", string(body)), reused, err
}

// Many wait without goroutines, get their answers, and go on over the same connections.
func TestParkedRequestsHoldNoGoroutines(t *testing.T) {
	const clients = 100
	m := &room{}
	_, address, _ := m.serve(t)
	transport := &http.Transport{MaxIdleConnsPerHost: clients}
	client := &http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	before := runtime.NumGoroutine()
	for round := range 2 {
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				text, reused, err := fetch(client, fmt.Sprintf("http://%s/poll?after=%d", address, 2*round))
				if err != nil || !strings.HasPrefix(text, `200 {"long":"xxx`) || !strings.Contains(text, fmt.Sprintf(`"said":%d`, 2*round+2)) ||
					reused != (round > 0) {
					t.Errorf("%.80s, used before: %v, %v", text, reused, err)
				}
			})
		}
		// The clients of the test have three goroutines each: one that waits, and two of the connection.
		until(t, "the requests are set aside", func() bool {
			m.mu.Lock()
			n := len(m.waiting)
			m.mu.Unlock()
			return n == clients && runtime.NumGoroutine() < before+3*clients+50
		})
		m.say() // nothing to them
		until(t, "all wait again", func() bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return len(m.waiting) == clients
		})
		m.say()
		wg.Wait()
	}
}

func TestParkedRequestEndsWithItsTime(t *testing.T) {
	m := &room{until: 2 * time.Second}
	_, address, _ := m.serve(t)
	text, _, err := fetch(http.DefaultClient, "http://"+address+"/poll")
	if err != nil || text != `200 {"over":true,"said":0}` {
		t.Errorf("%s, %v", text, err)
	}
}

func TestParkedRequestsEndWithTheServer(t *testing.T) {
	m := &room{}
	s, address, stop := m.serve(t)
	answers := make(chan string, 10)
	for range cap(answers) {
		go func() {
			text, _, err := fetch(http.DefaultClient, "http://"+address+"/poll")
			answers <- fmt.Sprint(text, err)
		}()
	}
	until(t, "the requests are set aside", func() bool { return s.Parked() == cap(answers) })
	if err := stop(); err != nil {
		t.Error(err)
	}
	for range cap(answers) {
		if text := <-answers; text != `200 {"over":true,"said":0}<nil>` {
			t.Error(text)
		}
	}
}

func TestParkedRequestOfAClientThatLeft(t *testing.T) {
	m := &room{}
	s, address, _ := m.serve(t)
	c := dial(t, address, "GET /poll HTTP/1.1\r\nHost: x\r\n\r\n")
	until(t, "the request is set aside", func() bool { return s.Parked() == 1 })
	resumed := m.count(&m.resumed)
	c.Close()
	until(t, "it is forgotten", func() bool { return s.Parked() == 0 })
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) != 0 || m.resumed != resumed {
		t.Errorf("%d wait, resumed %d times after it left", len(m.waiting), m.resumed-resumed)
	}
}

// A client may send the next request before it has the answer, and one at once or late.
func TestParkedConnectionGoesOn(t *testing.T) {
	m := &room{}
	s, address, _ := m.serve(t)
	c := dial(t, address, "GET /poll HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\nGET /now HTTP/1.1\r\nHost: x\r\n\r\n")
	in := bufio.NewReader(c)
	read := func() string {
		t.Helper()
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return fmt.Sprint(
			response.StatusCode, " ", response.Header.Get("Content-Encoding"), " ", min(len(body), 30), " ",
			response.Header.Get("Access-Control-Allow-Origin"),
		)
	}
	until(t, "the request is set aside", func() bool { return s.Parked() == 1 })
	fmt.Fprintf(c, "GET /now HTTP/1.1\r\nHost: x\r\n\r\nGET /n")
	m.say()
	m.say()
	if got := read(); got != "200 gzip 30 *" {
		t.Error(got)
	}
	for range 2 {
		if got := read(); got != "200  11 *" {
			t.Error(got)
		}
	}
	fmt.Fprintf(c, "ow HTTP/1.1\r\nHost: x\r\n\r\n")
	if got := read(); got != "200  11 *" {
		t.Error(got)
	}
	fmt.Fprintf(c, "GET /poll?after=2&fails=yes HTTP/1.1\r\nHost: x\r\n\r\n")
	until(t, "the request is set aside", func() bool { return s.Parked() == 1 })
	m.say()
	if got := read(); !strings.HasPrefix(got, "500 ") {
		t.Error(got)
	}
}

// What can not be set aside waits as it is: HTTP/1.0 and HTTP/2.
func TestPollsThatStay(t *testing.T) {
	m := &room{}
	s, address, _ := m.serve(t)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	answers := make(chan string, 2)
	go func() {
		text, _, err := fetch(h2, "http://"+address+"/poll")
		answers <- fmt.Sprintf("%.12s %v", text, err)
	}()
	old := dial(t, address, "GET /poll HTTP/1.0\r\n\r\n")
	go func() {
		response, err := http.ReadResponse(bufio.NewReader(old), nil)
		if err != nil {
			answers <- err.Error()
			return
		}
		body, err := io.ReadAll(response.Body)
		answers <- fmt.Sprintf("%d %.8s %v", response.StatusCode, body, err)
	}()
	until(t, "both wait", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.waiting) == 2
	})
	time.Sleep(1500 * time.Millisecond) // longer than until a request is set aside
	if n := s.Parked(); n != 0 {
		t.Errorf("%d are set aside", n)
	}
	m.say()
	m.say()
	for range 2 {
		if got := <-answers; got != `200 {"long": <nil>` {
			t.Error(got)
		}
	}
}

// Who may not ask any more gets nothing of what came meanwhile.
func TestParkedRequestOfALockedUser(t *testing.T) {
	m := &room{}
	s, address, _ := m.serve(t)
	answer := make(chan string, 1)
	go func() {
		text, _, err := fetch(http.DefaultClient, "http://"+address+"/mine?access_token=secret")
		answer <- fmt.Sprint(text, err)
	}()
	until(t, "the request is set aside", func() bool { return s.Parked() == 1 })
	m.doors.locked.Store(true)
	m.say()
	m.say()
	if got := <-answer; !strings.HasPrefix(got, "401 ") || !strings.Contains(got, "M_USER_LOCKED") {
		t.Error(got)
	}
}

// A wake without news is enough to end the wait of a user who is locked, whether the request is set aside or not.
func TestAWakeEndsTheRequestOfALockedUser(t *testing.T) {
	for _, aside := range []bool{false, true} {
		m := &room{}
		s, address, _ := m.serve(t)
		answer := make(chan string, 1)
		began := time.Now()
		go func() {
			text, _, err := fetch(http.DefaultClient, "http://"+address+"/mine?access_token=secret")
			answer <- fmt.Sprint(text, err)
		}()
		if aside {
			until(t, "the request is set aside", func() bool { return s.Parked() == 1 })
		} else {
			until(t, "the request waits", func() bool { return m.count(&m.turns) == 1 })
		}
		m.doors.locked.Store(true)
		m.say() // which is nothing to it
		if got := <-answer; !strings.HasPrefix(got, "401 ") || !strings.Contains(got, "M_USER_LOCKED") || time.Since(began) > 30*time.Second {
			t.Errorf("aside %v: %s after %v", aside, got, time.Since(began))
		}
	}
}

// running gives the address at which a server serves until the test ends.
func running(t *testing.T, s *web.Server) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, listener) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// A waiting request may be answered in pieces, for which it is asked again who it is from.
func TestParkedAnswersInPieces(t *testing.T) {
	long := strings.Repeat("x", 2<<20)
	s := newServer(
		t,
		web.Options{Authenticator: &doors{}},
		web.Route{Pattern: "GET /large", Auth: web.User, Handler: func(*web.Request) (any, error) {
			answer := func(context.Context, bool) (any, error) {
				return &web.Pieces{Write: func(w io.Writer) error {
					_, err := io.WriteString(w, long)
					return err
				}}, nil
			}
			return &web.Park{Until: time.Now().Add(200 * time.Millisecond), Wait: func(func()) func() { return func() {} }, Resume: answer}, nil
		}},
	)
	address := running(t, s)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for n := range 3 { // all over one connection, which was set aside with the first
		text, reused, err := fetch(&http.Client{Transport: transport}, "http://"+address+"/large?access_token=secret")
		if err != nil || text != "200 "+long || reused != (n > 0) {
			t.Errorf("%.200s, %d bytes, reused %v, %v", text, len(text), reused, err)
		}
	}
}

// An answer without a body comes too: to the request that was set aside first, and to those behind it.
func TestParkedAnswersWithoutABody(t *testing.T) {
	s := newServer(t, web.Options{}, web.Route{Pattern: "GET /empty", Auth: web.None, Handler: func(r *web.Request) (any, error) {
		wait, err := r.Int("ms", 0, 1000)
		empty := func(context.Context, bool) (any, error) { return &web.Raw{Status: http.StatusNoContent}, nil }
		if r.QueryParam("first") != "" {
			empty = func(context.Context, bool) (any, error) { return map[string]string{}, nil }
		}
		until := time.Now().Add(time.Duration(wait) * time.Millisecond)
		return &web.Park{Until: until, Wait: func(func()) func() { return func() {} }, Resume: empty}, err
	}})
	address := running(t, s)
	for _, before := range []string{"", "GET /empty?first=yes&ms=400 HTTP/1.1\r\nHost: x\r\n\r\n"} {
		in := bufio.NewReader(dial(t, address, before+"GET /empty?ms=400 HTTP/1.1\r\nHost: x\r\n\r\n"))
		statuses := []int{200, 204}
		if before == "" {
			statuses = []int{204}
		}
		for _, status := range statuses {
			response, err := http.ReadResponse(in, nil)
			if err != nil || response.StatusCode != status {
				t.Fatalf("expected %d, found %v %v", status, response, err)
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
		}
	}
}

// A client that closes one direction is gone: it gets no answer, least of all an empty one.
func TestAClientThatClosesOneDirection(t *testing.T) {
	m := &room{}
	_, address, _ := m.serve(t)
	c := dial(t, address, "GET /poll HTTP/1.1\r\nHost: x\r\n\r\n")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// However a client cuts its requests, and however early it sends them, each has its answer, in order.
func TestPollsInPieces(t *testing.T) {
	m := &room{until: 1200 * time.Millisecond}
	_, address, _ := m.serve(t)
	seed := rand.Uint64()
	var all sync.WaitGroup
	for i := range 24 {
		c := dial(t, address, "")
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		var text, expected strings.Builder
		for range 6 {
			end := "\r\n"
			if random.IntN(6) == 0 {
				end = "\n" // net/http takes it
			}
			what := "poll"
			if random.IntN(3) == 0 {
				what = "now"
			}
			fmt.Fprintf(&text, "GET /%s HTTP/1.1%sHost: x%s%s", what, end, end, end)
			fmt.Fprintf(&expected, "%v ", what == "poll")
		}
		all.Add(2)
		go func() {
			defer all.Done()
			for rest := text.String(); rest != ""; {
				n := 1 + random.IntN(len(rest))
				if _, err := io.WriteString(c, rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
				time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
			}
		}()
		go func() {
			defer all.Done()
			var found strings.Builder
			for in := bufio.NewReader(c); found.Len() < expected.Len(); {
				response, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Errorf("seed %d, connection %d, behind %s: %v", seed, i, found.String(), err)
					return
				}
				body, _ := io.ReadAll(response.Body)
				fmt.Fprintf(&found, "%v ", bytes.Contains(body, []byte(`"over"`)))
			}
			if found.String() != expected.String() {
				t.Errorf("seed %d, connection %d: expected %s, found %s", seed, i, expected.String(), found.String())
			}
		}()
	}
	all.Wait()
}
