package web_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/platform/bus"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// logBuffer is a log that many goroutines write and a test reads.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// tokens is an Authenticator over a map.
type tokens map[string]*web.Identity

func (t tokens) Authenticate(_ context.Context, token string) (*web.Identity, error) {
	if identity := t[token]; identity != nil {
		return identity, nil
	}
	return nil, &web.Error{Status: 401, Code: "M_UNKNOWN_TOKEN", Message: "The token is not known"}
}

var people = tokens{
	"alice": {UserID: "@alice:x", DeviceID: "A"},
	"guest": {UserID: "@guest:x", Guest: true},
	"root":  {UserID: "@root:x", Admin: true},
	"bot":   {UserID: "@bot:x", Unlimited: true},
}

func newServer(t testing.TB, o web.Options, routes ...web.Route) *web.Server {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Authenticator == nil {
		o.Authenticator = people
	}
	s, err := web.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Add(routes...)
	return s
}

// call sends one request: "METHOD /path", headers as "Name: value", and a body after an empty string.
func call(h http.Handler, target, body string, headers ...string) *httptest.ResponseRecorder {
	method, path, _ := strings.Cut(target, " ")
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func errcode(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	var answer struct{ Errcode, Error string }
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("the answer %q is no JSON: %v", w.Body, err)
	}
	if w.Code >= 400 && answer.Error == "" {
		t.Errorf("status %d without a message: %s", w.Code, w.Body)
	}
	return answer.Errcode
}

func ok(*web.Request) (any, error) { return nil, nil }

func TestAddRefuses(t *testing.T) {
	for name, route := range map[string]web.Route{
		"no method":   {Pattern: "/a", Auth: web.None, Handler: ok},
		"no slash":    {Pattern: "GET a", Auth: web.None, Handler: ok},
		"no auth":     {Pattern: "GET /a", Handler: ok},
		"no handler":  {Pattern: "GET /a", Auth: web.None},
		"bad key":     {Pattern: "GET /a/{b}", Auth: web.None, Handler: ok, Key: web.KeyPath("c")},
		"bad limit":   {Pattern: "GET /a", Auth: web.None, Handler: ok, Limit: "nothing"},
		"options":     {Pattern: "OPTIONS /a", Auth: web.None, Handler: ok},
		"a duplicate": {Pattern: "GET /there/{x}", Auth: web.None, Handler: ok},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, web.Options{}, web.Route{Pattern: "GET /there/{y}", Auth: web.None, Handler: ok})
			defer func() {
				if recover() == nil {
					t.Error("Add took the route")
				}
			}()
			s.Add(route)
		})
	}
}

