package syncapi

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/accounts"
	"lyceum/devices"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
	"lyceum/presence"
	"lyceum/push"
	"lyceum/receipts"
	"lyceum/rooms"
	"lyceum/rooms/roomstest"
	"lyceum/typing"
)

const (
	api    = roomstest.API
	server = roomstest.Server
)

type obj = map[string]any

// testNode is a process with all domains that /sync reads.
type testNode struct {
	*Sync
	node       *roomstest.Node
	routes     []web.Route
	http       *webtest.Client
	statements *atomic.Int64 // sent to the database; nil on engines that are not counted
}

var names = []string{"alice", "bob", "carol", "dave", "erin"}

func id(name string) string { return "@" + name + ":" + server }

func wire(t testing.TB, p *role.Process, users ...string) *testNode {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	on := roomstest.New(t, p, rooms.Config{DefaultVersion: "12", EventCache: 5000, MaxCreateUsers: 1000})
	a, r := on.Accounts, on.Rooms
	x, err := devices.New(devices.Deps{Process: p, Accounts: a, Now: obs.Now, SharedRooms: r}, devices.Config{})
	must(err)
	d := Deps{
		Process:  p,
		Accounts: a,
		Devices:  x,
		Rooms:    r,
		Receipts: receipts.New(receipts.Deps{Process: p, Accounts: a, Rooms: r}),
		Typing:   typing.New(typing.Deps{Process: p, Rooms: r}),
	}
	d.Presence = presence.New(presence.Deps{Process: p, Rooms: r}, presence.Config{Enabled: true, OfflineAfter: conf.Duration(time.Hour)})
	d.Push, err = push.New(push.Deps{Process: p, Accounts: a, Rooms: r, Receipts: d.Receipts}, push.Config{CountCache: 10_000})
	must(err)
	h := &testNode{Sync: New(d, Config{Window: 20, MaxTimeout: 90})}
	h.layout.SelfDescribing = !p.DB.Postgres() // so that tests run with both forms of tokens
	for _, name := range append(users, names...) {
		on.People[name] = &web.Identity{UserID: id(name), DeviceID: strings.ToUpper(name)}
		on.People[name+"2"] = &web.Identity{UserID: id(name), DeviceID: strings.ToUpper(name) + "2"}
	}
	more := slices.Concat(a.Routes(), x.Routes(), d.Receipts.Routes(), d.Typing.Routes(), d.Presence.Routes(), d.Push.Routes(), h.Routes())
	on.Serve(t, more...)
	h.node, h.http, h.routes = on, on.HTTP, slices.Concat(r.Routes(), more)
	return h
}

func migrations() []db.Migrations {
	return []db.Migrations{
		lease.Migrations(), accounts.Migrations(), rooms.Migrations(), devices.Migrations(), receipts.Migrations(),
		typing.Migrations(), presence.Migrations(), push.Migrations(),
	}
}

// run runs body on a fresh database of each engine.
func run(t *testing.T, body func(t *testing.T, h *testNode)) {
	t.Helper()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) { body(t, open(t, engine)) })
	}
}

func open(t testing.TB, engine string, users ...string) *testNode {
	t.Helper()
	target := "sqlite:" + filepath.Join(t.TempDir(), "test.db")
	if engine == "postgres" {
		target = enginestest.TestPostgres(t)
	}
	return start(t, target, users...)
}

// start runs a process on a database.
func start(t testing.TB, target string, users ...string) *testNode {
	t.Helper()
	return startAs(t, target, nil, users...)
}

// startAs is start with some roles only.
func startAs(t testing.TB, target string, roles []string, users ...string) *testNode {
	t.Helper()
	var n atomic.Int64
	d, err := db.Open(context.Background(), target, db.Options{Observe: func(k int) { n.Add(int64(k)) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := db.Migrate(context.Background(), d, slog.New(slog.DiscardHandler), migrations()...); err != nil {
		t.Fatal(err)
	}
	p := roletest.New(t, d, roles...)
	h := wire(t, p, users...)
	h.statements = &n
	roletest.Start(t, p)
	return h
}

// client is a device that keeps its token.
type client struct {
	*webtest.Client
	t     testing.TB
	since string
}

func (h *testNode) as(t testing.TB, name string) *client {
	return &client{Client: h.http.As(name), t: t}
}

// as is another user's client.
func (c *client) as(name string) *client { return &client{Client: c.As(name), t: c.t} }

// sync asks for news without waiting, and keeps the token of the answer. more are parameters as key and value.
func (c *client) sync(more ...string) webtest.Answer {
	c.t.Helper()
	a := c.peek(more...)
	c.since = a.Get("next_batch").String()
	return a
}

// peek is sync that keeps the old token.
func (c *client) peek(more ...string) webtest.Answer {
	c.t.Helper()
	q := url.Values{}
	if c.since != "" {
		q.Set("since", c.since)
	}
	for i := 0; i < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	a := c.Want(200, "GET "+api+"/sync?"+q.Encode(), nil)
	if !gjson.ValidBytes(a.Body) {
		c.t.Fatalf("not JSON: %s", a.Body)
	}
	return a
}

func at(room, rest string) string { return api + "/rooms/" + url.PathEscape(room) + "/" + rest }

func (c *client) create(body obj) string {
	c.t.Helper()
	return c.Want(200, "POST "+api+"/createRoom", body).Get("room_id").String()
}

func (c *client) do(room, verb string, body obj) {
	c.t.Helper()
	if body == nil {
		body = obj{}
	}
	c.Want(200, "POST "+at(room, verb), body)
}

var txn atomic.Int64

func (c *client) send(room, typ string, content obj) string {
	c.t.Helper()
	return c.Want(200, fmt.Sprintf("PUT %s/%d", at(room, "send/"+typ), txn.Add(1)), content).Get("event_id").String()
}

func (c *client) say(room, text string) string {
	c.t.Helper()
	return c.send(room, "m.room.message", obj{"msgtype": "m.text", "body": text})
}

func (c *client) state(room, typ, key string, content obj) string {
	c.t.Helper()
	return c.Want(200, "PUT "+at(room, "state/"+typ+"/"+url.PathEscape(key)), content).Get("event_id").String()
}

// room makes a room with members.
func (h *testNode) room(t testing.TB, owner string, others ...string) string {
	t.Helper()
	room := h.as(t, owner).create(obj{"preset": "public_chat"})
	for _, o := range others {
		h.as(t, o).do(room, "join", nil)
	}
	return room
}

// in gives a part of a room's section of an answer.
func in(a webtest.Answer, section, room, path string) gjson.Result {
	r := a.Get("rooms." + section).Map()[room]
	if path == "" {
		return r
	}
	return r.Get(path)
}

func bodies(r gjson.Result) (out []string) {
	for _, e := range r.Array() {
		if b := e.Get("content.body"); b.Exists() {
			out = append(out, b.String())
		}
	}
	return out
}
