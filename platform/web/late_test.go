package web_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"lyceum/platform/web"
)

// slow is the Timeout of routes of these tests; slowWork is what their handlers have of it.
const (
	slow     = 600 * time.Millisecond
	slowWork = slow * 5 / 6
)

func hang(r *web.Request) (any, error) {
	<-r.Context().Done()
	return nil, fmt.Errorf("a statement: %w", r.Context().Err())
}

// timed sends a request and gives the status, the body and how long it took.
func timed(t *testing.T, address, target string, body io.Reader) (int, string, time.Duration) {
	t.Helper()
	method, path, _ := strings.Cut(target, " ")
	r, err := http.NewRequest(method, "http://"+address+path, body)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		text = append(text, "<cut>"...)
	}
	return response.StatusCode, string(text), time.Since(began)
}

// slowBody is a body that comes slowly.
type slowBody struct{ left int }

func (b *slowBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	b.left--
	time.Sleep(slow / 3)
	return copy(p, "x"), nil
}

// No request hangs because what its handler needs does not answer.
func TestARequestEndsInTime(t *testing.T) {
	log := &logBuffer{}
	address := listen(t, web.Options{Log: slog.New(slog.NewTextHandler(log, nil))},
		web.Route{Pattern: "GET /hang", Auth: web.None, Timeout: slow, Handler: hang},
		web.Route{Pattern: "POST /hang", Auth: web.None, Timeout: slow, EmptyBody: true, Handler: hang},
		web.Route{Pattern: "POST /read", Auth: web.None, Timeout: slow, Handler: func(r *web.Request) (any, error) {
			if _, err := r.Raw(); err != nil {
				return nil, err
			}
			return hang(r)
		}},
		web.Route{Pattern: "POST /upload", Auth: web.None, Timeout: slow, Upload: 1 << 20, Handler: func(r *web.Request) (any, error) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return nil, err
			}
			return nil, r.Context().Err()
		}},
		web.Route{Pattern: "GET /sure", Auth: web.None, Timeout: slow, Handler: func(r *web.Request) (any, error) {
			_, _ = hang(r)
			return nil, &web.Error{Status: 403, Code: "M_FORBIDDEN", Message: "no"}
		}},
		web.Route{Pattern: "GET /done", Auth: web.None, Timeout: slow, Handler: func(r *web.Request) (any, error) {
			_, _ = hang(r)
			return map[string]bool{"done": true}, nil
		}},
		web.Route{Pattern: "GET /waits", Auth: web.None, Timeout: slow, Handler: func(r *web.Request) (any, error) {
			r.Waits(slow)
			time.Sleep(slow)
			return nil, r.Context().Err()
		}},
		web.Route{Pattern: "GET /download", Auth: web.None, Timeout: slow, Handler: func(r *web.Request) (any, error) {
			return &web.Stream{Write: func(w io.Writer) error {
				for range 6 {
					if _, err := io.WriteString(w, "x"); err != nil {
						return err
					}
					time.Sleep(slow / 3)
				}
				return r.Context().Err()
			}}, nil
		}},
		web.Route{Pattern: "GET /half", Auth: web.None, Timeout: slow, Handler: func(r *web.Request) (any, error) {
			return &web.Stream{Write: func(w io.Writer) error {
				_, _ = io.WriteString(w, "x")
				w.(http.Flusher).Flush()
				_, err := hang(r)
				return err
			}}, nil
		}},
	)
	for _, c := range []struct {
		target string
		body   io.Reader
		status int
		has    string
		took   time.Duration
	}{
		{"GET /hang", nil, 504, `"retry_after_ms"`, slowWork}, // nothing was changed
		{"POST /hang", nil, 504, "may or may not have been done", slowWork},
		{"POST /read", &slowBody{6}, 504, "may or may not have been done", 2*slow + slowWork},
		{"POST /upload", &slowBody{6}, 200, "{}", 2 * slow},
		{"GET /sure", nil, 403, "M_FORBIDDEN", slowWork},
		{"GET /done", nil, 200, "done", slowWork},
		{"GET /waits", nil, 200, "{}", slow},
		{"GET /download", nil, 200, "xxxxxx", 2 * slow},
		{"GET /half", nil, 200, "x<cut>", slowWork},
	} {
		status, text, took := timed(t, address, c.target, c.body)
		if status != c.status || !strings.Contains(text, c.has) || took < c.took || took > c.took+2*time.Second {
			t.Errorf("%s: %d %s after %s", c.target, status, text, took)
		}
		if strings.HasPrefix(c.target, "POST") && strings.Contains(text, "retry_after_ms") {
			t.Errorf("%s: %s says that nothing was changed", c.target, text)
		}
	}
	if text := log.String(); !strings.Contains(text, "did not begin in time, ") || !strings.Contains(text, "a statement: context canceled") {
		t.Errorf("the log does not say what did not answer, and for how long: %s", log)
	}
}

