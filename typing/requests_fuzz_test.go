package typing

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
	f.Add(room, "@alice:here.test", []byte(`{"typing":true,"timeout":30000}`))
	f.Add(room, "@alice:here.test", []byte(`{"typing":false}`))
	f.Add(room, "@alice:here.test", []byte(`{"typing":true,"timeout":-1}`))
	f.Add(room, "@alice:here.test", []byte(`{"typing":true,"timeout":9223372036854775807}`))
	f.Add(room, "@alice:here.test", []byte(`{"typing":1}`))
	f.Add(room, "@bob:here.test", []byte(`{"typing":true}`))
	f.Add("!none", "@alice:here.test", []byte(`{"typing":true}`))
	f.Fuzz(func(t *testing.T, in, user string, body []byte) {
		a := n.ask(t, "PUT "+api+"/rooms/"+url.PathEscape(in)+"/typing/"+url.PathEscape(user), body)
		if a.Status == 200 && (in != room || user != "@alice:here.test") {
			t.Fatalf("alice types in %q as %q", in, user)
		}
	})
}
