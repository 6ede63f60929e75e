package up

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"lyceum/fleet"
)

// ChildState is what lyceum ps shows of a process.
type ChildState struct {
	Name     string    `json:"name"`
	Group    string    `json:"group"`
	PID      int       `json:"pid"`
	Machine  int       `json:"machine"` // -1 until it serves
	Version  string    `json:"version"`
	Address  string    `json:"address"`
	State    string    `json:"state"` // serving, starting, stopped; of a server serving, starting, down
	Since    time.Time `json:"since"`
	Restarts int       `json:"restarts"` // after it ended by itself
	Log      string    `json:"log"`
	Program  string    `json:"program"` // of which it is made, now and when it is started again
}

// State tells how a child is: the process that serves, which is the next one as soon as that does.
func (c *Child) State() ChildState {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, address, program := c.run, c.address, c.program
	serves := c.serving(r)
	if n := c.next; n != nil && !c.gone && c.serving(n) {
		r, address, program, serves = n, n.address, n.program, true
	}
	s := ChildState{
		Name: c.Name, Group: c.Group, PID: r.pid(), Machine: -1, Address: address, State: "starting", Since: r.since,
		Restarts: c.ended, Log: c.logPath(), Program: program,
	}
	if s.PID == 0 || c.gone {
		s.State = "stopped"
	} else if serves {
		s.State, s.Machine, s.Version = "serving", r.file.Machine, r.file.Version
	}
	return s
}

// Restart replaces the process of a child by one of program ("" is the one it has): the new one serves before the old one
// is told to stop, so that nobody notices. When the new one does not come up, the old one stays. A child that is stopped
// or restarted already is left alone.
func (u *Supervisor) Restart(ctx context.Context, c *Child, program string) error {
	address, err := c.freshAddress() // the old process still listens at its own
	if err != nil {
		return err
	}
	next, err := c.startNext(program, address)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(startTime); ; time.Sleep(stepTime) {
		old, err := c.replace(next)
		if err != nil { // it is stopped, and next with it
			return err
		}
		if old != nil {
			old.end(ctx)
			c.mu.Lock()
			c.old = nil
			c.mu.Unlock()
			if err := u.writeAccess(next); err != nil {
				say("%v", err)
			}
			return nil
		}
		if next.hasEnded() || time.Now().After(deadline) || ctx.Err() != nil {
			how := fmt.Sprintf("not after %s", startTime)
			if next.hasEnded() {
				how = howEnded(next.how)
			}
			next.end(ctx)
			c.mu.Lock()
			c.next = nil
			gone, stays := c.gone, c.run.file.Machine
			c.mu.Unlock()
			if gone {
				return c.stopped()
			}
			return fmt.Errorf("the new process of %s does not serve (%s), so the old one stays; its log ends with:\n%s", c.Name, how,
				c.logSince(next.logFrom, stays))
		}
	}
}

// startNext starts the process that is to replace the one of the child.
func (c *Child) startNext(program, address string) (next *run, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil, c.stopped()
	}
	if c.next != nil || c.old != nil {
		return nil, fmt.Errorf("%s is being restarted already: try again when that has ended", c.Name)
	}
	c.serving(c.run) // remembered, as next writes the same file
	if next, err = c.spawn(cmp.Or(program, c.program), address); err == nil {
		c.next = next
	}
	return next, err
}

// replace puts next into its place if it serves, and returns the process that had it, which the caller ends; nil while
// next does not serve.
func (c *Child) replace(next *run) (old *run, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone { // retire ends next
		return nil, c.stopped()
	}
	if !c.serving(next) {
		c.serving(c.run)
		return nil, nil
	}
	c.old, c.run, c.next = c.run, next, nil
	c.program, c.address = next.program, next.address
	close(c.old.left)
	return c.old, nil
}

// maxReplicas is the largest number of processes of a group.
const maxReplicas = 100

