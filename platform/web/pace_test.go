package web_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"lyceum/platform/conf"
	"lyceum/platform/web"
)

// listen serves on a real socket and returns its address.
func listen(t *testing.T, o web.Options, routes ...web.Route) string {
	t.Helper()
	s := newServer(t, o, routes...)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, listener) }()
	t.Cleanup(func() { stop(); <-ended })
	return listener.Addr().String()
}

// dial opens a connection and sends a request over it.
func dial(t *testing.T, address, request string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return c
}

const bigAnswer = 24 << 20 // more than the buffers of both kernels

// big answers with much; what it does not say in the head it makes anew for each request, as handlers do.
var big = []web.Route{
	{Pattern: "GET /big", Auth: web.Optional, Handler: func(*web.Request) (any, error) {
		return json.RawMessage(bytes.Repeat([]byte("a"), bigAnswer)), nil
	}},
	{Pattern: "GET /stream", Auth: web.None, Handler: func(*web.Request) (any, error) {
		return &web.Stream{Write: func(w io.Writer) error {
			piece := bytes.Repeat([]byte("a"), paceSize)
			for range bigAnswer / paceSize {
				if _, err := w.Write(piece); err != nil {
					return err
				}
			}
			return nil
		}}, nil
	}},
	{Pattern: "GET /small", Auth: web.None, Handler: ok},
	{Pattern: "POST /body", Auth: web.None, MaxBody: 8 << 20, Handler: func(r *web.Request) (any, error) {
		b, err := r.Raw()
		return map[string]int{"n": len(b)}, err
	}},
}

const paceSize = 64 << 10

// TestReadersThatStandStillAreCut: one that reads steadily gets all, though it takes much longer than the deadline.
func TestReadersThatStandStillAreCut(t *testing.T) {
	const patience = 1500 * time.Millisecond // a machine that is busy for a second cuts nobody
	address := listen(t, web.Options{Config: web.Config{SendTimeout: conf.Duration(patience), MaxInFlight: 1 << 30}}, big...)
	for _, path := range []string{"/big", "/stream"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			request := "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
			still, steady := dial(t, address, request), dial(t, address, request)
			began := time.Now()
			n, buffer := 0, make([]byte, 1<<20)
			for {
				k, err := io.ReadFull(steady, buffer)
				if n += k; err != nil {
					break
				}
				time.Sleep(patience / 8)
			}
			if took := time.Since(began); n < bigAnswer || took < patience {
				t.Errorf("the steady reader got %d bytes of %d in %s", n, bigAnswer, took)
			}
			rest, _ := io.ReadAll(still) // ends by a reset
			if len(rest) == 0 || len(rest) >= bigAnswer {
				t.Errorf("the reader that stood still got %d bytes of %d", len(rest), bigAnswer)
			}
		})
	}
}

// TestOneReaderHoldsItsShareOnly: an eighth of what may be held, while others are served.
func TestOneReaderHoldsItsShareOnly(t *testing.T) {
	address := listen(t, web.Options{Config: web.Config{MaxInFlight: 8 * (bigAnswer + 8<<20)}}, big...)
	status := func(token string) string {
		t.Helper()
		c := dial(t, address, "GET /big HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+token+"\r\n\r\n")
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line)
	}
	for i, c := range []struct{ token, want string }{
		{"alice", "200 OK"}, {"alice", "429 Too Many Requests"}, {"root", "200 OK"}, {"alice", "429 Too Many Requests"},
	} {
		if got := status(c.token); got != "HTTP/1.1 "+c.want {
			t.Errorf("step %d: %s got %s, expected %s", i, c.token, got, c.want)
		}
	}
}

