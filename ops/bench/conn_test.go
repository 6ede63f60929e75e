package bench

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// A server may close a connection that nobody used for a while: a read-back takes minutes.
func TestAnIdleConnectionMayBeClosed(t *testing.T) {
	var closed, asked atomic.Int64
	server := &http.Server{
		IdleTimeout: 20 * time.Millisecond,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			switch r.URL.Path {
			case "/cut":
				w.Header().Set("Content-Length", "100")
				io.WriteString(w, "not all")
			default:
				io.WriteString(w, r.URL.Path)
			}
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed {
				closed.Add(1)
			}
		},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }() // ends with Close
	defer server.Close()
	servers, err := parseServers("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{servers: servers}
	defer c.close()
	for i := range 3 {
		path := fmt.Sprintf("/%d", i)
		if out, err := c.do(t.Context(), "GET", path, nil, time.Minute); err != nil || string(out) != path {
			t.Fatalf("%s, %v", out, err)
		}
		for end := time.Now().Add(30 * time.Second); closed.Load() <= int64(i); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the server keeps the connection")
			}
		}
	}
	// What was not asked for twice: a message, and what the server began to answer.
	if _, err := c.do(t.Context(), "PUT", "/message", []byte("{}"), time.Minute); err == nil {
		t.Error("a message over a closed connection was sent again: it may have been taken")
	}
	before := asked.Load()
	if _, err := c.do(t.Context(), "GET", "/cut", nil, time.Minute); err == nil || asked.Load() != before+1 {
		t.Errorf("a broken answer: %v, asked %d times", err, asked.Load()-before)
	}
}
