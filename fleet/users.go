package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/role"
)

// Users is what the command line does with users: through the process that runs over the same data
// directory, or, where none runs or in a fleet, as a process of its own without roles.
type Users struct {
	accounts *accounts.Accounts
	server   string
	remote   *http.Client // to the control socket of the running process; nil when there is none
}

// userRequest is one wish, as the control socket takes it.
type userRequest struct {
	Op       string `json:"op"` // add, passwd, token
	Name     string `json:"name"`
	Password string `json:"password,omitempty"`
	Admin    bool   `json:"admin,omitempty"`
}

type userAnswer struct {
	Text  string `json:"text"`
	Error string `json:"error,omitempty"`
}

// WithUsers gives fn the users of the server that a configuration describes.
func WithUsers(ctx context.Context, c *Config, fn func(*Users) error) error {
	if c.embedded() {
		path := controlPath(c)
		if conn, err := net.Dial("unix", path); err == nil {
			_ = conn.Close() // it was only to see whether a process listens
			dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", path)
			}
			return fn(&Users{remote: &http.Client{Transport: &http.Transport{DialContext: dial}}, server: c.Server.Name})
		}
	}
	// A process like the others, which takes no requests; over PostgreSQL it has no role and calls the owners.
	c.Server.Listen = ""
	c.Obs.LogLevel = "warn"
	if !c.embedded() {
		c.Fleet.Roles, c.Fleet.MachineID = []string{role.NoRole}, "auto"
	}
	p, err := Open(ctx, c)
	if err != nil {
		return err
	}
	defer p.close()
	work, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.process.Run(work) }) // what fails shows in fn
	defer wg.Wait()
	defer stop()
	if err := p.waitShards(ctx); err != nil {
		return err
	}
	return fn(&Users{accounts: p.domains.accounts, server: c.Server.Name})
}

// Add makes a user and returns the id.
func (u *Users) Add(ctx context.Context, name, password string, admin bool) (userID string, err error) {
	return u.do(ctx, userRequest{Op: "add", Name: name, Password: password, Admin: admin})
}

// SetPassword sets a password and ends the user's sessions.
func (u *Users) SetPassword(ctx context.Context, name, password string) error {
	_, err := u.do(ctx, userRequest{Op: "passwd", Name: name, Password: password})
	return err
}

// Token gives a fresh access token.
func (u *Users) Token(ctx context.Context, name string) (string, error) {
	return u.do(ctx, userRequest{Op: "token", Name: name})
}

func (u *Users) do(ctx context.Context, r userRequest) (string, error) {
	if u.remote != nil {
		return u.ask(ctx, r)
	}
	id := r.Name
	if !strings.HasPrefix(id, "@") {
		id = "@" + id + ":" + u.server
	}
	if r.Op == "add" {
		return u.accounts.CreateUser(ctx, accounts.NewUser{Name: r.Name, Password: r.Password, Admin: r.Admin})
	}
	ok, err := u.accounts.Exists(ctx, id)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", errors.New("there is no user " + id)
	}
	switch r.Op {
	case "passwd":
		return id, u.accounts.SetPassword(ctx, id, r.Password, true, "")
	case "token":
		token, _, err := u.accounts.IssueToken(ctx, id, "command line")
		return token, err
	}
	return "", fmt.Errorf("unknown wish %q", r.Op)
}

func (u *Users) ask(ctx context.Context, r userRequest) (string, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/users", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	res, err := u.remote.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	var a userAnswer
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		return "", err
	}
	if a.Error != "" {
		return "", errors.New(a.Error)
	}
	return a.Text, nil
}

func controlPath(c *Config) string { return filepath.Join(c.Server.Data, "control.sock") }

// serveControl answers the command line on a socket in the data directory, which only its owner can open.
func (p *Process) serveControl() (stop func(), err error) {
	if !p.config.embedded() {
		return func() {}, nil
	}
	path := controlPath(p.config)
	_ = os.Remove(path) // of a process that was killed; the lock says that none runs
	l, err := net.Listen("unix", path)
	if err != nil {
		p.process.Log.Warn("the command line can not reach this process", "error", err)
		return func() {}, nil // a path that is too long for a socket is no reason not to serve
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	users := &Users{accounts: p.domains.accounts, server: p.config.Server.Name}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /users", func(w http.ResponseWriter, r *http.Request) {
		var req userRequest
		var a userAnswer
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&req)
		if err == nil {
			a.Text, err = users.do(r.Context(), req)
		}
		if err != nil {
			a.Error = err.Error()
			if m := matrix.AsError(err); m.Code != matrix.CodeUnknown {
				a.Error = m.Message
			}
		}
		_ = json.NewEncoder(w).Encode(a) // the command line is gone if this fails
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: nil}
	go func() { _ = server.Serve(l) }() // ends with Close
	return func() { _ = server.Close() }, nil
}
