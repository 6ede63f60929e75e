package users

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"lyceum/accounts"
	"lyceum/fleet"
	"lyceum/matrix"
	"lyceum/ops/connect"
	"lyceum/platform/stream"
	"lyceum/reports"
	"lyceum/rooms"
)

// Users is what the command line does with users: through the process that runs over the same data
// directory, or in a fleet as a process of its own without roles, or, where none runs, as the one that there is.
type Users struct {
	accounts *accounts.Accounts
	reports  *reports.Reports
	rooms    *rooms.Rooms
	server   string
	remote   *connect.Control // to the control socket of the running process; nil when there is none
	Made     bool             // there was no server before
}

// userRequest is one operation, as the control socket takes it.
type userRequest struct {
	Op       string `json:"op"` // a name in here
	Name     string `json:"name"`
	Password string `json:"password,omitempty"`
	Admin    bool   `json:"admin,omitempty"`
	Erase    bool   `json:"erase,omitempty"`
	Force    bool   `json:"force,omitempty"`  // also if no administrator is left
	Server   string `json:"server,omitempty"` // the name of the server that is meant, if it was given

	Uses    int64         `json:"uses,omitempty"`    // of a registration token, 0 without end
	Expires time.Duration `json:"expires,omitempty"` // of a registration token, from now; 0 for never
	After   string        `json:"after,omitempty"`   // of a list: what was the last of the page before
	Limit   int           `json:"limit,omitempty"`
}

type userAnswer struct {
	Text  string `json:"text"`
	Error string `json:"error,omitempty"`
}

// WithUsers gives fn the users of the server that a configuration describes. Where there is none, makes allows to make
// one whose name is given.
func WithUsers(ctx context.Context, c *fleet.Config, makes bool, fn func(*Users) error) error {
	return connect.WithEngines(ctx, c, func() error { return withUsers(ctx, c, makes, fn) })
}

func withUsers(ctx context.Context, c *fleet.Config, makes bool, fn func(*Users) error) error {
	m := fleet.MustExist
	if makes {
		m = fleet.CreateNamed
	}
	if remote := connect.Running(c); remote != nil {
		return fn(&Users{remote: remote, server: c.Server.Name})
	}
	made := false
	here := func(p *fleet.Process) error {
		made = made || p.Created()
		return fn(&Users{accounts: p.Accounts(), reports: p.Reports(), rooms: p.Rooms(), server: c.Server.Name, Made: made})
	}
	err := fleet.AsMember(ctx, c, m, func(p *fleet.Process) error {
		if !c.Embedded() && p.IsOnlyMember() {
			made = p.Created()
			return errNobodyServes
		}
		return here(p)
	})
	if errors.Is(err, errNobodyServes) || errors.Is(err, stream.ErrNotOwner) { // or the last process has just ended
		err = fleet.AsOnlyMember(ctx, c, m, here)
	}
	if errors.Is(err, fleet.ErrDatabaseInUse) || errors.Is(err, fleet.ErrDataInUse) { // a process that was just starting
		if remote := connect.Running(c); remote != nil {
			return fn(&Users{remote: remote, server: c.Server.Name})
		}
	}
	return err
}

// errNobodyServes says that no process does what others ask for: whoever wants it does it.
var errNobodyServes = errors.New("no process serves")

// Add makes a user and returns the id.
func (u *Users) Add(ctx context.Context, name, password string, admin bool) (userID string, err error) {
	return u.request(ctx, userRequest{Op: "add", Name: name, Password: password, Admin: admin})
}

// SetPassword sets a password and ends the user's sessions.
func (u *Users) SetPassword(ctx context.Context, name, password string) error {
	_, err := u.request(ctx, userRequest{Op: "passwd", Name: name, Password: password})
	return err
}

// Token gives a fresh access token.
func (u *Users) Token(ctx context.Context, name string) (string, error) {
	return u.request(ctx, userRequest{Op: "token", Name: name})
}

