package presence

import (
	"net/url"
	"testing"

	"lyceum/rooms/roomstest"
)

func FuzzRequests(f *testing.F) {
	n := harness.Fuzzed(f)
	f.Add("@alice:here.test", []byte(`{"presence":"online","status_msg":"here"}`))
	f.Add("@alice:here.test", []byte(`{"presence":"unavailable","status_msg":null}`))
	f.Add("@alice:here.test", []byte(`{"presence":"offline","status_msg":7}`))
	f.Add("@alice:here.test", []byte(`{"presence":"asleep"}`))
	f.Add("@bob:here.test", []byte(`{"presence":"online"}`))
	f.Fuzz(func(t *testing.T, user string, body []byte) {
		at := roomstest.API + "/presence/" + url.PathEscape(user) + "/status"
		a := n.FuzzRequest(t, "alice", "PUT "+at, body)
		if a.Status == 200 && user != "@alice:here.test" {
			t.Fatalf("alice is present as %q", user)
		}
		n.FuzzRequest(t, "alice", "GET "+at, nil)
	})
}