// waiter hangs where a request comes before its handler.
type waiter struct{}

func (waiter) Authenticate(ctx context.Context, _ string) (*web.Identity, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestWhatComesBeforeAHandlerEndsInTime(t *testing.T) {
	route := web.Route{Pattern: "GET /x", Auth: web.User, Timeout: slow, Handler: ok}
	for name, o := range map[string]web.Options{
		"barrier":       {Authenticator: tokens{}, Barrier: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
		"authenticator": {Authenticator: waiter{}},
	} {
		status, text, took := timed(t, listen(t, o, route), "GET /x?access_token=t", nil)
		if status != 503 && status != 504 || !strings.Contains(text, "retry_after_ms") || took > slowWork+2*time.Second {
			t.Errorf("%s: %d %s after %s", name, status, text, took)
		}
	}
}

// The time that a client waits for news does not count, wherever its request waits; what is done then does.
func TestAPollEndsInTime(t *testing.T) {
	address := listen(
		t,
		web.Options{},
		web.Route{Pattern: "GET /poll", Auth: web.None, Timeout: slow, Handler: func(r *web.Request) (any, error) {
			hangs := r.QueryParam("hangs") != ""
			d, err := time.ParseDuration(r.QueryParam("waits"))
			return &web.Park{
				Wait: func(func()) func() { return func() {} }, Until: time.Now().Add(d),
				Resume: func(ctx context.Context, _ bool) (any, error) {
					if hangs {
						<-ctx.Done()
					}
					return "news", ctx.Err()
				},
			}, err
		}},
	)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for i, c := range []struct {
		query  string
		status int
		took   time.Duration
	}{
		{"waits=100ms", 200, 100 * time.Millisecond},
		{"waits=100ms&hangs=1", 504, 100*time.Millisecond + slowWork},
		{"waits=1200ms", 200, 2 * slow},
		{"waits=1200ms", 200, 2 * slow},
		{"waits=100ms&hangs=1", 504, 100*time.Millisecond + slowWork},
		{"waits=1200ms&hangs=1", 504, 2*slow + slowWork},
		{"waits=1200ms", 200, 2 * slow},
	} {
		began := time.Now()
		_ = conn.SetDeadline(began.Add(10 * time.Second))
		fmt.Fprintf(conn, "GET /poll?%s HTTP/1.1\r\nHost: x\r\n\r\n", c.query)
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		text, err := io.ReadAll(response.Body)
		if took := time.Since(began); err != nil || response.StatusCode != c.status || took < c.took || took > c.took+2*time.Second {
			t.Errorf("step %d: %d %s %v after %s", i, response.StatusCode, text, err, took)
		}
	}
}

// A connection that was taken over is its handler's for as long as it likes.
func TestATakenConnectionHasNoEnd(t *testing.T) {
	address := listen(
		t,
		web.Options{},
		web.Route{Pattern: "GET /socket", Auth: web.None, Timeout: slow, Handler: func(*web.Request) (any, error) {
			return &web.Takeover{Serve: func(w http.ResponseWriter, r *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				defer conn.Close()
				time.Sleep(2 * slow)
				fmt.Fprint(conn, "still ", r.Context().Err())
			}}, nil
		}},
	)
	text, _ := io.ReadAll(dial(t, address, "GET /socket HTTP/1.1\r\nHost: x\r\n\r\n"))
	if string(text) != "still <nil>" {
		t.Errorf("found %q", text)
	}
}
