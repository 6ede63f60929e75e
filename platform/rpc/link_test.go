package rpc_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lyceum/platform/rpc"
)

func handler(t testing.TB, h http.HandlerFunc) (client http.RoundTripper, url string, stop func()) {
	t.Helper()
	server, caller := node(t, secret), node(t, secret)
	server.Fallback(h)
	addr, stop := serve(t, server)
	return caller.Transport(), "https://" + addr, stop
}

func TestLargeBodiesBothWaysAtATime(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	client, url, stop := handler(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	sent := make([]byte, 5<<20)
	_, _ = rand.Read(sent)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			body := io.Reader(bytes.NewReader(sent))
			if i%2 == 0 {
				body = io.MultiReader(body) // of unknown length
			}
			r, _ := http.NewRequestWithContext(t.Context(), "POST", url, body)
			res, err := client.RoundTrip(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes came back, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	stop()
	(&http.Client{Transport: client}).CloseIdleConnections()
}

// An answer that nobody reads holds up its writer, and no other request.
func TestASlowReaderHoldsUpItselfOnly(t *testing.T) {
	wrote := make(chan int, 1000)
	client, url, _ := handler(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/quick" {
			return
		}
		part := make([]byte, 64<<10)
		for {
			n, err := w.Write(part)
			if err != nil {
				close(wrote)
				return
			}
			wrote <- n
		}
	})
	r, _ := http.NewRequestWithContext(t.Context(), "GET", url+"/endless", nil)
	slow, err := client.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for quiet := false; !quiet; {
		select {
		case n := <-wrote:
			total += n
		case <-time.After(200 * time.Millisecond):
			quiet = true
		}
	}
	if total > 1<<20 {
		t.Errorf("%d bytes were taken for a client that reads nothing", total)
	}
	r, _ = http.NewRequestWithContext(t.Context(), "GET", url+"/quick", nil)
	quick, err := client.RoundTrip(r)
	if err != nil || quick.StatusCode != 200 || quick.ContentLength != 0 {
		t.Fatalf("%+v %v", quick, err)
	}
	quick.Body.Close()
	if _, err := io.CopyN(io.Discard, slow.Body, 3<<20); err != nil {
		t.Error(err)
	}
	slow.Body.Close() // the writer learns of it
	for range wrote { //nolint:revive // until it is closed
	}
}

func TestHeadsAndStatus(t *testing.T) {
	client, url, _ := handler(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/none":
			w.WriteHeader(http.StatusNoContent)
		case "/short":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "short")
		case "/abort":
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			w.Header()["X-Many"] = []string{"one", "two", ""}
			w.Header().Set("X-Seen", fmt.Sprint(r.Method, r.Host, r.URL.RawQuery, r.Header["X-Sent"], r.ContentLength))
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, "text")
		}
	})
	get := func(method, path string) (*http.Response, string, error) {
		r, _ := http.NewRequestWithContext(t.Context(), method, url+path, nil)
		r.Host = "name.example"
		r.Header["X-Sent"] = []string{"a", "b"}
		res, err := client.RoundTrip(r)
		if err != nil {
			return nil, "", err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		return res, string(text), err
	}
	res, text, err := get("GET", "/x%2Fy?a=%20b")
	if err != nil || text != "text" || res.StatusCode != http.StatusTeapot || res.ContentLength != 4 ||
		res.Header.Get("Content-Length") != "4" ||
		len(res.Header["X-Many"]) != 3 || res.Header.Get("X-Seen") != "GETname.examplea=%20b[a b] 0" {
		t.Errorf("%+v %q %v", res, text, err)
	}
	if res, text, err = get("HEAD", "/"); err != nil || text != "" || res.ContentLength != 4 {
		t.Errorf("HEAD: %+v %q %v", res, text, err)
	}
	if res, text, err = get("GET", "/none"); err != nil || text != "" || res.StatusCode != 204 || res.Header["Content-Length"] != nil {
		t.Errorf("no content: %+v %q %v", res, text, err)
	}
	for _, path := range []string{"/short", "/abort"} {
		if _, text, err = get("GET", path); err == nil {
			t.Errorf("%s: half an answer was taken for whole: %q", path, text)
		}
	}
}