func TestMatching(t *testing.T) {
	echo := func(r *web.Request) (any, error) { return map[string]string{"errcode": r.Path("v")}, nil }
	s := newServer(t, web.Options{},
		web.Route{Pattern: "GET /_matrix/a/{v}", Auth: web.None, Handler: echo},
		web.Route{Pattern: "PUT /_matrix/a/{v}", Auth: web.None, Handler: echo},
		web.Route{Pattern: "GET /_matrix/state/{type}/{v...}", Auth: web.None, Handler: echo},
		web.Route{Pattern: "GET /_matrix/rules", Auth: web.None, Handler: echo},
		web.Route{Pattern: "GET /_matrix/rules/{$}", Auth: web.None, Handler: echo},
		web.Route{Pattern: "POST /_lyceum/fleet", Auth: web.Fleet, Handler: echo},
		web.Route{Pattern: "GET /{v...}", Auth: web.None, Handler: echo},
	)
	for _, c := range []struct {
		target string
		status int
		code   string
	}{
		{"GET /_matrix/a/x", 200, "x"},
		{"HEAD /_matrix/a/x", 200, "x"},
		{"GET /_matrix/a/%21r%3Ax%2Fy", 200, "!r:x/y"},
		{"GET /_matrix/a/%2E%2E", 200, ".."},
		{"GET /_matrix/state/t/", 200, ""},
		{"GET /_matrix/state/t/a%2Fb", 200, "a/b"},
		{"GET /_matrix/rules", 200, ""},
		{"GET /_matrix/rules/", 200, ""},
		{"DELETE /_matrix/a/x", 405, "M_UNRECOGNIZED"},
		{"GET /_matrix/a", 404, "M_UNRECOGNIZED"},
		{"POST /_matrix/nothing", 404, "M_UNRECOGNIZED"},
		{"GET /_matrix//a/x", 404, "M_UNRECOGNIZED"},
		{"GET /_matrix/a/../a/x", 404, "M_UNRECOGNIZED"},
		{"GET /_matrix/a/..", 404, "M_UNRECOGNIZED"},
		{"GET /_matrix/./a/x", 404, "M_UNRECOGNIZED"},
		{"GET //", 404, "M_UNRECOGNIZED"},
		{"GET /_matrix/a/%FF", 400, "M_INVALID_PARAM"},
		{"GET /_matrix/a/x%00", 400, "M_INVALID_PARAM"},
		{"GET /_matrix/a/x?q=%FF", 400, "M_INVALID_PARAM"},
		{"GET /_matrix/a/x?q=%C3%A4", 200, "x"},
		{"POST /_lyceum/fleet", 404, "M_UNRECOGNIZED"},
		{"PUT /_lyceum/fleet", 404, "M_UNRECOGNIZED"},
		{"GET /page/one", 200, "page/one"},
		{"GET /.well-known/x", 200, ".well-known/x"},
		{"POST /page/one", 404, "M_UNRECOGNIZED"},
	} {
		w := call(s.Handler(), c.target, "")
		if code := errcode(t, w); w.Code != c.status || code != c.code {
			t.Errorf("%s: %d %q, want %d %q", c.target, w.Code, code, c.status, c.code)
		}
		if w.Header().Get("Access-Control-Allow-Origin") != "*" || w.Header().Get("X-Request-Id") == "" {
			t.Errorf("%s: headers %v", c.target, w.Header())
		}
	}
	if allow := call(s.Handler(), "DELETE /_matrix/a/x", "").Header().Get("Allow"); allow != "GET, PUT" {
		t.Errorf("Allow is %q", allow)
	}
	if w := call(s.Internal(), "POST /_lyceum/fleet", ""); w.Code != 200 {
		t.Errorf("the fleet's route on the internal listener: %d", w.Code)
	}
	if w := call(s.Handler(), "OPTIONS /_matrix/a/x", ""); w.Code != 204 || w.Body.Len() != 0 ||
		!strings.Contains(w.Header().Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("OPTIONS: %d %v", w.Code, w.Header())
	}
}

func TestAuth(t *testing.T) {
	who := func(r *web.Request) (any, error) { return map[string]string{"errcode": r.UserID()}, nil }
	var routes []web.Route
	for _, a := range []web.Auth{web.None, web.Optional, web.Guest, web.User, web.Admin} {
		routes = append(routes, web.Route{Pattern: "GET /" + a.String(), Auth: a, Handler: who})
	}
	s := newServer(t, web.Options{}, routes...)
	const bad, missing = "401 M_UNKNOWN_TOKEN", "401 M_MISSING_TOKEN"
	for _, c := range []struct{ token, none, optional, guest, user, admin string }{
		{"", "200 ", "200 ", missing, missing, missing},
		{"wrong", "200 ", bad, bad, bad, bad},
		{"guest", "200 ", "200 @guest:x", "200 @guest:x", "403 M_GUEST_ACCESS_FORBIDDEN", "403 M_GUEST_ACCESS_FORBIDDEN"},
		{"alice", "200 ", "200 @alice:x", "200 @alice:x", "200 @alice:x", "403 M_FORBIDDEN"},
		{"root", "200 ", "200 @root:x", "200 @root:x", "200 @root:x", "200 @root:x"},
	} {
		for path, want := range map[string]string{"none": c.none, "optional": c.optional, "guest": c.guest, "user": c.user, "admin": c.admin} {
			for _, w := range []*httptest.ResponseRecorder{
				call(s.Handler(), "GET /"+path, "", "Authorization: bearer "+c.token),
				call(s.Handler(), "GET /"+path+"?access_token="+c.token, ""),
			} {
				if got := fmt.Sprintf("%d %s", w.Code, errcode(t, w)); got != want {
					t.Errorf("%s with %q: %s, want %s", path, c.token, got, want)
				}
			}
		}
	}
	if w := call(s.Handler(), "GET /user", "", "Authorization: Basic alice"); errcode(t, w) != "M_MISSING_TOKEN" {
		t.Errorf("another scheme: %s", w.Body)
	}
}

