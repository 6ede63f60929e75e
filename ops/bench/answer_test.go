package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestHeadsOfAnswers(t *testing.T) {
	long := strings.Repeat("x", maxHead)
	for _, test := range []struct {
		name, text string
		want       head
		bad        bool
	}{
		{"plain", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", head{status: 200, length: 2}, false},
		{"without a reason", "HTTP/1.1 404\r\ncontent-length:0\r\n\r\n", head{status: 404}, false},
		{"lines without CR", "HTTP/1.1 200 OK\nContent-Length: 7\n\n", head{status: 200, length: 7}, false},
		{"no length", "HTTP/1.1 200 OK\r\nDate: now\r\n\r\n", head{status: 200, length: -1}, false},
		{"no body", "HTTP/1.1 204 No Content\r\n\r\n", head{status: 204}, false},
		{"chunked", "HTTP/1.1 200 OK\r\nTRANSFER-Encoding: chunked\r\n\r\n", head{status: 200, length: -1, encoded: true}, false},
		{"close", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: a, Close\r\n\r\n", head{status: 200, length: 1, close: true}, false},
		{"not close", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: closed\r\n\r\n", head{status: 200, length: 1}, false},
		{"old", "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", head{status: 200, length: 1, close: true}, false},
		{"the same length twice", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", head{status: 200, length: 1}, false},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", head{}, true},
		{"a sign", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", head{}, true},
		{"the longest body", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", maxBody), head{status: 200, length: maxBody}, false},
		{"a longer body", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", maxBody+1), head{}, true},
		{"a length past all integers", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n", head{}, true},
		{"not HTTP", "SSH-2.0-OpenSSH_9\r\n", head{}, true},
		{"another version", "HTTP/2.0 200 OK\r\n\r\n", head{}, true},
		{"a long status", "HTTP/1.1 2000 OK\r\n\r\n", head{}, true},
		{"no colon", "HTTP/1.1 200 OK\r\nDate\r\n\r\n", head{}, true},
		{"a folded field", "HTTP/1.1 200 OK\r\nA: b\r\n Content-Length: 4\r\n\r\n", head{}, true},
		{"no end", "HTTP/1.1 200 OK\r\nA: " + long, head{}, true},
		{"too long", "HTTP/1.1 200 OK\r\nA: " + long + "\r\n\r\n", head{}, true},
	} {
		h, err := parseHead([]byte(test.text))
		if test.want.status != 0 {
			test.want.size = strings.Index(test.text, "\n\r\n") + 3
			if test.want.size == 2 {
				test.want.size = strings.Index(test.text, "\n\n") + 2
			}
		}
		if (err != nil) != test.bad || h != test.want {
			t.Errorf("%s: %+v, %v, expected %+v", test.name, h, err, test.want)
		}
		for n := range min(len(test.text), h.size) { // a beginning is no head and no error
			if h, err := parseHead([]byte(test.text[:n])); err != nil || h.size != 0 {
				t.Errorf("%s: %d bytes of it: %+v, %v", test.name, n, h, err)
			}
		}
	}
}

// FuzzHead compares what parseHead takes with what package http makes of it.
func FuzzHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"))
	f.Add([]byte("HTTP/1.0 304 Not Modified\nConnection: keep-alive, close\n\n"))
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 \r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHead(b)
		if err != nil {
			if h != (head{}) {
				t.Fatalf("%+v beside %v", h, err)
			}
			return
		}
		if h.size == 0 {
			if len(b) >= maxHead {
				t.Fatal("a head without an end is waited for")
			}
			return
		}
		if h.size > len(b) || h.size > maxHead || h.length < -1 || h.length > maxBody || h.status < 100 || h.status > 999 {
			t.Fatalf("%+v of %d bytes", h, len(b))
		}
		if again, err := parseHead(b[:h.size]); err != nil || again != h {
			t.Fatalf("%+v, %v without what follows, %+v with it", again, err, h)
		}
		r := bufio.NewReader(bytes.NewReader(b))
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return // it is stricter about names and values that do not count here
		}
		if h.status != res.StatusCode {
			t.Fatalf("status %d, package http reads %d", h.status, res.StatusCode)
		}
		if h.encoded {
			return // package http reads these
		}
		if int64(h.length) != res.ContentLength {
			t.Fatalf("%+v, package http reads a length of %d", h, res.ContentLength)
		}
		if res.Close && !h.close && h.length >= 0 {
			t.Fatalf("%+v, package http closes the connection", h)
		}
	})
}

// Answers come in any pieces, and what follows one belongs to the next request or to nobody.
func TestAnswersInPieces(t *testing.T) {
	long := strings.Repeat("0123456789", 10_000)
	plain := func(s string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(s), s)
	}
	for _, test := range []struct {
		name, text, want, err string
		end, kept             bool
	}{
		{name: "short", text: plain("hello"), want: "hello", kept: true},
		{name: "empty", text: plain(""), want: "", kept: true},
		{name: "some kilobytes", text: plain(long[:9_000]), want: long[:9_000], kept: true},
		{name: "long", text: plain(long), want: long, kept: true},
		{name: "long head", text: "HTTP/1.1 200 OK\r\nA: " + long[:60_000] + "\r\nContent-Length: 5\r\n\r\nhello", want: "hello", kept: true},
		{name: "too long a head", text: "HTTP/1.1 200 OK\r\nA: " + long, err: "head"},
		{name: "early hints", text: "HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + plain("hello"), want: "hello", kept: true},
		{
			name: "chunked", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\n\r\n",
			want: "hello world", kept: true,
		},
		{name: "until the end", text: "HTTP/1.1 200 OK\r\n\r\n" + long, want: long, end: true},
		{name: "close", text: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", want: "hello"},
		{name: "two answers", text: plain("hello") + plain("again"), want: "hello"},
		{name: "two chunked answers", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + plain("again"), want: ""},
		{name: "refused", text: "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno\r\n", err: "status 403: no", kept: true},
		{name: "cut", text: plain(long)[:50_000], err: "unexpected EOF", end: true},
		{name: "cut in the head", text: "HTTP/1.1 200 OK\r\nContent-", err: "unexpected EOF", end: true},
		{name: "cut in a chunk", text: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", err: "unexpected EOF", end: true},
		{name: "no answer", err: errNoAnswer.Error(), end: true},
	} {
		for _, piece := range []int{1, 700, 1 << 20} {
			if piece == 1 && len(test.text) > 1000 {
				continue
			}
			c, errs := raw(t, func(n net.Conn, r *bufio.Reader) error {
				if _, err := http.ReadRequest(r); err != nil {
					return err
				}
				for text := test.text; text != ""; text = text[min(piece, len(text)):] {
					if _, err := io.WriteString(n, text[:min(piece, len(text))]); err != nil {
						return nil // the client has seen enough
					}
					if piece < 100 {
						time.Sleep(10 * time.Microsecond)
					}
				}
				if test.end {
					return nil
				}
				_, err := r.ReadByte() // until the client goes
				if err == io.EOF || err != nil && !test.kept {
					err = nil
				}
				return err
			})
			out, err := c.do(t.Context(), "PUT", "/", []byte("{}"), time.Minute)
			if test.err == "" && (err != nil || string(out) != test.want) ||
				test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("%s in pieces of %d: %.100q, %v", test.name, piece, out, err)
			}
			// Whether what follows the answer has come by now depends on the pieces.
			if kept := c.net != nil; kept != test.kept && (piece > 1000 || test.kept) {
				t.Errorf("%s in pieces of %d: the connection is kept: %t", test.name, piece, kept)
			}
			c.close()
			if err := <-errs; err != nil {
				t.Errorf("%s in pieces of %d: the server: %v", test.name, piece, err)
			}
		}
	}
}

// raw gives a client of a server that handles its one connection with fn.
func raw(t *testing.T, fn func(net.Conn, *bufio.Reader) error) (*conn, <-chan error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 1)
	go func() {
		defer l.Close()
		n, err := l.Accept()
		if err == nil {
			err = fn(n, bufio.NewReader(n))
			n.Close()
		}
		errs <- err
	}()
	servers, err := parseServers("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return &conn{servers: servers}, errs
}

// The same over TLS and without it: requests longer than the buffers of the sockets, answers of all lengths.
func TestLongRequestsComeBack(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if r.URL.Path == "/measured" {
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		}
		w.Write(b)
	})
	plain, secret := httptest.NewServer(echo), httptest.NewTLSServer(echo)
	defer plain.Close()
	defer secret.Close()
	for _, url := range []string{plain.URL, secret.URL} {
		servers, err := parseServers(url)
		if err != nil {
			t.Fatal(err)
		}
		servers.tls = secret.Client().Transport.(*http.Transport).TLSClientConfig
		c := &conn{servers: servers}
		for _, path := range []string{"/", "/measured"} {
			for _, n := range []int{1, 2000, 3000, 20_000, 16 << 20, 5} {
				sent := bytes.Repeat([]byte("0123456789"), (n+9)/10)[:n]
				out, err := c.do(t.Context(), "PUT", path, sent, time.Minute)
				if err != nil || !bytes.Equal(out, sent) {
					t.Fatalf("%s: %d bytes came back of %d, %v", url, len(out), n, err)
				}
			}
		}
		c.close()
	}
}

// The end of a context ends the request that waits, also when the connection had belonged to another.
func TestContextsEndWaiting(t *testing.T) {
	waits := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			waits <- struct{}{}
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	servers, err := parseServers(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{servers: servers}
	defer c.close()
	for range 3 {
		first, cancelFirst := context.WithCancel(t.Context())
		if _, err := c.do(first, "GET", "/", nil, time.Hour); err != nil {
			t.Fatal(err)
		}
		second, cancelSecond := context.WithCancel(t.Context())
		go func() {
			<-waits
			cancelFirst() // it does not count any more
			cancelSecond()
		}()
		if out, err := c.do(second, "GET", "/wait", nil, time.Hour); err == nil {
			t.Fatalf("answered %q", out)
		}
		third, cancelThird := context.WithCancel(t.Context())
		if _, err := c.do(third, "GET", "/", nil, time.Hour); err != nil {
			t.Fatal(err)
		}
		cancelThird() // while nothing is under way
		if _, err := c.do(third, "GET", "/", nil, time.Hour); err == nil {
			t.Fatal("an ended context is asked for")
		}
	}
	if _, err := c.do(t.Context(), "GET", "/", nil, time.Hour); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkAnswer is one client's turn: a request, an answer of usual length, and its messages taken out.
func BenchmarkAnswer(b *testing.B) {
	page := fmt.Sprintf(`{"next_batch":"s1_2_3_4","rooms":{"join":{"!room:example.org":{"timeline":{"events":[{`+
		`"content":{"body":"1-%d","msgtype":"m.text"},"event_id":"$abc",`+
		`"origin_server_ts":1,"sender":"@a:example.org","type":"m.room.message"}],"limited":false}}}}}`, time.Now().UnixNano())
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: "+
		"Mon, 02 Jan 2006 15:04:05 GMT\r\n\r\n%s", len(page), page)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		n, err := l.Accept()
		if err != nil {
			return
		}
		defer n.Close()
		for in := make([]byte, 4096); ; {
			if _, err := n.Read(in); err != nil {
				return
			}
			if _, err := n.Write(answer); err != nil {
				return
			}
		}
	}()
	servers, err := parseServers("http://" + l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	c := &conn{servers: servers, token: "token"}
	defer c.close()
	run := &ccuRun{CCU: CCU{Clients: 1, RoomSize: 1}, rooms: []string{"!room:example.org"}, meter: newMeter(), seen: make([]int64, 1)}
	path := []byte("/_matrix/client/v3/sync?timeout=30000&since=s1_2_3_4")
	b.ReportAllocs()
	for b.Loop() {
		run.seen[0] = 0
		out, err := c.ask(b.Context(), "GET", path, nil, time.Minute)
		if err != nil || run.read(out, 0) == "" {
			b.Fatal(err)
		}
	}
	if run.got.Load() == 0 {
		b.Fatal("no message was found")
	}
}
