package receipts

import (
	"fmt"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"lyceum/accounts"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web/webtest"
	"lyceum/rooms"
)

// fuzzed is a process on SQLite whose clock stands still, so that it writes only what requests ask for.
func fuzzed(f *testing.F) *node {
	f.Helper()
	d := dbtest.Open(f, "sqlite:"+filepath.Join(f.TempDir(), "fuzz.db"), lease.Migrations(), accounts.Migrations(), rooms.Migrations(), Migrations())
	p := roletest.New(f, d)
	n := wire(f, p, obs.NewClock(time.Now()))
	roletest.Start(f, p)
	return n
}

// ask sends a request as alice and fails when the server does, or when what it refuses changes something.
func (n *node) ask(t *testing.T, target string, body []byte) webtest.Answer {
	t.Helper()
	before := n.written()
	a := webtest.New(t, n.people, n.Routes()...).As("alice").Call(target, body)
	if a.Status >= 500 {
		t.Fatalf("%s %q: %d %s", target, body, a.Status, a.Body)
	}
	if after := n.written(); a.Status >= 400 && before != after {
		t.Fatalf("%s %q was refused with %d %s, and changed %s to %s", target, body, a.Status, a.Body, before, after)
	}
	return a
}

// written are the positions of all streams: every write of the package goes through one.
func (n *node) written() string {
	out := ""
	for _, st := range n.p.Streams.All() {
		out += fmt.Sprint(st.Name(), st.Positions())
	}
	return out
}

func FuzzRequests(f *testing.F) {
	n := fuzzed(f)
	room := n.room(f, "alice", "bob")
	root := n.say(f, "bob", room, "one")
	n.say(f, "bob", room, "two", obj{"m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
	foreign := n.say(f, "bob", n.room(f, "bob"), "elsewhere")
	events := []string{root, foreign, "$none", ""}
	f.Add(uint8(0), "m.read", uint8(0), []byte(`{}`))
	f.Add(uint8(0), "m.read.private", uint8(0), []byte(`{"thread_id":"main"}`))
	f.Add(uint8(0), "m.read", uint8(1), []byte(`{"thread_id":7}`))
	f.Add(uint8(0), "m.fully_read", uint8(2), []byte(``))
	f.Add(uint8(1), "", uint8(0), []byte(`{"m.fully_read":"$x","m.read":"`+root+`","m.read.private":null}`))
	f.Add(uint8(1), "", uint8(0), []byte(`{"m.fully_read":"`+root+`","m.read":"$none"}`))
	f.Fuzz(func(t *testing.T, op uint8, typ string, event uint8, body []byte) {
		at := api + "/rooms/" + url.PathEscape(room)
		if op%2 == 0 {
			n.ask(t, "POST "+at+"/receipt/"+url.PathEscape(typ)+"/"+url.PathEscape(events[int(event)%len(events)]), body)
		} else {
			n.ask(t, "POST "+at+"/read_markers", body)
		}
	})
}