func TestDecode(t *testing.T) {
	type inner struct {
		Count int `json:"count"`
	}
	type body struct {
		Name  string          `json:"name"`
		Inner inner           `json:"inner"`
		Any   json.RawMessage `json:"any"`
	}
	echo := web.JSON(func(_ *web.Request, b *body) (any, error) {
		return map[string]any{"errcode": b.Name, "any": b.Any}, nil
	})
	object := func(r *web.Request) (any, error) { return r.Object() }
	raw := func(r *web.Request) (any, error) {
		b, err := r.Raw()
		return map[string]string{"errcode": string(b)}, err
	}
	unstorable := func(*web.Request) (any, error) {
		return nil, fmt.Errorf("write: %w", &db.TextError{Where: "notes.body", NUL: true})
	}
	s := newServer(t, web.Options{},
		web.Route{Pattern: "POST /unstorable", Auth: web.None, Handler: unstorable},
		web.Route{Pattern: "POST /strict", Auth: web.None, Handler: echo, MaxBody: 4096},
		web.Route{Pattern: "POST /empty", Auth: web.None, Handler: echo, EmptyBody: true},
		web.Route{Pattern: "POST /object", Auth: web.None, Handler: object},
		web.Route{Pattern: "POST /raw", Auth: web.None, Handler: raw, MaxBody: 10},
	)
	deep := func(n int) string { return `{"any":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}` }
	for _, c := range []struct {
		path, body string
		want       string
		message    string
	}{
		{"/strict", `{"name":"x"}`, "200 x", ""},
		{"/strict", " {\"name\":\"x\"}\n", "200 x", ""},
		{"/strict", ``, "400 M_NOT_JSON", ""},
		{"/strict", `   `, "400 M_NOT_JSON", ""},
		{"/strict", `{"name":"x"} x`, "400 M_NOT_JSON", ""},
		{"/strict", `{"name":"x"}{}`, "400 M_NOT_JSON", ""},
		{"/strict", `{"name":`, "400 M_NOT_JSON", ""},
		{"/strict", "{\"name\":\"\xff\"}", "400 M_NOT_JSON", "UTF-8"},
		{"/strict", `{"name":1}`, "400 M_BAD_JSON", "field name"},
		{"/strict", `{"inner":{"count":"x"}}`, "400 M_BAD_JSON", "inner.count"},
		{"/strict", `{"inner":{"count":1.5}}`, "400 M_BAD_JSON", "whole number"},
		{"/strict", `[]`, "400 M_BAD_JSON", "expected object"},
		{"/strict", `null`, "400 M_BAD_JSON", ""},
		{"/strict", deep(99), "200 ", ""},
		{"/strict", deep(100), "400 M_NOT_JSON", "nested"},
		{"/strict", `{"name":"` + strings.Repeat("[", 200) + `"}`, "200 " + strings.Repeat("[", 200), ""},
		{"/strict", `{"name":"` + strings.Repeat("a", 5000) + `"}`, "413 M_TOO_LARGE", "4096"},
		{"/empty", ``, "200 ", ""},
		{"/object", `{"errcode":"<&>"}`, "200 <&>", ""},
		{"/object", `[1]`, "400 M_BAD_JSON", ""},
		{"/object", `{"a":}`, "400 M_NOT_JSON", ""},
		{"/unstorable", `{}`, "400 M_INVALID_PARAM", "U+0000"},
		{"/raw", `0123456789`, "200 0123456789", ""},
		{"/raw", `0123456789a`, "413 M_TOO_LARGE", ""},
	} {
		w := call(s.Handler(), "POST "+c.path, c.body)
		if got := fmt.Sprintf("%d %s", w.Code, errcode(t, w)); got != c.want || !strings.Contains(w.Body.String(), c.message) {
			t.Errorf("%s %.60q: %s, want %s with %q", c.path, c.body, w.Body, c.want, c.message)
		}
	}
	// A length that is not declared is still bounded.
	r := httptest.NewRequest("POST", "/raw", io.MultiReader(strings.NewReader("0123456789a")))
	r.ContentLength = -1
	w := httptest.NewRecorder()
	if s.Handler().ServeHTTP(w, r); w.Code != 413 {
		t.Errorf("a long body without a length: %d", w.Code)
	}
}