func TestABodyThatStallsEndsAtItsDeadline(t *testing.T) {
	result := make(chan error, 1)
	client, url, _ := handler(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := io.ReadAll(r.Body)
		result <- err
	})
	reader, writer := io.Pipe()
	defer writer.Close()
	r, _ := http.NewRequestWithContext(t.Context(), "POST", url, reader)
	res, err := client.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// A process of an older version answers in HTTP.
func TestAPeerThatSpeaksHTTPOnly(t *testing.T) {
	server, client := node(t, secret), node(t, secret)
	rpc.Handle(server, "echo", echo)
	old := httptest.NewUnstartedServer(server)
	old.EnableHTTP2 = true
	old.TLS = rpc.ServerTLS(server)
	old.StartTLS()
	defer old.Close()
	for range 3 {
		got, err := rpc.Call[string, string](t.Context(), client, old.Listener.Addr().String(), "echo", "hello")
		if err != nil || got != "hello" {
			t.Fatalf("%q %v", got, err)
		}
	}
}

// BenchmarkBody carries 1 MiB to another process and back from it, over frames and over the HTTP/2 of net/http.
func BenchmarkBody(b *testing.B) {
	file := make([]byte, 1<<20)
	_, _ = rand.Read(file)
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", fmt.Sprint(len(file)))
			_, _ = io.Copy(w, struct{ io.Reader }{bytes.NewReader(file)}) // as a file comes, in parts
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
	}
	frames, framesURL, _ := handler(b, h)
	server, caller := node(b, secret), node(b, secret)
	server.Fallback(http.HandlerFunc(h))
	old := httptest.NewUnstartedServer(server)
	old.EnableHTTP2 = true
	old.TLS = rpc.ServerTLS(server)
	old.StartTLS()
	defer old.Close()
	for _, over := range []struct {
		name   string
		client http.RoundTripper
		url    string
	}{{"frames", frames, framesURL}, {"http2", caller.Transport(), "https://" + old.Listener.Addr().String()}} {
		for _, method := range []string{"GET", "PUT"} {
			b.Run(over.name+"/"+method, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(file)))
				for b.Loop() {
					var body io.Reader
					if method == "PUT" {
						body = bytes.NewReader(file)
					}
					r, _ := http.NewRequestWithContext(b.Context(), method, over.url, body)
					res, err := over.client.RoundTrip(r)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := io.Copy(io.Discard, res.Body); err != nil {
						b.Fatal(err)
					}
					_ = res.Body.Close()
				}
			})
		}
	}
}

// While a server ends, calls that it did not look at go to the one that takes its place.
func TestNoCallIsLostWhenAServerIsReplaced(t *testing.T) {
	client := node(t, secret)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begin := func(l net.Listener) (stop func()) {
		server := node(t, secret)
		rpc.Handle(server, "echo", echo)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(ctx, l) }()
		return sync.OnceFunc(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	addr := l.Addr().String()
	stop := begin(l)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				_, err := rpc.Call[string, string](t.Context(), client, addr, "echo", strings.Repeat("x", 100))
				if err != nil && !errors.Is(err, rpc.ErrUnreachable) {
					t.Errorf("%v", err)
				}
			}
		})
	}
	for range 5 {
		time.Sleep(50 * time.Millisecond)
		stop()
		if l, err = net.Listen("tcp", addr); err != nil {
			t.Fatal(err)
		}
		stop = begin(l)
	}
	close(done)
	wg.Wait()
	stop()
}

func FuzzHeaders(f *testing.F) {
	f.Add(rpc.AppendHeaders(http.Header{"A": {"1", "2"}, "B": {""}}))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, ok := rpc.ReadHeaders(data)
		if !ok {
			return
		}
		if again, ok := rpc.ReadHeaders(rpc.AppendHeaders(h)); !ok || !maps.EqualFunc(h, again, slices.Equal) {
			t.Errorf("%v became %v", h, again)
		}
	})
}
