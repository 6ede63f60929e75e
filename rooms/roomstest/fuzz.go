package roomstest

import (
	"fmt"
	"path/filepath"
	"testing"

	"lyceum/platform/db/dbtest"
	"lyceum/platform/web/webtest"
)

// Fuzzed is a process on SQLite whose clock stands still, so that it writes only what requests ask for.
func (h Harness[N]) Fuzzed(f *testing.F) N {
	f.Helper()
	return h.alone(f, dbtest.Open(f, "sqlite:"+filepath.Join(f.TempDir(), "fuzz.db"), h.migrations...))
}

// FuzzRequest sends a request as somebody and fails when the server does, or when what it refuses changes something.
func (n *Node) FuzzRequest(t *testing.T, who, target string, body []byte) webtest.Answer {
	t.Helper()
	before := n.written(t)
	a := webtest.New(t, n.People, n.routes...).As(who).Call(target, body)
	if a.Status >= 500 {
		t.Fatalf("%s %q: %d %s", target, body, a.Status, a.Body)
	}
	if after := n.written(t); a.Status >= 400 && before != after {
		t.Fatalf("%s %q was refused with %d %s, and changed %s to %s", target, body, a.Status, a.Body, before, after)
	}
	return a
}

// written are the positions of all streams, through which all writes go but one: which rooms are in the directory.
func (n *Node) written(t *testing.T) string {
	t.Helper()
	out := ""
	for _, st := range n.Process.Streams.All() {
		out += fmt.Sprint(st.Name(), st.Positions())
	}
	listed, err := n.Rooms.PublicRooms(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out + fmt.Sprint(listed)
}