func (u *Users) request(ctx context.Context, r userRequest) (string, error) {
	if u.remote != nil {
		return u.requestRemote(ctx, r)
	}
	answer, err := u.change(ctx, r)
	if err == nil {
		return answer, nil
	}
	if m := matrix.AsError(err); m.Code != matrix.CodeUnknown { // its cause is for the log
		err = errors.New(m.Message)
	}
	return "", err
}

// change executes a request in this process.
func (u *Users) change(ctx context.Context, r userRequest) (string, error) {
	id := r.Name
	if !strings.HasPrefix(id, "@") {
		id = "@" + id + ":" + u.server
	}
	if r.Op == "add" {
		return u.accounts.CreateUser(ctx, accounts.NewUser{Name: r.Name, Password: r.Password, Admin: r.Admin})
	}
	if text, known, err := u.changeServer(ctx, r); known {
		return text, err
	}
	id, err := u.mayChange(ctx, id, r)
	if err != nil {
		return "", err
	}
	switch r.Op {
	case "passwd":
		return id, u.accounts.SetPassword(ctx, id, r.Password, true, "")
	case "token":
		token, _, err := u.accounts.IssueToken(ctx, id, "command line")
		return token, err
	}
	if rights, known := rightsOf[r.Op]; known {
		return id, u.accounts.SetRights(ctx, id, rights)
	}
	if r.Op == opDeactivate {
		return id, u.accounts.Deactivate(ctx, id, r.Erase)
	}
	return "", fmt.Errorf("unknown operation %q: the server is of an older version than this command", r.Op)
}

// mayChange returns the id of the user whom an operation is about, as it is stored. It refuses an operation on a deactivated user,
// and, without r.Force, one that leaves the server without an administrator.
func (u *Users) mayChange(ctx context.Context, id string, r userRequest) (userID string, err error) {
	user, err := u.accounts.User(ctx, id)
	switch {
	case matrix.HasCode(err, matrix.CodeNotFound):
		return "", errors.New("there is no user " + id)
	case err != nil:
		return "", err
	case user.Deactivated && r.Op == opDeactivate && r.Erase && !user.Erased:
		return user.UserID, nil
	case user.Deactivated && r.Op == opDeactivate:
		return "", errors.New(user.UserID + " is deactivated already")
	case user.Deactivated:
		return "", errors.New(user.UserID + " is deactivated: a deactivated account stays so, and its name stays taken")
	}
	if ends := r.Op == "demote" || r.Op == "lock" || r.Op == opDeactivate; !ends || !user.Admin || user.Locked || r.Force {
		return user.UserID, nil
	}
	n, err := u.accounts.Administrators(ctx)
	if err == nil && n < 2 {
		err = errors.New(user.UserID + " is the last administrator of this server: make another one first, with lyceum user promote NAME, " +
			"or add --force")
	}
	return user.UserID, err
}

func (u *Users) requestRemote(ctx context.Context, r userRequest) (string, error) {
	var a userAnswer
	r.Server = u.server
	if err := u.remote.Call(ctx, http.MethodPost, "/users", r, &a); err != nil {
		return "", err
	}
	if a.Error != "" {
		return "", errors.New(a.Error)
	}
	return a.Text, nil
}

// Serve lets a process answer the commands of Users on its control socket.
func Serve(p *fleet.Process) {
	users := &Users{accounts: p.Accounts(), reports: p.Reports(), rooms: p.Rooms(), server: p.ServerName()}
	p.HandleControl("POST /users", func(w http.ResponseWriter, r *http.Request) {
		var request userRequest
		var answer userAnswer
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&request)
		if err == nil && request.Server != "" {
			err = p.CheckServerName(request.Server)
		}
		if err == nil {
			answer.Text, err = users.request(r.Context(), request)
		}
		if err != nil {
			answer.Error = err.Error()
		}
		_ = json.NewEncoder(w).Encode(answer) // the command line is gone if this fails
	})
}
