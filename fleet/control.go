package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// DatabaseFingerprint tells two addresses of databases apart without telling them.
func (c *Config) DatabaseFingerprint() string {
	sum := sha256.Sum256([]byte("lyceum database\x00" + c.DatabaseURL()))
	return hex.EncodeToString(sum[:])
}

// HandleControl adds a request that the process answers on its control socket, beside those for its status and its database. It is
// called between Open and Run.
func (p *Process) HandleControl(pattern string, handler http.HandlerFunc) {
	p.control.HandleFunc(pattern, handler)
}

// serveControl answers the command line on a socket in the data directory, which only its owner can open.
func (p *Process) serveControl() (stop func(), err error) {
	path, level := p.config.ControlSocket(), slog.LevelWarn
	if !p.config.Embedded() { // others may be reached
		level = slog.LevelDebug
		if conn, err := net.Dial("unix", path); err == nil {
			return func() {}, conn.Close() // another process has the same directory
		}
	}
	_ = os.Remove(path) // of a process that was killed
	l, err := net.Listen("unix", path)
	if err != nil {
		p.process.Log.Log(context.Background(), level, "the command line can not reach this process", "error", err)
		return func() {}, nil // a path that is too long for a socket is no reason not to serve
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	answer := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) } // the command line is gone if this fails
	p.HandleControl("GET /database", func(w http.ResponseWriter, _ *http.Request) { answer(w, p.config.DatabaseFingerprint()) })
	p.HandleControl("GET /status", func(w http.ResponseWriter, r *http.Request) { answer(w, p.Status(r.Context())) })
	server := &http.Server{Handler: p.control, ReadHeaderTimeout: 10 * time.Second, ErrorLog: nil}
	go func() { _ = server.Serve(l) }() // ends with Close
	return func() { _ = server.Close() }, nil
}