// Scale makes a group of roles have n processes. A role that stands in no group by itself gets one of its own.
// It returns what was done, in words, when all new processes serve.
func (u *Supervisor) Scale(ctx context.Context, group string, n int) (string, error) {
	if n < 0 || n > maxReplicas {
		return "", fmt.Errorf("expected 0 to %d processes of %s, found %d", maxReplicas, group, n)
	}
	if _, err := fleet.ParseRoles(strings.Split(group, "+")); err != nil {
		return "", err
	}
	var have []*Child
	numbers := map[int]bool{}
	for _, c := range u.Children() {
		if c.Group == group {
			have = append(have, c)
			number, _ := strconv.Atoi(c.Name[len(group)+1:])
			numbers[number] = true
		}
	}
	for _, role := range strings.Split(group, "+") {
		if n < len(have) && n == 0 && !u.elsewhere(role, group) {
			return "", fmt.Errorf("nobody else has the role %s: scale a group that has it up first", role)
		}
	}
	if n > len(have) {
		if err := u.connectable(len(u.Children()) - len(have) + n); err != nil {
			return "", err
		}
	}
	said := fmt.Sprintf("%s: %d processes, before %d", group, n, len(have))
	for len(have) > n {
		c := have[len(have)-1]
		have = have[:len(have)-1]
		c.retire(ctx)
		u.forget(c)
	}
	var added []string
	for number := 1; len(have)+len(added) < n; number++ {
		if numbers[number] {
			continue
		}
		if err := u.add(group, number); err != nil {
			return said, err
		}
		added = append(added, fmt.Sprintf("%s-%d", group, number))
	}
	for _, c := range u.Children() {
		if slices.Contains(added, c.Name) {
			if err := u.WaitHealthy(ctx, c); err != nil {
				return said, err
			}
		}
	}
	return said, nil
}

// elsewhere tells whether a process outside the group has the role, or serves it as its pool.
func (u *Supervisor) elsewhere(name, group string) bool {
	pool := ""
	for _, r := range fleet.Roles {
		if r.Name == name {
			pool = r.Pool
		}
	}
	return slices.ContainsFunc(u.Children(), func(c *Child) bool {
		return c.Group != group && (slices.Contains(c.Roles, name) || slices.Contains(c.Roles, fleet.AllRoles) ||
			pool != "" && slices.Contains(c.Roles, pool))
	})
}

func (u *Supervisor) forget(c *Child) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.children = slices.DeleteFunc(u.children, func(o *Child) bool { return o == c })
}

