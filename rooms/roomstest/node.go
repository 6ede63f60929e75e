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
	Clock    *obs.Clock     // stands still; the processes of a fleet share it
	People   webtest.People // tokens are the names
	HTTP     *webtest.Client
	routes   []web.Route
}

func newNode(t testing.TB, p *role.Process, clock *obs.Clock) *Node {
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
	r, err := rooms.New(rooms.Deps{Process: p, Accounts: a, ServerName: Server, Key: key}, rooms.Config{DefaultVersion: "12", EventCache: 1000, MaxCreateUsers: 100})
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{Process: p, Rooms: r, Accounts: a, Clock: clock, People: webtest.People{}}
	for _, name := range []string{"alice", "bob", "carol", "dave"} {
		n.People[name] = &web.Identity{UserID: "@" + name + ":" + Server, DeviceID: "D-" + name}
	}
	return n
}

// Wire adds the package under test to a node. It calls Serve, and returns what the tests of the package use.
type Wire[N any] func(t testing.TB, n *Node) N

func migrations(sets []db.Migrations) []db.Migrations {
	return append([]db.Migrations{lease.Migrations(), accounts.Migrations(), rooms.Migrations()}, sets...)
}

// Run runs body with a process that is alone, on SQLite and on PostgreSQL.
func Run[N any](t *testing.T, wire Wire[N], body func(t *testing.T, n N), sets ...db.Migrations) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) { body(t, alone(t, d, wire)) }, migrations(sets)...)
}

func alone[N any](t testing.TB, d *db.DB, wire Wire[N]) N {
	t.Helper()
	p := roletest.New(t, d)
	n := wire(t, newNode(t, p, obs.NewClock(time.Now())))
	roletest.Start(t, p)
	return n
}

// Fleet runs body with two processes on one database, on SQLite and on PostgreSQL, once each owns half of the shards.
func Fleet[N any](t *testing.T, wire Wire[N], body func(t *testing.T, one, two N, stopTwo func()), sets ...db.Migrations) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		clock := obs.NewClock(time.Now())
		one, two, stopTwo := roletest.Two(t, d, func(p *role.Process) N { return wire(t, newNode(t, p, clock)) })
		body(t, one, two, stopTwo)
	}, migrations(sets)...)
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
	return n.HTTP.As(who).Want(200, "PUT "+API+"/rooms/"+url.PathEscape(room)+"/send/m.room.message/"+transaction, content).Get("event_id").String()
}