// buckets is a real limiter that notes the keys it is asked for.
type buckets struct {
	bus.Limits
	mu    sync.Mutex
	taken map[string]int
}

func newBuckets() *buckets { return &buckets{Limits: bus.NewLocalLimits(), taken: map[string]int{}} }

func (b *buckets) Take(ctx context.Context, key string, perSecond float64, burst int) (time.Duration, error) {
	b.mu.Lock()
	b.taken[key]++
	b.mu.Unlock()
	return b.Limits.Take(ctx, key, perSecond, burst)
}

// away is a limiter whose bus can not be reached.
type away struct{}

func (away) Take(context.Context, string, float64, int) (time.Duration, error) {
	return 0, errors.New("the bus is away")
}

func TestRateLimits(t *testing.T) {
	limits := newBuckets()
	options := web.Options{
		Limits: limits,
		Config: web.Config{RateLimits: map[string]web.RateLimit{"login": {PerSecond: 0.01, Burst: 2}, "sync": {}}},
	}
	routes := []web.Route{
		{Pattern: "GET /user", Auth: web.User, Handler: ok, Limit: "login"},
		{Pattern: "GET /open", Auth: web.None, Handler: ok, Limit: "login"},
		{Pattern: "GET /off", Auth: web.None, Handler: ok, Limit: "sync"},
	}
	s := newServer(t, options, routes...)
	last := func(h http.Handler, n int, target string, headers ...string) (w *httptest.ResponseRecorder) {
		for range n {
			w = call(h, target, "", headers...)
		}
		return w
	}
	w := last(s.Handler(), 3, "GET /user", "Authorization: Bearer alice")
	if w.Code != 429 || errcode(t, w) != "M_LIMIT_EXCEEDED" || w.Header().Get("Retry-After") != "100" ||
		!strings.Contains(w.Body.String(), `"retry_after_ms":9`) {
		t.Errorf("the third: %d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := last(s.Handler(), 9, "GET /user", "Authorization: Bearer bot"); w.Code != 200 {
		t.Errorf("an unlimited user: %d", w.Code)
	}
	if w := last(s.Handler(), 3, "GET /open"); w.Code != 429 {
		t.Errorf("an address: %d", w.Code)
	}
	if w := last(s.Handler(), 9, "GET /off"); w.Code != 200 {
		t.Errorf("a limit that is turned off: %d", w.Code)
	}
	limits.mu.Lock()
	if limits.taken["login:@alice:x"] != 3 || limits.taken["login:192.0.2.1"] != 3 {
		t.Errorf("keys: %v", limits.taken)
	}
	limits.mu.Unlock()

	options.Config.RateLimitsOff = true
	if w := last(newServer(t, options, routes...).Handler(), 9, "GET /open"); w.Code != 200 {
		t.Errorf("all off: %d", w.Code)
	}
	options.Config.RateLimitsOff, options.Limits = false, away{}
	if w := call(newServer(t, options, routes...).Handler(), "GET /open", ""); w.Code != 200 {
		t.Errorf("without a bus: %d", w.Code)
	}
}

func TestClientAddress(t *testing.T) {
	limits := newBuckets()
	s := newServer(t, web.Options{Limits: limits, Config: web.Config{TrustedProxies: []string{"10.0.0.0/8", "2001:db8::1"}}},
		web.Route{Pattern: "GET /", Auth: web.None, Limit: "read", Handler: func(r *web.Request) (any, error) {
			return map[string]string{"ip": r.RemoteIP().String(), "scheme": r.Scheme()}, nil
		}})
	for _, c := range []struct {
		internal           bool
		peer, claim, proto string
		want, scheme       string
	}{
		{false, "198.51.100.7:1", "", "", "198.51.100.7", "http"},
		{false, "198.51.100.7:1", "1.2.3.4", "https", "198.51.100.7", "http"},
		{false, "10.1.1.1:1", "1.2.3.4", "https", "1.2.3.4", "https"},
		{false, "10.1.1.1:1", "6.6.6.6, 1.2.3.4", "", "1.2.3.4", "http"},
		{false, "10.1.1.1:1", "6.6.6.6, 1.2.3.4, 10.2.2.2", "", "1.2.3.4", "http"},
		{false, "10.1.1.1:1", "6.6.6.6, rubbish", "x", "10.1.1.1", "http"},
		{false, "10.1.1.1:1", "10.9.9.9", "", "10.9.9.9", "http"},
		{false, "[2001:db8::1]:1", "[2001:db8:1::5]:80", "", "2001:db8:1::5", "http"},
		{false, "[::ffff:10.1.1.1]:1", "1.2.3.4:99", "", "1.2.3.4", "http"},
		{true, "203.0.113.9:1", "1.2.3.4", "https", "1.2.3.4", "https"},
		{false, "@", "1.2.3.4", "https", "1.2.3.4", "https"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.peer
		if c.claim != "" {
			r.Header.Set("X-Forwarded-For", c.claim)
		}
		if c.proto != "" {
			r.Header.Set("X-Forwarded-Proto", c.proto)
		}
		w, h := httptest.NewRecorder(), s.Handler()
		if c.internal {
			h = s.Internal()
		}
		h.ServeHTTP(w, r)
		if want := fmt.Sprintf(`{"ip":%q,"scheme":%q}`, c.want, c.scheme); w.Body.String() != want {
			t.Errorf("%+v: got %s", c, w.Body)
		}
	}
	if limits.taken["read:2001:db8:1::/64"] != 1 {
		t.Errorf("IPv6 is not keyed by /64: %v", limits.taken)
	}
	for _, config := range []web.Config{
		{TrustedProxies: []string{"10.0.0.0/99"}},
		{RateLimits: map[string]web.RateLimit{"lgoin": {}}},
		{RateLimits: map[string]web.RateLimit{"login": {PerSecond: -1}}},
	} {
		if _, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler), Config: config}); err == nil {
			t.Errorf("taken: %+v", config)
		}
	}
}

