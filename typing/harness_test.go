package typing

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"testing"
	"time"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/rpc"
	"lyceum/platform/stream"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
	"lyceum/rooms"
)

const api = "/_matrix/client/v3"

// node is a process with the package and what it stands on.
type node struct {
	*Typing
	p      *role.Process
	rooms  *rooms.Rooms
	acc    *accounts.Accounts
	clock  *obs.Clock
	people webtest.People
	http   *webtest.Client
}

type obj = map[string]any

func wire(t testing.TB, p *role.Process, clock *obs.Clock) *node {
	t.Helper()
	a, err := accounts.New(accounts.Deps{Process: p, Now: time.Now}, accounts.Config{
		ServerName: "here.test", Registration: accounts.OpenRegistration, Password: accounts.PasswordConfig{MemoryKiB: 64, Passes: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := matrix.GenerateSigningKey("test", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rooms.New(rooms.Deps{Process: p, Accounts: a, ServerName: "here.test", Key: key}, rooms.Config{DefaultVersion: "12", EventCache: 1000, MaxCreateUsers: 100})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{p: p, rooms: r, acc: a, clock: clock, people: webtest.People{}}
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		n.people[name] = &web.Identity{UserID: "@" + name + ":here.test", DeviceID: "D-" + name}
	}
	n.build(t)
	n.http = webtest.New(t, n.people, append(r.Routes(), n.Routes()...)...)
	return n
}

func run(t *testing.T, body func(t *testing.T, n *node)) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		p := roletest.New(t, d)
		n := wire(t, p, obs.NewClock(time.Now()))
		roletest.Start(t, p)
		body(t, n)
	}, lease.Migrations(), accounts.Migrations(), rooms.Migrations(), Migrations())
}

// room makes a room with members and returns its id.
func (n *node) room(t testing.TB, owner string, others ...string) string {
	t.Helper()
	id := n.http.As(owner).Want(200, "POST "+api+"/createRoom", obj{"preset": "public_chat"}).Get("room_id").String()
	for _, o := range others {
		n.http.As(o).Want(200, "POST "+api+"/join/"+url.PathEscape(id), obj{})
	}
	return id
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// wireErrors carries errors between processes as the fleet does.
type wireErrors struct{}

func (wireErrors) Encode(err error) []byte {
	if errors.Is(err, stream.ErrNotOwner) {
		return []byte("notowner")
	}
	b, _ := json.Marshal(matrix.AsError(err))
	return b
}

func (wireErrors) Decode(data []byte) error {
	if string(data) == "notowner" {
		return stream.ErrNotOwner
	}
	e := &matrix.Error{}
	if err := json.Unmarshal(data, e); err != nil {
		return err
	}
	return e
}

// join adds a process of a fleet; stop ends it.
func join(t *testing.T, d *db.DB, b bus.Bus, clock *obs.Clock) (n *node, stop func()) {
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
	n = wire(t, p, clock)
	go func() { _ = r.Serve(ctx, l) }()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = p.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-stopped
	}
	t.Cleanup(stop)
	return n, stop
}

// fleet runs body with two processes on one database, once each owns half of the shards.
func fleet(t *testing.T, body func(t *testing.T, one, two *node, stopTwo func())) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		b, clock := bus.NewLocal(), obs.NewClock(time.Now())
		one, _ := join(t, d, b, clock)
		two, stop := join(t, d, b, clock)
		until(t, "both own shards", func() bool {
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
		body(t, one, two, stop)
	}, lease.Migrations(), accounts.Migrations(), rooms.Migrations(), Migrations())
}
