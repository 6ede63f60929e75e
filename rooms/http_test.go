package rooms

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"lyceum/platform/role"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
)

type obj = map[string]any

// person calls the routes as one user.
type person struct {
	*webtest.Client
	t  *testing.T
	id string
}

// house is a server with its people.
type house struct {
	*Rooms
	t                 *testing.T
	alice, bob, carol *person
	nobody            *webtest.Client
	people            webtest.People
}

func (h *house) person(c *webtest.Client, name string) *person {
	return &person{c.As(name), h.t, "@" + name + ":" + server}
}

// serve runs body with the routes on both engines.
func serve(t *testing.T, body func(t *testing.T, h *house)) {
	run(t, func(t *testing.T, _ *role.Process, r *Rooms) {
		people := webtest.People{}
		for _, name := range []string{"alice", "bob", "carol"} {
			people[name] = &web.Identity{UserID: "@" + name + ":" + server, DeviceID: strings.ToUpper(name)}
		}
		people["alice2"] = &web.Identity{UserID: "@alice:" + server, DeviceID: "ALICE2"}
		people["guest"] = &web.Identity{UserID: "@guest:" + server, DeviceID: "GUEST", Guest: true}
		people["admin"] = &web.Identity{UserID: "@admin:" + server, DeviceID: "ADMIN", Admin: true}
		c := webtest.New(t, people, r.Routes()...)
		h := &house{Rooms: r, t: t, nobody: c, people: people}
		h.alice, h.bob, h.carol = h.person(c, "alice"), h.person(c, "bob"), h.person(c, "carol")
		body(t, h)
	})
}

func esc(s string) string { return url.PathEscape(s) }

func (p *person) create(body obj) string {
	p.t.Helper()
	if body == nil {
		body = obj{}
	}
	return p.Want(200, "POST /_matrix/client/v3/createRoom", body).Get("room_id").String()
}

// at is the address of something in a room.
func at(method, id, rest string) string {
	return method + " /_matrix/client/v3/rooms/" + esc(id) + "/" + rest
}

func at1(method, id, rest string) string {
	return method + " /_matrix/client/v1/rooms/" + esc(id) + "/" + rest
}

var txnCount int

func (p *person) send(roomID, typ string, content obj) string {
	p.t.Helper()
	txnCount++
	return p.Want(200, at("PUT", roomID, fmt.Sprintf("send/%s/t%d", esc(typ), txnCount)), content).Get("event_id").String()
}

func (p *person) say(roomID, text string) string {
	p.t.Helper()
	return p.send(roomID, "m.room.message", obj{"msgtype": "m.text", "body": text})
}

func (p *person) state(roomID, typ, key string, content obj) string {
	p.t.Helper()
	return p.Want(200, at("PUT", roomID, "state/"+esc(typ)+"/"+esc(key)), content).Get("event_id").String()
}

func (p *person) join(roomID string) {
	p.t.Helper()
	p.Want(200, at("POST", roomID, "join"), obj{})
}

func (p *person) leave(roomID string) {
	p.t.Helper()
	p.Want(200, at("POST", roomID, "leave"), nil)
}

func (p *person) invite(roomID, user string) {
	p.t.Helper()
	p.Want(200, at("POST", roomID, "invite"), obj{"user_id": user})
}

// refused checks that a call gives an error.
func (p *person) refused(status int, code, target string, body any) {
	p.t.Helper()
	a := p.Call(target, body)
	if a.Status != status || a.Errcode() != code {
		p.t.Fatalf("%s: expected %d %s, found %d %s", target, status, code, a.Status, a.Body)
	}
}

// bodies are the texts of all messages that a user sees, the oldest first.
func (p *person) bodies(roomID string) (out []string) {
	p.t.Helper()
	from := ""
	for {
		a := p.Want(200, at("GET", roomID, "messages?dir=f&limit=3"+from), nil)
		for _, e := range a.Get("chunk").Array() {
			if b := e.Get("content.body"); b.Exists() {
				out = append(out, b.String())
			}
		}
		if !a.Get("end").Exists() {
			return out
		}
		from = "&from=" + a.Get("end").String()
	}
}

func TestTalk(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "private_chat", "name": "Room"})
		h.bob.refused(403, "M_FORBIDDEN", at("POST", id, "join"), obj{})
		h.alice.invite(id, h.bob.id)
		h.bob.join(id)
		first := h.bob.say(id, "one")
		a := h.bob.Want(200, at("GET", id, "event/"+esc(first)), nil)
		if a.Get("unsigned.transaction_id").String() == "" || a.Get("room_id").String() != id || a.Get("unsigned.membership").String() != "join" {
			t.Fatalf("%s", a.Body)
		}
		if a := h.alice.Want(200, at("GET", id, "event/"+esc(first)), nil); a.Get("unsigned.transaction_id").Exists() {
			t.Fatalf("%s", a.Body)
		}
		h.carol.refused(404, "M_NOT_FOUND", at("GET", id, "event/"+esc(first)), nil)
		h.carol.refused(403, "M_FORBIDDEN", at("GET", id, "messages?dir=b"), nil)
		h.carol.refused(403, "M_FORBIDDEN", at("GET", id, "state"), nil)
		h.carol.refused(403, "M_FORBIDDEN", at("GET", id, "state/m.room.name"), nil)
		h.carol.refused(403, "M_FORBIDDEN", at("GET", id, "members"), nil)
		h.carol.refused(403, "M_FORBIDDEN", at("PUT", id, "send/m.room.message/x"), obj{"body": "x"})
		if got := h.bob.Want(200, at("GET", id, "state/m.room.name/"), nil).Get("name").String(); got != "Room" {
			t.Fatal(got)
		}
		h.alice.Want(200, at("PUT", id, "redact/"+esc(first)+"/r1"), obj{"reason": "why"})
		a = h.bob.Want(200, at("GET", id, "event/"+esc(first)), nil)
		if a.Get("unsigned.redacted_because.content.reason").String() != "why" || a.Get("content.body").Exists() {
			t.Fatalf("%s", a.Body)
		}
		h.bob.say(id, "two")
		h.bob.leave(id)
		h.alice.say(id, "three")
		if got := fmt.Sprint(h.bob.bodies(id)); got != "[two]" {
			t.Fatal(got)
		}
		if got := fmt.Sprint(h.alice.bodies(id)); got != "[two three]" {
			t.Fatal(got)
		}
	})
}