func TestErrorsAndPanics(t *testing.T) {
	log := &logBuffer{}
	s := newServer(
		t,
		web.Options{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))},
		web.Route{Pattern: "GET /panic", Auth: web.None, Handler: func(*web.Request) (any, error) { panic("oh dear") }},
		web.Route{
			Pattern: "GET /cause",
			Auth:    web.None,
			Handler: func(*web.Request) (any, error) { return nil, errors.New("the secret table is gone") },
		},
		web.Route{Pattern: "GET /wrapped", Auth: web.None, Handler: func(*web.Request) (any, error) {
			return nil, fmt.Errorf("deep inside: %w", &web.Error{Status: 404, Code: "M_NOT_FOUND", Message: "no"})
		}},
		web.Route{Pattern: "GET /value", Auth: web.None, Handler: func(*web.Request) (any, error) { return func() {}, nil }},
		web.Route{Pattern: "GET /cut", Auth: web.None, Handler: func(*web.Request) (any, error) {
			return &web.Stream{Write: func(w io.Writer) error {
				_, _ = io.WriteString(w, strings.Repeat("x", 10000))
				return io.ErrUnexpectedEOF
			}}, nil
		}},
	)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	for path, want := range map[string]string{
		"/panic": "500 M_UNKNOWN", "/cause": "500 M_UNKNOWN", "/wrapped": "404 M_NOT_FOUND",
		"/value": "500 M_UNKNOWN",
	} {
		w := call(s.Handler(), "GET "+path+"?access_token=sesame&x=y", "")
		if got := fmt.Sprintf("%d %s", w.Code, errcode(t, w)); got != want || strings.Contains(w.Body.String(), "secret") ||
			strings.Contains(w.Body.String(), "dear") {
			t.Errorf("%s: %s %s", path, got, w.Body)
		}
	}
	for _, want := range []string{"oh dear", "web_test.go", "the secret table is gone", "x=y", "request="} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %q", want)
		}
	}
	if strings.Contains(log.String(), "sesame") {
		t.Error("a token stands in the log")
	}
	response, err := http.Get(server.URL + "/cut")
	if err == nil {
		_, err = io.ReadAll(response.Body)
		response.Body.Close()
	}
	if err == nil {
		t.Error("a client took a broken stream for whole")
	}
}