// Find gives the processes that a word means: all, the name of one, a machine id, a group or a role.
func (u *Supervisor) Find(word string) ([]*Child, error) {
	var out []*Child
	for _, c := range u.Children() {
		s := c.State()
		if word == fleet.AllRoles || c.Name == word || c.Group == word || slices.Contains(c.Roles, word) ||
			s.Machine >= 0 && strconv.Itoa(s.Machine) == word {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%q is no process, machine id, role or group of this fleet: lyceum ps shows them", word)
	}
	return out, nil
}

// request is one wish to a running lyceum up.
type request struct {
	Target  string `json:"target,omitempty"`  // a name, a role, a machine
	Count   int    `json:"count,omitempty"`   // of scale
	Program string `json:"program,omitempty"` // of restart
}

// Client asks a running lyceum up.
type Client struct{ http *http.Client }

// FindSupervisor finds the lyceum up that runs over a data directory.
func FindSupervisor(data string) (*Client, error) {
	path := fleet.SupervisorSocket(data)
	conn, err := net.Dial("unix", path)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("whether a lyceum up runs over %s can not be seen: %w: run this as the user who runs it", data, err)
	}
	if err != nil {
		return nil, fmt.Errorf("no lyceum up runs over %s: start one with lyceum up --data %s, or name its directory with --data", data, data)
	}
	_ = conn.Close() // it was only to see whether one listens
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	return &Client{&http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
}

// Children lists the processes.
func (s *Client) Children(ctx context.Context) (out []ChildState, err error) {
	return out, s.call(ctx, "ps", request{}, &out)
}

// Servers lists PostgreSQL and Redis as far as lyceum up started them; none when it is too old to tell.
func (s *Client) Servers(ctx context.Context) (out []ChildState, err error) {
	if err := s.call(ctx, "servers", request{}, &out); err != nil && !errors.Is(err, errUnknownWish) {
		return nil, err
	}
	return out, nil
}

// Scale makes a group have n processes.
func (s *Client) Scale(ctx context.Context, group string, n int) (said string, err error) {
	return said, s.call(ctx, "scale", request{Target: group, Count: n}, &said)
}

// Restart replaces one process by a new one of program; "" is the program it has.
func (s *Client) Restart(ctx context.Context, name, program string) (now ChildState, err error) {
	return now, s.call(ctx, "restart", request{Target: name, Program: program}, &now)
}

// Idle returns an error while another change is under way. The lyceum up of an older version does not tell.
func (s *Client) Idle(ctx context.Context) error {
	if err := s.call(ctx, "idle", request{}, nil); !errors.Is(err, errUnknownWish) {
		return err
	}
	return nil
}

// Find lists the processes that a word means.
func (s *Client) Find(ctx context.Context, word string) (out []ChildState, err error) {
	return out, s.call(ctx, "find", request{Target: word}, &out)
}

// Program tells which binary new processes are made of, and sets it when given.
func (s *Client) Program(ctx context.Context, program string) (now string, err error) {
	return now, s.call(ctx, "program", request{Program: program}, &now)
}

// Stop ends the whole fleet and returns when it is gone.
func (s *Client) Stop(ctx context.Context) error {
	var said string
	if err := s.call(ctx, "stop", request{}, &said); err != nil {
		return err
	}
	for s.call(ctx, "ps", request{}, nil) == nil { // it answers until all is gone
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

// errUnknownWish is the answer of a lyceum up of an older version.
var errUnknownWish = errors.New("this lyceum up is too old for that: start it again")

// Answers of a lyceum up that are told apart.
var (
	errStopped     = errors.New("lyceum up was stopped")
	errOtherChange = errors.New("another change is under way: try again when it has ended")
)

func (s *Client) call(ctx context.Context, op string, r request, out any) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://up/"+op, bytes.NewReader(text))
	if err != nil {
		return err
	}
	res, err := s.http.Do(req)
	if err != nil && ctx.Err() == nil {
		return errStopped
	}
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotFound {
		return errUnknownWish
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		said := strings.TrimSpace(string(text))
		for _, known := range []error{errStopped, errOtherChange} {
			if said == known.Error() {
				return known
			}
		}
		return errors.New(said)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(out)
}

// Supervise answers lyceum ps, scale, restart, stop and rollout until ctx ends, on a socket that only the owner
// of the data directory can open; stop is called when somebody asks for the end.
func (u *Supervisor) Supervise(stop func()) (end func(), err error) {
	path := fleet.SupervisorSocket(u.Config.Server.Data)
	_ = os.Remove(path) // of one that was killed
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("commands such as lyceum ps need a socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	handle := func(op string, fn func(ctx context.Context, r request) (any, error)) {
		mux.HandleFunc("POST /"+op, func(w http.ResponseWriter, req *http.Request) {
			var r request
			err := json.NewDecoder(http.MaxBytesReader(w, req.Body, 1<<16)).Decode(&r)
			var out any
			if err == nil {
				// Work that was begun is finished even when the one who asked goes away.
				out, err = fn(context.WithoutCancel(req.Context()), r)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			_ = json.NewEncoder(w).Encode(out) // who asked is gone if this fails
		})
	}
	change := make(chan struct{}, 1) // one change at a time
	one := func(fn func(ctx context.Context, r request) (any, error)) func(ctx context.Context, r request) (any, error) {
		return func(ctx context.Context, r request) (any, error) {
			select {
			case change <- struct{}{}:
			default:
				return nil, errOtherChange
			}
			defer func() { <-change }()
			return fn(ctx, r)
		}
	}
	handle("ps", func(context.Context, request) (any, error) { return states(u.Children()), nil })
	handle("servers", func(context.Context, request) (any, error) { return u.Servers(), nil })
	handle("find", func(_ context.Context, r request) (any, error) {
		children, err := u.Find(r.Target)
		return states(children), err
	})
	handle("scale", one(func(ctx context.Context, r request) (any, error) { return u.Scale(ctx, r.Target, r.Count) }))
	handle("restart", one(func(ctx context.Context, r request) (any, error) {
		children, err := u.Find(r.Target)
		if err != nil {
			return nil, err
		}
		if err := u.Restart(ctx, children[0], r.Program); err != nil {
			return nil, err
		}
		return children[0].State(), nil
	}))
	handle("idle", one(func(context.Context, request) (any, error) { return true, nil }))
	handle("program", func(_ context.Context, r request) (any, error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if r.Program != "" {
			u.Program = r.Program
		}
		return u.Program, nil
	})
	handle("stop", func(context.Context, request) (any, error) {
		stop()
		return "stopping", nil
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }() // ends with Close
	return func() {
		_ = server.Close()
		_ = os.Remove(path)
	}, nil
}

func states(children []*Child) []ChildState {
	out := make([]ChildState, len(children))
	for i, c := range children {
		out[i] = c.State()
	}
	return out
}

// Detach starts program again with args, apart from this terminal, with its output in a file, and returns its
// process id.
func Detach(program, log string, args ...string) (pid int, err error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	p, err := os.StartProcess(program, append([]string{program}, args...), &os.ProcAttr{
		Files: []*os.File{null, file, file}, Env: os.Environ(), Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, err
	}
	pid = p.Pid
	return pid, p.Release()
}
