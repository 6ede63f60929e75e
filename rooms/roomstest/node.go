package roomstest

import (
	"crypto/rand"
	"maps"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
	"lyceum/rooms"
)

// Server is the name of the server, and API the beginning of most paths.
const (
	Server = "here.test"
	API    = "/_matrix/client/v3"
)

type obj = map[string]any

// Node is a process with what packages above rooms stand on. alice, bob, carol and dave are its people.
type Node struct {
	Process  *role.Process
	Rooms    *rooms.Rooms
	Accounts *accounts.Accounts
	Clock    *obs.Clock     // stands still; the processes of a Fleet share it
	People   webtest.People // tokens are the names
	HTTP     *webtest.Client
	routes   []web.Route
}

// New makes the node of a process that does not run yet.
func New(t testing.TB, p *role.Process, c rooms.Config) *Node {
	t.Helper()
	a, err := accounts.New(accounts.Deps{Process: p, Now: time.Now}, accounts.Config{
		ServerName: Server, Registration: accounts.OpenRegistration, Password: accounts.PasswordConfig{MemoryKiB: 64, Passes: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := matrix.GenerateSigningKey("test", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rooms.New(rooms.Deps{Process: p, Accounts: a, ServerName: Server, Key: key}, c)
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{Process: p, Rooms: r, Accounts: a, Clock: obs.NewClock(time.Now()), People: webtest.People{}}
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		n.People[name] = &web.Identity{UserID: "@" + name + ":" + Server, DeviceID: "D-" + name}
	}
	return n
}

// Harness runs tests of a package. N is what they use, most often a Node and the package's own object.
type Harness[N any] struct {
	wire       func(t testing.TB, n *Node) N
	migrations []db.Migrations
}

var config = rooms.Config{DefaultVersion: "12", EventCache: 1000, MaxCreateUsers: 100}

// NewHarness makes the harness of a package. wire adds the package to a node and calls Serve. sets are the tables of the
// package, and of those that it stands on beside accounts and rooms.
func NewHarness[N any](wire func(t testing.TB, n *Node) N, sets ...db.Migrations) Harness[N] {
	return Harness[N]{wire, append([]db.Migrations{lease.Migrations(), accounts.Migrations(), rooms.Migrations()}, sets...)}
}

// Run runs body with a process that is alone, on SQLite and on PostgreSQL.
func (h Harness[N]) Run(t *testing.T, body func(t *testing.T, n N)) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) { body(t, h.alone(t, d)) }, h.migrations...)
}

func (h Harness[N]) alone(t testing.TB, d *db.DB) N {
	t.Helper()
	p := roletest.New(t, d)
	n := h.wire(t, New(t, p, config))
	roletest.Start(t, p)
	return n
}

// Fleet runs body with two processes on one database, on SQLite and on PostgreSQL, once each owns half of the shards.
func (h Harness[N]) Fleet(t *testing.T, body func(t *testing.T, one, two N, stopTwo func())) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		clock := obs.NewClock(time.Now())
		one, two, stopTwo := roletest.Two(t, d, func(p *role.Process) N {
			n := New(t, p, config)
			n.Clock = clock
			return h.wire(t, n)
		})
		body(t, one, two, stopTwo)
	}, h.migrations...)
}

// Serve makes HTTP a client of rooms and of some more routes.
func (n *Node) Serve(t testing.TB, routes ...web.Route) {
	t.Helper()
	n.routes = append(n.Rooms.Routes(), routes...)
	n.HTTP = webtest.New(t, n.People, n.routes...)
}

// Room makes a room with members and returns its id.
func (n *Node) Room(t testing.TB, owner string, others ...string) string {
	t.Helper()
	id := n.HTTP.As(owner).Want(200, "POST "+API+"/createRoom", obj{"preset": "public_chat"}).Get("room_id").String()
	for _, o := range others {
		n.HTTP.As(o).Want(200, "POST "+API+"/join/"+url.PathEscape(id), obj{})
	}
	return id
}

var transactions atomic.Int64

// Say sends a text with more members of its content, and returns the event's id.
func (n *Node) Say(t testing.TB, who, room, text string, more ...obj) string {
	t.Helper()
	content := obj{"msgtype": "m.text", "body": text}
	for _, m := range more {
		maps.Copy(content, m)
	}
	transaction := strconv.FormatInt(transactions.Add(1), 10)
	return n.HTTP.As(who).
		Want(200, "PUT "+API+"/rooms/"+url.PathEscape(room)+"/send/m.room.message/"+transaction, content).
		Get("event_id").
		String()
}