func TestAnswers(t *testing.T) {
	long := strings.Repeat(`event `, 1000)
	file := bytes.Repeat([]byte("0123456789"), 1000)
	handlers := map[string]web.Handler{
		"nil":   ok,
		"value": func(*web.Request) (any, error) { return map[string]string{"a": "<b>&"}, nil },
		"ready": func(*web.Request) (any, error) { return json.RawMessage(`{"b":1}`), nil },
		"reply": func(*web.Request) (any, error) {
			return &web.Reply{Status: 401, Header: http.Header{"X-A": {"b"}}, Value: []int{1}}, nil
		},
		"raw": func(*web.Request) (any, error) {
			return &web.Raw{Status: 201, Header: http.Header{"Content-Type": {"image/png"}}, Body: []byte("png")}, nil
		},
		"none": func(*web.Request) (any, error) { return &web.Raw{Status: 204}, nil },
		"long": func(*web.Request) (any, error) { return []string{long}, nil },
		"longer": func(*web.Request) (any, error) {
			return &web.Raw{Header: http.Header{"Content-Type": {"image/png"}}, Body: file}, nil
		},
		"file": func(*web.Request) (any, error) {
			return &web.Takeover{Serve: func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "x.bin", time.Time{}, bytes.NewReader(file))
			}}, nil
		},
	}
	var routes []web.Route
	for name, handler := range handlers {
		routes = append(routes, web.Route{Pattern: "GET /" + name, Auth: web.None, Handler: handler})
	}
	s := newServer(t, web.Options{Config: web.Config{Compress: true}}, routes...)
	for name, want := range map[string]string{
		"nil": "200 {} application/json 2", "value": `200 {"a":"<b>&"} application/json 12`, "ready": `200 {"b":1} application/json 7`,
		"reply": `401 [1] application/json 3`, "raw": "201 png image/png 3", "none": "204   ",
	} {
		w := call(s.Handler(), "GET /"+name, "", "Accept-Encoding: gzip")
		if got := fmt.Sprintf("%d %s %s %s", w.Code, w.Body, w.Header().Get("Content-Type"), w.Header().Get("Content-Length")); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	for accept, packed := range map[string]bool{"gzip": true, "br, GZIP;q=0.5": true, "gzip;q=0": false, "": false, "br": false} {
		w := call(s.Handler(), "GET /long", "", "Accept-Encoding: "+accept)
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != packed || w.Header().Get("Vary") != "Accept-Encoding" {
			t.Errorf("Accept-Encoding %q: %v", accept, w.Header())
		}
		if packed {
			unpacked, err := gzip.NewReader(w.Body)
			if err != nil {
				t.Fatal(err)
			}
			if body, _ := io.ReadAll(unpacked); string(body) != `["`+long+`"]` {
				t.Errorf("unpacked to %.40q", body)
			}
		}
	}
	if w := call(s.Handler(), "GET /longer", "", "Accept-Encoding: gzip"); w.Header().Get("Content-Encoding") != "" {
		t.Error("an image was compressed")
	}
	if w := call(s.Handler(), "GET /file", "", "Range: bytes=5-14"); w.Code != 206 || w.Body.String() != "5678901234" {
		t.Errorf("a range: %d %q", w.Code, w.Body)
	}
}

func TestQuery(t *testing.T) {
	s := newServer(t, web.Options{}, web.Route{Pattern: "GET /", Auth: web.None, Handler: func(r *web.Request) (any, error) {
		n, err := r.Int("limit", 7, 100)
		if err != nil {
			return nil, err
		}
		b, err := r.Bool("full", true)
		return map[string]string{"errcode": fmt.Sprintf("%d %t %s", n, b, r.QueryParam("from"))}, err
	}})
	for query, want := range map[string]string{
		"": "7 true ", "?limit=3&full=false&from=a%20b": "3 false a b", "?limit=1000": "100 true ",
		"?limit=-1": "M_INVALID_PARAM", "?limit=x": "M_INVALID_PARAM", "?full=maybe": "M_INVALID_PARAM",
	} {
		if got := errcode(t, call(s.Handler(), "GET /"+query, "")); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%q: %q, want %q", query, got, want)
		}
	}
}

func TestBarrierAndMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	passed := 0
	var broken error
	s := newServer(t, web.Options{
		Registry: registry,
		Barrier:  func(context.Context) error { passed++; return broken },
		Dispatch: func(r *web.Request) (bool, error) {
			if r.QueryParam("elsewhere") == "" {
				return false, nil
			}
			r.Writer().WriteHeader(202)
			return true, nil
		},
	}, web.Route{Pattern: "GET /a/{b}", Role: "client", Auth: web.User, Handler: ok})
	if w := call(s.Handler(), "GET /a/x", "", "Authorization: Bearer alice"); w.Code != 200 || passed != 1 {
		t.Errorf("%d, barrier %d times", w.Code, passed)
	}
	if w := call(s.Handler(), "GET /a/x?elsewhere=1", ""); w.Code != 202 || passed != 1 {
		t.Errorf("elsewhere: %d, barrier %d times", w.Code, passed)
	}
	broken = errors.New("neither the bus nor the database answers")
	if w := call(s.Handler(), "GET /a/x", "", "Authorization: Bearer alice"); w.Code != 503 || passed != 2 {
		t.Errorf("a token that may be revoked counted: %d, barrier %d times", w.Code, passed)
	}
	call(s.Handler(), "GET /nothing", "")
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if n := len(family.GetMetric()); family.GetName() == "lyceum_http_request_duration_seconds" && n != 3 {
			t.Errorf("%d series, want 3 (200 and 202 are one class; 404; 503): %v", n, family)
		}
	}
}

func TestRunDrains(t *testing.T) {
	working, finish := make(chan struct{}), make(chan struct{})
	polling := make(chan struct{})
	var states []bool
	s := newServer(t, web.Options{Ready: func(ready bool) { states = append(states, ready) }},
		web.Route{Pattern: "POST /work", Auth: web.None, Handler: func(*web.Request) (any, error) {
			close(working)
			<-finish
			return map[string]string{"done": "yes"}, nil
		}},
		web.Route{Pattern: "GET /poll", Auth: web.None, Handler: func(r *web.Request) (any, error) {
			close(polling)
			select {
			case <-r.Draining():
				close(finish) // the stop reached the handlers, so the work that was under way may end
				return map[string]string{"done": "early"}, nil
			case <-time.After(30 * time.Second):
				return nil, errors.New("nobody said that the server stops")
			}
		}})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, listener) }()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	answers := make(chan string, 2)
	get := func(method, path string) {
		r, _ := http.NewRequest(method, "http://"+listener.Addr().String()+path, nil)
		response, err := client.Do(r)
		if err != nil {
			answers <- err.Error()
			return
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		answers <- fmt.Sprint(response.StatusCode, " ", string(body), err)
	}
	go get("POST", "/work")
	go get("GET", "/poll")
	<-working
	<-polling
	stop()
	got := map[string]bool{<-answers: true, <-answers: true}
	if !got[`200 {"done":"yes"}<nil>`] || !got[`200 {"done":"early"}<nil>`] {
		t.Errorf("answers: %v", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if fmt.Sprint(states) != "[true false]" {
		t.Errorf("ready: %v", states)
	}
	s.Drain()
}

func TestRunSpeaksHTTP2AndBoundsSlowBodies(t *testing.T) {
	s := newServer(
		t,
		web.Options{Config: web.Config{BodyTimeout: conf.Duration(50 * time.Millisecond)}},
		web.Route{
			Pattern: "GET /proto",
			Auth:    web.None,
			Handler: func(r *web.Request) (any, error) { return map[string]string{"p": r.Proto}, nil },
		},
		web.Route{Pattern: "POST /slow", Auth: web.None, Handler: web.JSON(func(*web.Request, *struct{}) (any, error) { return nil, nil })},
	)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, listener) }()
	defer func() { stop(); <-ended }()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	defer client.CloseIdleConnections()
	response, err := client.Get("http://" + listener.Addr().String() + "/proto")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if string(body) != `{"p":"HTTP/2.0"}` {
		t.Errorf("protocol: %s", body)
	}
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	fmt.Fprint(connection, "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	_ = connection.SetReadDeadline(time.Now().Add(10 * time.Second))
	answer, err := io.ReadAll(connection)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 400") {
		t.Errorf("a slow body: %q %v", answer, err)
	}
}