// TestAllReadersTogetherAreBounded: with many users, too.
func TestAllReadersTogetherAreBounded(t *testing.T) {
	users := tokens{}
	for i := range 12 {
		users[fmt.Sprint("u", i)] = &web.Identity{UserID: fmt.Sprintf("@u%d:x", i)}
	}
	address := listen(
		t,
		web.Options{Authenticator: users, Config: web.Config{MaxInFlight: 8 * bigAnswer, SendTimeout: conf.Duration(30 * time.Second)}},
		big...)
	full := 0
	var open []net.Conn
	for token := range users {
		c := dial(t, address, "GET /big HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+token+"\r\n\r\n")
		line, _ := bufio.NewReader(c).ReadString('\n')
		if strings.Contains(line, " 429 ") {
			t.Errorf("%s holds nothing else and was told that he holds too much", token)
		}
		if strings.Contains(line, " 503 ") {
			full++
		}
		open = append(open, c)
	}
	if full == 0 {
		t.Error("12 answers of an eighth each were taken")
	}
	// More than half is held, so whoever stands still is cut soon, and there is room again.
	deadline := time.Now().Add(10 * time.Second)
	for {
		c := dial(t, address, "GET /big HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer u0\r\n\r\n")
		if line, _ := bufio.NewReader(c).ReadString('\n'); strings.Contains(line, " 200 ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("readers that stand still hold the memory")
		}
		time.Sleep(200 * time.Millisecond)
	}
	for _, c := range open {
		_ = c.Close()
	}
}

// TestBodiesMoveTheirDeadline: a body may take longer than the deadline, but may not stand still.
func TestBodiesMoveTheirDeadline(t *testing.T) {
	address := listen(t, web.Options{Config: web.Config{BodyTimeout: conf.Duration(500 * time.Millisecond)}}, big...)
	const size = 6 * paceSize
	send := func(pieces int) string {
		c := dial(t, address, fmt.Sprintf("POST /body HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", size))
		for range pieces {
			if _, err := c.Write(make([]byte, paceSize)); err != nil {
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		answer, _ := io.ReadAll(c)
		return string(answer)
	}
	if answer := send(6); !strings.Contains(answer, fmt.Sprintf(`{"n":%d}`, size)) {
		t.Errorf("a steady body: %q", answer)
	}
	began := time.Now()
	if answer := send(3); !strings.HasPrefix(answer, "HTTP/1.1 400") || time.Since(began) > 5*time.Second {
		t.Errorf("a body that stands still: %q after %s", answer, time.Since(began))
	}
}

// TestABodyThatGaveWayMayComeAgain: whose time was shortened for others hears that, also when their memory is free again by then.
func TestABodyThatGaveWayMayComeAgain(t *testing.T) {
	t.Parallel()
	users := tokens{}
	for i := range 5 {
		users[fmt.Sprint("u", i)] = &web.Identity{UserID: fmt.Sprintf("@u%d:x", i)}
	}
	address := listen(t, web.Options{Authenticator: users, Config: web.Config{
		MaxInFlight: 8 * bigAnswer, BodyTimeout: conf.Duration(20 * time.Second), SendTimeout: conf.Duration(20 * time.Second),
	}}, big...)
	body := dial(t, address, fmt.Sprintf("POST /body HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", 8*paceSize))
	if _, err := body.Write(make([]byte, 4*paceSize)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // it is read as far
	for token := range users {
		reader := dial(t, address, "GET /big HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+token+"\r\n\r\n")
		if _, err := reader.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		time.AfterFunc(time.Second, func() { _ = reader.Close() })
	}
	answer, _ := io.ReadAll(body)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 503") || !strings.Contains(string(answer), "retry_after_ms") {
		t.Errorf("%.300q", answer)
	}
}

// TestADeadlineIsOfOneAnswer: it does not end a connection that is used again later.
func TestADeadlineIsOfOneAnswer(t *testing.T) {
	address := listen(t, web.Options{Config: web.Config{SendTimeout: conf.Duration(150 * time.Millisecond)}}, big...)
	c := dial(t, address, "")
	in := bufio.NewReader(c)
	for _, request := range []string{
		"GET /small HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /missing HTTP/1.1\r\nHost: x\r\n\r\n",
		"OPTIONS /small HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
	} {
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(request, "Expect") {
			if line, err := in.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
				t.Fatalf("%q %v", line, err)
			}
			_, _ = in.ReadString('\n')
			if _, err := io.WriteString(c, "{}"); err != nil {
				t.Fatal(err)
			}
		}
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%q: %v", request, err)
		}
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		time.Sleep(300 * time.Millisecond)
	}
}

// TestABodyThatNobodyReadsIsNotWaitedFor: net/http would read it before it answers.
func TestABodyThatNobodyReadsIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	address := listen(t, web.Options{}, big...)
	began := time.Now()
	c := dial(t, address, "GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{")
	answer, err := io.ReadAll(c)
	if took := time.Since(began); !strings.HasPrefix(string(answer), "HTTP/1.1 200") || took > 12*time.Second {
		t.Errorf("%q %v after %s", answer, err, took)
	}
}

// TestAUserWithNothingUnderWayIsServed while others hold all there is and read steadily, so that their time never ends.
func TestAUserWithNothingUnderWayIsServed(t *testing.T) {
	const most = 8 * bigAnswer
	users := tokens{"innocent": &web.Identity{UserID: "@innocent:x"}}
	for i := range 4 {
		users[fmt.Sprint("u", i)] = &web.Identity{UserID: fmt.Sprintf("@u%d:x", i)}
	}
	routes := append([]web.Route{{Pattern: "GET /huge", Auth: web.Optional, Handler: func(*web.Request) (any, error) {
		return json.RawMessage(bytes.Repeat([]byte("a"), most/4)), nil
	}}}, big...)
	address := listen(t, web.Options{Authenticator: users, Config: web.Config{MaxInFlight: most}}, routes...)
	ask := func(path, token string) (net.Conn, string) {
		c := dial(t, address, "GET "+path+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+token+"\r\n\r\n")
		line := make([]byte, len("HTTP/1.1 200"))
		if _, err := io.ReadFull(c, line); err != nil {
			t.Fatal(err)
		}
		return c, string(line[len("HTTP/1.1 "):])
	}
	ended := make(chan int, 4)
	for i := range 4 {
		c, status := ask("/huge", fmt.Sprint("u", i))
		if status != "200" {
			t.Fatalf("user %d got %s", i, status)
		}
		go func() {
			n, buffer := 0, make([]byte, paceSize)
			for {
				k, err := io.ReadFull(c, buffer)
				if n += k; err != nil {
					ended <- n
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
	if _, status := ask("/big", "u0"); status != "429" {
		t.Errorf("one who holds a quarter got %s", status)
	}
	began := time.Now()
	c, status := ask("/big", "innocent")
	if status != "200" {
		t.Fatalf("one who holds nothing got %s", status)
	}
	if n, err := io.CopyN(io.Discard, c, bigAnswer); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("he got %d bytes in %s: %v", n, time.Since(began), err)
	}
	select {
	case n := <-ended:
		if n >= most/4 {
			t.Errorf("the one that gave way got all %d bytes", n)
		}
	case <-time.After(5 * time.Second):
		t.Error("nobody gave way")
	}
	select {
	case n := <-ended:
		t.Errorf("a second gave way, after %d bytes", n)
	case <-time.After(200 * time.Millisecond):
	}
}

// TestABodyGivesWay: its sender is told so, while another is served.
func TestABodyGivesWay(t *testing.T) {
	const most = 16 << 20
	users := tokens{"innocent": &web.Identity{UserID: "@innocent:x"}, "sender": &web.Identity{UserID: "@sender:x"}}
	body := web.Route{Pattern: "POST /large", Auth: web.User, MaxBody: most, Handler: func(r *web.Request) (any, error) {
		_, err := r.Raw()
		return nil, err
	}}
	some := web.Route{Pattern: "GET /some", Auth: web.User, Handler: func(*web.Request) (any, error) {
		return json.RawMessage(bytes.Repeat([]byte("a"), most/2)), nil
	}}
	address := listen(t, web.Options{Authenticator: users, Config: web.Config{MaxInFlight: most}}, body, some)
	sender := dial(
		t,
		address,
		fmt.Sprintf("POST /large HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sender\r\nContent-Length: %d\r\n\r\n", most),
	)
	if _, err := sender.Write(make([]byte, most/4*3)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // until it is read
	c := dial(t, address, "GET /some HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer innocent\r\n\r\n")
	if line, err := bufio.NewReader(c).ReadString('\n'); !strings.Contains(line, " 200 ") {
		t.Errorf("one who holds nothing got %q %v", line, err)
	}
	response, err := http.ReadResponse(bufio.NewReader(sender), nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(response.Body)
	if response.StatusCode != 503 || response.Header.Get("Retry-After") == "" || !strings.Contains(string(answer), "retry_after_ms") {
		t.Errorf("the sender got %d %v %s", response.StatusCode, response.Header, answer)
	}
}
