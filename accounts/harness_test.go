package accounts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/matrix"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/rpc"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// node is a process with its HTTP server.
type node struct {
	*Accounts
	t     testing.TB
	p     *role.Process
	url   string
	clock *clock
}

// clock is the real time moved by what a test adds.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

func testConfig() Config {
	return Config{
		ServerName: "here.test", Registration: OpenRegistration, SharedSecret: "shh",
		Password: PasswordConfig{MemoryKiB: 64, Passes: 1},
	}
}

func wire(t testing.TB, p *role.Process, deps Deps, c Config) *node {
	t.Helper()
	n := &node{t: t, p: p, clock: &clock{}}
	deps.Process, deps.Now = p, n.clock.now
	a, err := New(deps, c)
	if err != nil {
		t.Fatal(err)
	}
	n.Accounts = a
	server, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler), Authenticator: a, Barrier: p.Streams.Barrier})
	if err != nil {
		t.Fatal(err)
	}
	server.Add(a.Routes()...)
	ts := httptest.NewServer(server.Handler())
	t.Cleanup(ts.Close)
	n.url = ts.URL
	return n
}

// run runs body with one process on each engine.
func run(t *testing.T, c Config, body func(t *testing.T, n *node)) {
	runWith(t, Deps{}, c, body)
}

func runWith(t *testing.T, deps Deps, c Config, body func(t *testing.T, n *node)) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		p := roletest.New(t, d)
		n := wire(t, p, deps, c)
		roletest.Start(t, p)
		body(t, n)
	}, lease.Migrations(), Migrations())
}

// wireErrors carries Matrix errors between processes as the fleet does.
type wireErrors struct{}

func (wireErrors) Encode(err error) []byte {
	if errors.Is(err, stream.ErrNotOwner) {
		return []byte("notowner")
	}
	e := matrix.AsError(err)
	b, _ := json.Marshal(map[string]any{"status": e.Status, "code": e.Code, "message": e.Message})
	return b
}

func (wireErrors) Decode(data []byte) error {
	if string(data) == "notowner" {
		return stream.ErrNotOwner
	}
	var e matrix.Error
	var v struct {
		Status        int
		Code, Message string
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	e.Status, e.Code, e.Message = v.Status, v.Code, v.Message
	return &e
}

// join adds a process of a fleet on the database and bus.
func join(t *testing.T, d *db.DB, b bus.Bus, deps Deps, c Config) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	r, err := rpc.New(rpc.Options{Secret: bytes.Repeat([]byte("k"), 32), Errors: wireErrors{}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	leases, err := lease.Open(context.Background(), d, lease.Options{
		Machine: -1, Address: l.Addr().String(), Roles: []string{"all"}, Log: log,
		Announce: func() { _ = b.Publish(context.Background(), bus.Message{Topic: "leases"}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &role.Process{DB: d, Bus: b, Leases: leases, Log: log, RPC: r}
	p.Streams = stream.New(stream.Options{DB: d, Bus: b, Leases: leases, Log: log})
	ctx, cancel := context.WithCancel(context.Background())
	n := wire(t, p, deps, c)
	go func() { _ = r.Serve(ctx, l) }()
	stopped := make(chan error, 1)
	go func() { stopped <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-stopped
	})
	return n
}

// fleet runs body with two processes on one database, once each owns a part of the shards.
func fleet(t *testing.T, c Config, body func(t *testing.T, one, two *node)) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b := bus.NewLocal()
		one, two := join(t, d, b, Deps{}, c), join(t, d, b, Deps{}, c)
		until(t, "both own shards of both streams", func() bool {
			for _, n := range []*node{one, two} {
				for _, st := range n.p.Streams.All() {
					owned := 0
					for i := range st.Shards() {
						if st.Owns(i) {
							owned++
						}
					}
					if owned != st.Shards()/2 {
						return false
					}
				}
			}
			return true
		})
		body(t, one, two)
	}, lease.Migrations(), Migrations())
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// answer is a decoded answer.
type answer struct {
	t      testing.TB
	status int
	raw    string
	body   map[string]any
}

func (x answer) text(key string) string { s, _ := x.body[key].(string); return s }

// want checks the status and, if given, the error code.
func (x answer) want(status int, code ...string) answer {
	x.t.Helper()
	if x.status != status || len(code) > 0 && x.text("errcode") != code[0] {
		x.t.Fatalf("expected %d %v, found %d: %s", status, code, x.status, x.raw)
	}
	return x
}

type obj = map[string]any

// do sends a request; body may be nil, a string of raw bytes or anything with a JSON form.
func (n *node) do(method, path, token string, body any) answer {
	n.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = bytes.NewBufferString(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			n.t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, n.url+path, r)
	if err != nil {
		n.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("User-Agent", "tester/1")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	x := answer{t: n.t, status: res.StatusCode, raw: string(raw)}
	_ = json.Unmarshal(raw, &x.body)
	return x
}

func (n *node) register(name string, more ...obj) answer {
	n.t.Helper()
	body := obj{"username": name, "password": "correct horse", "auth": obj{"type": "m.login.dummy"}}
	for _, m := range more {
		for k, v := range m {
			body[k] = v
		}
	}
	return n.do("POST", client+"/register", "", body)
}

func (n *node) login(name, password string, more ...obj) answer {
	n.t.Helper()
	body := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": name}, "password": password}
	for _, m := range more {
		for k, v := range m {
			body[k] = v
		}
	}
	return n.do("POST", client+"/login", "", body)
}

func (n *node) whoamiWith(token string) answer {
	n.t.Helper()
	return n.do("GET", client+"/account/whoami", token, nil)
}

var quietLog = slog.New(slog.DiscardHandler)