func TestRoutesMarkdown(t *testing.T) {
	s := newServer(
		t,
		web.Options{},
		web.Route{
			Pattern: "PUT /_matrix/client/v3/rooms/{roomID}/typing/{userID}",
			Auth:    web.User,
			Role:    "typing",
			Key:     web.KeyPath("roomID"),
			Limit:   "write",
			Handler: ok,
		},
		web.Route{Pattern: "GET /_matrix/client/versions", Auth: web.Optional, Limit: "public", Handler: ok},
		web.Route{Pattern: "GET /_matrix/client/v3/sync", Auth: web.Guest, Role: "sync", Key: web.KeyUser, Limit: "sync", Handler: ok},
		web.Route{Pattern: "GET /{path...}", Auth: web.None, Handler: ok},
		web.Route{Pattern: "GET /.well-known/matrix/client", Auth: web.None, Handler: ok},
	)
	want := "# Routes\n\nGenerated from the routes of all domains. Do not edit.\n\n5 routes. An empty cell is: any role, no key, no limit.\n" +
		"\n## /\n\n| method | path | auth | role | key | limit |\n|---|---|---|---|---|---|\n| GET | `/{path...}` | none |  |  |  |\n" +
		"\n## /.well-known\n\n| method | path | auth | role | key | limit |\n|---|---|---|---|---|---|\n| GET | `/.well-known/matrix/client` " +
		"| none |  |  |  |\n" +
		"\n## /_matrix/client\n\n| method | path | auth | role | key | limit |\n|---|---|---|---|---|---|\n" +
		"| PUT | `/_matrix/client/v3/rooms/{roomID}/typing/{userID}` | user | typing | {roomID} | write |\n" +
		"| GET | `/_matrix/client/v3/sync` | guest | sync | user | sync |\n" +
		"| GET | `/_matrix/client/versions` | optional |  |  | public |\n"
	if got := string(web.RoutesMarkdown(s.Routes())); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func BenchmarkRouted(b *testing.B) {
	s := newServer(b, web.Options{Registry: prometheus.NewRegistry(), Config: web.Config{Compress: true}},
		web.Route{Pattern: "PUT /_matrix/client/v3/rooms/{roomID}/typing/{userID}", Auth: web.User, Handler: web.JSON(
			func(_ *web.Request, body *struct {
				Typing  bool `json:"typing"`
				Timeout int  `json:"timeout"`
			},
			) (any, error) {
				return nil, nil
			})})
	h := s.Handler()
	body := []byte(`{"typing":true,"timeout":30000}`)
	b.ReportAllocs()
	reader := bytes.NewReader(nil)
	r := httptest.NewRequest("PUT", "/_matrix/client/v3/rooms/!r:x/typing/@alice:x", io.NopCloser(reader))
	r.Header.Set("Authorization", "Bearer alice")
	w := httptest.NewRecorder()
	for b.Loop() {
		reader.Reset(body)
		w.Body.Reset()
		h.ServeHTTP(w, r)
	}
	if w.Code != 200 {
		b.Fatal(w.Code, w.Body)
	}
}

// TestABrowserGetsAPage: of a route that has one, with the headers of the refusal.
func TestABrowserGetsAPage(t *testing.T) {
	page := func(_ *web.Request, status int, m string) (*web.Raw, error) {
		return &web.Raw{Status: status, Body: []byte("<p>" + m), Header: http.Header{"Content-Type": {"text/html"}}}, nil
	}
	s := newServer(
		t, web.Options{Limits: newBuckets(), Config: web.Config{RateLimits: map[string]web.RateLimit{"login": {PerSecond: 0.01, Burst: 1}}}},
		web.Route{Pattern: "GET /page", Auth: web.None, Handler: ok, Limit: "login", Page: page},
	)
	call(s.Handler(), "GET /page", "")
	for accept, want := range map[string]string{"text/html,*/*;q=0.8": "<p>Too many requests", "*/*": "M_LIMIT_EXCEEDED"} {
		w := call(s.Handler(), "GET /page", "", "Accept: "+accept)
		if w.Code != 429 || w.Header().Get("Retry-After") != "100" || !strings.Contains(w.Body.String(), want) ||
			strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") != strings.HasPrefix(accept, "text") {
			t.Errorf("%s: %d %v %s", accept, w.Code, w.Header(), w.Body)
		}
	}
}
