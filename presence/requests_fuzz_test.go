package presence

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
	f.Add("@alice:here.test", []byte(`{"presence":"online","status_msg":"here"}`))
	f.Add("@alice:here.test", []byte(`{"presence":"unavailable","status_msg":null}`))
	f.Add("@alice:here.test", []byte(`{"presence":"offline","status_msg":7}`))
	f.Add("@alice:here.test", []byte(`{"presence":"asleep"}`))
	f.Add("@bob:here.test", []byte(`{"presence":"online"}`))
	f.Fuzz(func(t *testing.T, user string, body []byte) {
		at := api + "/presence/" + url.PathEscape(user) + "/status"
		a := n.ask(t, "PUT "+at, body)
		if a.Status == 200 && user != "@alice:here.test" {
			t.Fatalf("alice is present as %q", user)
		}
		n.ask(t, "GET "+at, nil)
	})
}
