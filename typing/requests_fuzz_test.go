package typing

import (
	"net/url"
	"testing"

	"lyceum/rooms/roomstest"
)

func FuzzRequests(f *testing.F) {
	n := harness.Fuzzed(f)
	room := n.Room(f, "alice", "bob")
	f.Add(room, "@alice:here.test", []byte(`{"typing":true,"timeout":30000}`))
	f.Add(room, "@alice:here.test", []byte(`{"typing":false}`))
	f.Add(room, "@alice:here.test", []byte(`{"typing":true,"timeout":-1}`))
	f.Add(room, "@alice:here.test", []byte(`{"typing":true,"timeout":9223372036854775807}`))
	f.Add(room, "@alice:here.test", []byte(`{"typing":1}`))
	f.Add(room, "@bob:here.test", []byte(`{"typing":true}`))
	f.Add("!none", "@alice:here.test", []byte(`{"typing":true}`))
	f.Fuzz(func(t *testing.T, in, user string, body []byte) {
		a := n.FuzzRequest(t, "alice", "PUT "+roomstest.API+"/rooms/"+url.PathEscape(in)+"/typing/"+url.PathEscape(user), body)
		if a.Status == 200 && (in != room || user != "@alice:here.test") {
			t.Fatalf("alice types in %q as %q", in, user)
		}
	})
}
