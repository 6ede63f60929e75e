package up

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"lyceum/fleet"
)

// Child is one process of a Supervisor. When it ends, or is replaced, another process takes its place.
type Child struct {
	Name  string   // group and number, such as events-1
	Group string   // roles joined by +, as in the configuration
	Roles []string // of the group

	up     *Supervisor
	public bool // it listens at the public address of the fleet
	// Every process of the child is in run, next or old until it has ended, so that stop finds it.
	mu           sync.Mutex
	program      string
	run          *run   // the process of the child; when it ends, another one is started
	next         *run   // Restart has started it, and it does not serve yet; nil for none
	old          *run   // run has replaced it, and it has not ended yet; nil for none
	address      string // of the public listener of run
	ended        int    // how often it ended by itself
	lastLogStart int64  // where in the log file the last process that did begins
	gone         bool   // nothing is started any more
}

// Dir is where the process keeps its scratch files and its log.
func (c *Child) Dir() string { return filepath.Join(c.up.Config.Server.Data, c.Name) }

func (c *Child) logPath() string { return filepath.Join(c.Dir(), "log") }

// PID is the id of the running process, 0 between two.
func (c *Child) PID() int { return c.current().pid() }

// Address is that of the public listener of the process that serves now.
func (c *Child) Address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.address
}

// State returns the state of the process that serves, which is the next one as soon as that does.
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

// Kill ends a child's process at once, as a crash would; it is started again.
func (c *Child) Kill() error { return c.Signal(syscall.SIGKILL) }

// Signal sends a signal to a child's process.
func (c *Child) Signal(s os.Signal) error { return c.current().cmd.Process.Signal(s) }

func (c *Child) current() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// serving reports whether a process of the child serves. It remembers the ProcessFile that the process wrote, as another process of the
// child writes the same file. The caller holds mu.
func (c *Child) serving(r *run) bool {
	if r.file.PID == 0 {
		if f, ok := fleet.ReadProcessFile(c.Dir(), r.cmd.Process.Pid); ok {
			r.file = f
		}
	}
	return r.file.PID != 0 && !r.hasEnded()
}

// freshAddress returns an address where the next process can listen while the one before still does.
func (c *Child) freshAddress() (string, error) {
	if c.public { // all share one socket
		return c.up.Config.Server.Listen, nil
	}
	port, err := FreePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// spawn starts a process for a child; its output goes to the child's log file.
func (c *Child) spawn(program, address string) (*run, error) {
	u := c.up
	if err := os.MkdirAll(c.Dir(), 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := []string{
		"serve", "--data", c.Dir(), "--listen", address, "--roles", strings.Join(c.Roles, ","), "--server-name",
		u.Config.Server.Name,
	}
	if u.File != "" {
		args = append(args, "--config", u.File)
	}
	logFrom, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	access, _ := u.access() // the process itself reports an error in it
	cmd := exec.Command(program, args...)
	cmd.Env = append(u.environ(), fleet.Supervised+"=1")
	if u.Config.HTTP.DrainDelay == 0 {
		cmd.Env = slices.Concat([]string{"LYCEUM_HTTP_DRAIN_DELAY=" + leaveTime}, cmd.Env)
	}
	if c.public {
		cmd.ExtraFiles = []*os.File{u.public}
		cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_PID=")
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	r := &run{
		cmd: cmd, program: program, address: address, access: access, logFrom: logFrom, since: time.Now(), replaced: make(chan struct{}),
		done: make(chan struct{}),
	}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the child ends with the thread that started it
		err := cmd.Start()
		started <- err
		if err == nil {
			r.exitErr = cmd.Wait()
			close(r.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return r, nil
}

// leaveTime is how long a process that stops goes on serving, so that clients leave it by themselves.
const leaveTime = "500ms"

// startAfter starts a process in place of r, which has ended, after a pause. It returns nil when a Restart under way does so, so that a
// crash never makes a second process beside the next one, and when the child is stopped.
func (c *Child) startAfter(r *run, pause time.Duration) (*run, error) {
	for until := time.Now().Add(pause); ; time.Sleep(stepTime) {
		c.mu.Lock()
		switch {
		case c.gone || c.run != r:
			c.mu.Unlock()
			return nil, nil
		case c.next != nil || time.Now().Before(until):
			c.mu.Unlock()
			continue
		}
		next, err := c.spawn(c.program, c.address)
		if err == nil {
			c.run = next
		}
		c.mu.Unlock()
		return next, err
	}
}

// stop ends a child for good, in an orderly way, and returns when none of its processes is left.
func (c *Child) stop(ctx context.Context) {
	c.mu.Lock()
	c.gone = true
	runs := []*run{c.run, c.next, c.old}
	c.mu.Unlock()
	var wg sync.WaitGroup
	for _, r := range runs {
		if r != nil {
			wg.Go(func() { r.end(ctx) })
		}
	}
	wg.Wait()
}

// stopped returns the error for callers who wait for a child that is stopped meanwhile.
func (c *Child) stopped() error {
	c.up.mu.Lock()
	defer c.up.mu.Unlock()
	if c.up.stopping {
		return errStopped
	}
	return fmt.Errorf("%s was stopped meanwhile", c.Name)
}

// logSince returns the last lines of the log from the offset from on, without those of the process with the machine id but.
func (c *Child) logSince(from int64, but int) string {
	text, _, err := LinesFrom(c.logPath(), from)
	if err != nil {
		return err.Error()
	}
	var kept []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, fmt.Sprintf(" machine=%d ", but)) && !strings.Contains(line, fmt.Sprintf(`"machine":%d,`, but)) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept[max(0, len(kept)-12):], "")
}

// run is one start of a child.
type run struct {
	cmd      *exec.Cmd
	program  string
	address  string // of its public listener
	logFrom  int64  // where the log ended when it was started
	since    time.Time
	asked    sync.Once         // to end: a second signal would cut it short
	replaced chan struct{}     // closed when another process is the run of the child
	done     chan struct{}     // closed at its end, when exitErr is set
	exitErr  error             // how it ended, as Wait returns it
	access   []byte            // its configuration, for commands; empty when it can not be read
	file     fleet.ProcessFile // what it wrote when it served; zero until Child.serving has seen it
}

// hasEnded reports whether the process has ended.
func (r *run) hasEnded() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// pid is the id of the process, 0 when it is gone.
func (r *run) pid() int {
	if r.hasEnded() {
		return 0
	}
	return r.cmd.Process.Pid
}

// end stops a process in an orderly way and returns when it is gone.
func (r *run) end(ctx context.Context) {
	r.asked.Do(func() { _ = r.cmd.Process.Signal(syscall.SIGTERM) }) // it may have ended by itself
	select {
	case <-r.done:
		return
	case <-ctx.Done():
	case <-time.After(endTime):
	}
	_ = r.cmd.Process.Kill()
	<-r.done
}

// endTime is how long a process may take to finish what it has begun.
const endTime = 40 * time.Second
