package syncapi

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"lyceum/platform/web"
)

// sink takes an answer and counts its bytes.
type sink struct {
	header http.Header
	status int
	bytes  int
	last   byte
}

func (s *sink) Header() http.Header    { return s.header }
func (s *sink) WriteHeader(status int) { s.status = status }
func (s *sink) Write(p []byte) (int, error) {
	s.bytes += len(p)
	if len(p) > 0 {
		s.last = p[len(p)-1]
	}
	return len(p), nil
}

// growth returns about how far the heap grows while something is done.
func growth(do func()) int {
	defer debug.SetGCPercent(debug.SetGCPercent(10)) // garbage does not count much
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	stop := heapPeak()
	do()
	return int(stop()) - int(before.HeapAlloc)
}

// The state of a large room is written while it is read: an answer with many members is not several times in memory.
func TestLargeRoomsAreAnsweredInPieces(t *testing.T) {
	target := "sqlite:" + filepath.Join(t.TempDir(), "test.db")
	h := start(t, target)
	room := h.room(t, "alice")
	said := h.as(t, "alice").say(room, "one")
	h.node.AddMembers(t, room, 20_000, 800)
	h = start(t, target)
	server, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler), Authenticator: h.node.People})
	if err != nil {
		t.Fatal(err)
	}
	server.Add(h.routes...)
	ask := func(path string) (*sink, int) {
		s := &sink{header: http.Header{}, status: 200}
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Authorization", "Bearer alice")
		peak := growth(func() { server.Handler().ServeHTTP(s, r) })
		return s, peak
	}
	for _, c := range []struct {
		path string
		per  float64 // the most memory for each byte of the answer
		end  byte
	}{
		{at(room, "state"), 0.5, ']'},
		{at(room, "members"), 0.5, '}'},
		{at(room, "joined_members"), 0.5, '}'},
		{at(room, "context/"+said), 0.5, '}'},
		{api + "/sync?set_presence=offline", 1, '}'},
	} {
		ask(c.path) // fills the memory for nodes and events, which has bounds of its own
		s, peak := ask(c.path)
		if s.status != 200 || s.bytes < 15<<20 || s.last != c.end {
			t.Fatalf("%s: status %d, %d bytes that end with %q", c.path, s.status, s.bytes, s.last)
		}
		t.Logf("%s: %d MiB, memory grew by %d MiB", c.path, s.bytes>>20, peak>>20)
		if float64(peak) > c.per*float64(s.bytes) {
			t.Errorf("%s: memory grew by %d MiB for an answer of %d MiB", c.path, peak>>20, s.bytes>>20)
		}
	}
}
