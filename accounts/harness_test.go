package accounts

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
)

// node is a process with its HTTP server.
type node struct {
	*Accounts
	t     testing.TB
	p     *role.Process
	url   string
	clock *clock

	// POST /act tells the first and ends with the second.
	acting, over chan struct{}
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
	n := &node{t: t, p: p, clock: &clock{}, acting: make(chan struct{}), over: make(chan struct{})}
	deps.Process, deps.Now, deps.UnderWay = p, n.clock.now, web.NewUnderWay()
	a, err := New(deps, c)
	if err != nil {
		t.Fatal(err)
	}
	n.Accounts = a
	server, err := web.New(
		web.Options{Log: slog.New(slog.DiscardHandler), Authenticator: a, Barrier: p.Streams.Barrier, UnderWay: deps.UnderWay},
	)
	if err != nil {
		t.Fatal(err)
	}
	server.Add(a.Routes()...)
	server.Add(web.Route{Pattern: "POST /act", Auth: web.User, Handler: func(*web.Request) (any, error) {
		n.acting <- struct{}{}
		<-n.over
		return nil, nil
	}})
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

// fleet runs body with two processes on one database, once each owns half of the shards.
func fleet(t *testing.T, c Config, body func(t *testing.T, one, two *node)) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		one, two, _ := roletest.Two(t, d, func(p *role.Process) *node { return wire(t, p, Deps{}, c) })
		body(t, one, two)
	}, lease.Migrations(), Migrations())
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

// makeAdmin makes a user an administrator of the server.
func (n *node) makeAdmin(userID string) error {
	yes := true
	return n.SetRights(n.t.Context(), userID, Rights{Admin: &yes})
}

func (n *node) whoamiWith(token string) answer {
	n.t.Helper()
	return n.do("GET", client+"/account/whoami", token, nil)
}

var quietLog = slog.New(slog.DiscardHandler)
