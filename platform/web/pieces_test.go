package web_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lyceum/platform/web"
)

// pieces answers with so many parts of 1,000 bytes, and an error after them.
func pieces(parts int, err error) web.Handler {
	return func(*web.Request) (any, error) {
		return &web.Pieces{Write: func(w io.Writer) error {
			for range parts {
				if _, err := io.WriteString(w, strings.Repeat("0123456789", 100)); err != nil {
					return err
				}
			}
			return err
		}}, nil
	}
}

func TestAnswersInPieces(t *testing.T) {
	gone := &web.Error{Status: 404, Code: "M_NOT_FOUND", Message: "no"}
	s := newServer(t, web.Options{Config: web.Config{Compress: true}},
		web.Route{Pattern: "GET /few", Auth: web.None, Handler: pieces(100, nil)},
		web.Route{Pattern: "GET /many", Auth: web.None, Handler: pieces(5000, nil)},
		web.Route{Pattern: "GET /none", Auth: web.None, Handler: pieces(0, nil)},
		web.Route{Pattern: "GET /refused", Auth: web.None, Handler: pieces(100, gone)},
		web.Route{Pattern: "GET /cut", Auth: web.None, Handler: pieces(5000, gone)},
	)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	for _, c := range []struct {
		path, encoding string
		size           int
		known          bool // the length is said
	}{
		{"/few", "", 100_000, true},
		{"/few", "gzip", 100_000, true},
		{"/many", "", 5_000_000, false},
		{"/many", "gzip", 5_000_000, false},
		{"/none", "", 0, true},
	} {
		r, _ := http.NewRequest("GET", server.URL+c.path, nil)
		r.Header.Set("Accept-Encoding", "identity")
		if c.encoding != "" {
			r.Header.Set("Accept-Encoding", c.encoding)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var body io.Reader = response.Body
		if c.encoding != "" {
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		}
		text, err := io.ReadAll(body)
		response.Body.Close()
		if err != nil || !bytes.Equal(text, bytes.Repeat([]byte("0123456789"), c.size/10)) {
			t.Errorf("%+v: %d bytes, %v", c, len(text), err)
		}
		if response.StatusCode != 200 || response.Header.Get("Content-Encoding") != c.encoding || response.ContentLength >= 0 != c.known ||
			c.size > 0 && response.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%+v: %d %v", c, response.StatusCode, response.Header)
		}
	}
	if w := call(s.Handler(), "GET /refused", ""); w.Code != 404 || errcode(t, w) != "M_NOT_FOUND" {
		t.Errorf("an error before anything was sent: %d %s", w.Code, w.Body)
	}
	response, err := http.Get(server.URL + "/cut")
	if err == nil {
		_, err = io.ReadAll(response.Body)
		response.Body.Close()
	}
	if err == nil {
		t.Error("a client took a broken answer for whole")
	}
}

// TestCutAnswersDoNotLookWhole, nor where only the end of the connection ends an answer.
func TestCutAnswersDoNotLookWhole(t *testing.T) {
	address := listen(t, web.Options{}, web.Route{Pattern: "GET /cut", Auth: web.None, Handler: func(*web.Request) (any, error) {
		return &web.Pieces{Write: func(w io.Writer) error {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
			return errors.New("the rest can not be read")
		}}, nil
	}})
	for _, version := range []string{"1.0", "1.1"} {
		c := dial(t, address, "GET /cut HTTP/"+version+"\r\nHost: x\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, response.Body); err == nil {
			t.Errorf("HTTP/%s: %d bytes were taken for the whole answer", version, n)
		}
		_ = response.Body.Close()
	}
}

// TestAnswersInPiecesAreCharged: readers that do not read hold a bounded number of them.
func TestAnswersInPiecesAreCharged(t *testing.T) {
	endless := errors.New("the test is over")
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	address := listen(
		t,
		web.Options{Config: web.Config{MaxInFlight: 64 << 20}},
		web.Route{Pattern: "GET /endless", Auth: web.Optional, Handler: func(*web.Request) (any, error) {
			return &web.Pieces{Write: func(w io.Writer) error {
				for {
					select {
					case <-over:
						return endless
					default:
					}
					if _, err := w.Write(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
						return err
					}
				}
			}}, nil
		}},
	)
	found := map[string]int{}
	for range 6 {
		c := dial(t, address, "GET /endless HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n\r\n")
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		found[strings.TrimSpace(line)]++
	}
	if want := "map[HTTP/1.1 200 OK:4 HTTP/1.1 429 Too Many Requests:2]"; fmt.Sprint(found) != want {
		t.Errorf("found %v, expected %s", found, want)
	}
}

// TestOneAnswerMayBeLargerThanAShare: else it could never be had.
func TestOneAnswerMayBeLargerThanAShare(t *testing.T) {
	address := listen(t, web.Options{Config: web.Config{MaxInFlight: 4 * bigAnswer}}, big...)
	for i, want := range []string{"200 OK", "429 Too Many Requests"} {
		c := dial(t, address, "GET /big HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n\r\n")
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || strings.TrimSpace(line) != "HTTP/1.1 "+want {
			t.Errorf("answer %d: %s, expected %s, %v", i, line, want, err)
		}
	}
}

// TestAnAnswerThatIsMadeIsCharged, so that one for which there is no room is not made to its end; one that will be packed
// holds what it has then.
func TestAnAnswerThatIsMadeIsCharged(t *testing.T) {
	var made int
	route := web.Route{Pattern: "GET /made", Auth: web.Optional, Handler: func(r *web.Request) (any, error) {
		var b []byte
		for made = 0; len(b) < bigAnswer; made++ {
			b = append(b, bytes.Repeat([]byte("a"), 1<<20)...)
			if err := r.ChargeAnswer(len(b)); err != nil {
				return nil, err
			}
		}
		return r.Pack(b), nil
	}}
	address := listen(t, web.Options{Config: web.Config{MaxInFlight: 4 * bigAnswer, Compress: true}}, route)
	ask := func(header string) string {
		c := dial(t, address, "GET /made HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\n"+header+"\r\n")
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line)
	}
	for i, c := range []struct {
		header, want string
		made         int
	}{
		{"Accept-Encoding: gzip\r\n", "HTTP/1.1 200 OK", bigAnswer >> 20},
		{"Accept-Encoding: gzip\r\n", "HTTP/1.1 200 OK", bigAnswer >> 20},
		{"", "HTTP/1.1 200 OK", bigAnswer >> 20},
		{"Accept-Encoding: gzip\r\n", "HTTP/1.1 200 OK", bigAnswer >> 20},
		{"", "HTTP/1.1 429 Too Many Requests", 0},
	} {
		if got := ask(c.header); got != c.want || made != c.made {
			t.Errorf("step %d: %s after %d MiB, expected %s after %d", i, got, made, c.want, c.made)
		}
	}
}

// TestARefusalArrivesBeforeTheEnd of a connection that its client wanted to end, though the body was not read.
func TestARefusalArrivesBeforeTheEnd(t *testing.T) {
	address := listen(t, web.Options{}, web.Route{Pattern: "POST /refuse", Auth: web.None, Handler: func(*web.Request) (any, error) {
		return nil, &web.Error{Status: 429, Code: "M_LIMIT_EXCEEDED", Message: "no"}
	}})
	c := dial(
		t,
		address,
		"POST /refuse HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"+strings.Repeat("x", 100_000),
	)
	time.Sleep(time.Second) // net/http waits half a second before it closes what was not read
	if answer, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 429 ") {
		t.Errorf("%.200s, %v", answer, err)
	}
}
