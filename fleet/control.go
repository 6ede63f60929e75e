package fleet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// controlClient speaks to the process that runs over the same data directory.
type controlClient struct{ http *http.Client }

func controlPath(c *Config) string { return filepath.Join(c.Server.Data, "control.sock") }

// control is nil when no process with the same database runs over the data directory.
func control(c *Config) *controlClient {
	path := controlPath(c)
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil
	}
	_ = conn.Close() // it was only to see whether a process listens
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	client := &controlClient{&http.Client{Transport: &http.Transport{DialContext: dial}}}
	if c.embedded() {
		return client
	}
	ctx, cancel := context.WithTimeout(context.Background(), controlWait)
	defer cancel()
	var database string
	if err := client.call(ctx, http.MethodGet, "/database", nil, &database); err != nil || database != c.databasePrint() {
		return nil
	}
	return client
}

// controlWait is how long a process is waited for that may be of a version without an answer.
const controlWait = 5 * time.Second

// databasePrint tells two addresses of databases apart without telling them.
func (c *Config) databasePrint() string {
	sum := sha256.Sum256([]byte("lyceum database\x00" + c.databaseURL()))
	return hex.EncodeToString(sum[:])
}

// call sends body as JSON and reads the answer into out.
func (c *controlClient) call(ctx context.Context, method, path string, body, out any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://control"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		return errors.New(string(said))
	}
	return json.NewDecoder(res.Body).Decode(out)
}

// serveControl answers the command line on a socket in the data directory, which only its owner can open.
func (p *Process) serveControl() (stop func(), err error) {
	path, level := controlPath(p.config), slog.LevelWarn
	if !p.config.embedded() { // others may be reached
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
	users := &Users{accounts: p.domains.accounts, rooms: p.domains.rooms, server: p.config.Server.Name}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) } // the command line is gone if this fails
	mux.HandleFunc("POST /users", func(w http.ResponseWriter, r *http.Request) {
		var req userRequest
		var a userAnswer
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&req)
		if err == nil && req.Server != "" {
			asked := *p.config
			asked.Server.Name = req.Server
			err = asked.takeName(p.config.Server.Name)
		}
		if err == nil {
			a.Text, err = users.do(r.Context(), req)
		}
		if err != nil {
			a.Error = err.Error()
		}
		answer(w, a)
	})
	mux.HandleFunc("GET /database", func(w http.ResponseWriter, _ *http.Request) { answer(w, p.config.databasePrint()) })
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { answer(w, p.Status(r.Context())) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: nil}
	go func() { _ = server.Serve(l) }() // ends with Close
	return func() { _ = server.Close() }, nil
}
