package connect

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lyceum/fleet"
)

// TestAProcessThatDoesNotAnswer is waited for aloud and not for ever; who asked for a change is told that it may have been made.
func TestAProcessThatDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	c := &fleet.Config{Server: fleet.ServerConfig{Data: dir}}
	l, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ends" {
			panic(http.ErrAbortHandler)
		}
		<-end
	}))
	s.Listener = l
	s.Start()
	defer s.Close()
	defer close(end)
	control := Running(c)
	var printed bytes.Buffer
	control.reportAfter, control.limit, control.messages = 20*time.Millisecond, 200*time.Millisecond, &printed
	for _, x := range []struct{ method, path, want string }{
		{"GET", "/frozen", "did not answer within 200ms"},
		{"POST", "/frozen", "not known: look with lyceum user list"},
		{"GET", "/ends", "ended before it answered: try again"},
		{"POST", "/ends", "not known: look with lyceum user list"},
	} {
		var out string
		if err := control.Call(t.Context(), x.method, x.path, nil, &out); err == nil || !strings.Contains(err.Error(), x.want) ||
			!strings.Contains(err.Error(), dir) {
			t.Errorf("%s %s: %v", x.method, x.path, err)
		}
	}
	if n := strings.Count(printed.String(), "has not answered for 20ms"); n != 2 {
		t.Errorf("it said: %s", printed.String())
	}
}
