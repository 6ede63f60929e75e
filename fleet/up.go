package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"lyceum/platform/disk"
)

// UpConfig is the section "up": a whole fleet on this machine.
type UpConfig struct {
	Replicas map[string]int `yaml:"replicas" own:"true" help:"Processes by roles: a role, or several joined by +, and how many processes have them."`
}

// Validate checks the section.
func (c *UpConfig) Validate() error {
	for group, n := range c.Replicas {
		if _, err := ParseRoles(strings.Split(group, "+")); err != nil {
			return fmt.Errorf("replicas: %w", err)
		}
		if n < 0 || n > 100 {
			return fmt.Errorf("replicas: expected 0 to 100 processes of %s, found %d", group, n)
		}
	}
	return nil
}

// DefaultReplicas is a small fleet: two of every writer, so that any process may die.
func DefaultReplicas() map[string]int {
	return map[string]int{
		"router+client+media": 1, "sync+push": 1, "events": 2, "receipts+typing+presence+todevice+accountdata+devicelists": 2,
	}
}

// EachRole is a fleet in which each role has its own process, and each writer two. Roles that another one
// serves as well have none.
func EachRole() map[string]int {
	out := map[string]int{}
	for _, r := range Roles {
		if r.Pool != "" {
			continue
		}
		out[r.Name] = 1
		if r.Stream != "" {
			out[r.Name] = 2
		}
	}
	return out
}

// Up is a fleet of processes on this machine.
type Up struct {
	Program string   // the lyceum binary
	Config  *Config  // of all processes
	Environ []string // more variables for all processes, over the configuration
	File    string   // configuration file that the processes read too; "" for none

	servers     []*upServer        // PostgreSQL and Redis, where Start started them
	connections int                // that this PostgreSQL takes; 0 for one of somebody else
	unwatch     context.CancelFunc // servers that end are not started again
	public      *os.File           // socket of the public address, shared by all routers
	mu          sync.Mutex
	children    []*Child
	wg          sync.WaitGroup
}

// Child is one process of an Up. When it ends, or is replaced, another process takes its place.
type Child struct {
	Name  string   // group and number, such as events-1
	Group string   // roles joined by +, as in the configuration
	Roles []string // of the group

	up      *Up
	public  bool // it listens at the public address of the fleet
	mu      sync.Mutex
	program string
	run     *childRun
	address string // of the public listener of run
	ended   int    // how often it ended by itself
	gone    bool   // it is not started again
}

// childRun is one start of a child.
type childRun struct {
	cmd     *exec.Cmd
	program string
	since   time.Time
	done    chan struct{} // closed at its end, when how is set
	how     error
}

// PID is the id of the running process, 0 between two.
func (c *Child) PID() int {
	r := c.current()
	if r == nil {
		return 0
	}
	select {
	case <-r.done:
		return 0
	default:
		return r.cmd.Process.Pid
	}
}

func (c *Child) current() *childRun {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// Dir is where the process keeps its scratch files and its log.
func (c *Child) Dir() string { return filepath.Join(c.up.Config.Server.Data, c.Name) }

// Start starts engines that the configuration does not name, then all processes, and returns when each
// serves. On an error it stops what it started.
func (u *Up) Start(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if err := os.MkdirAll(u.Config.Server.Data, 0o755); err != nil {
		return err
	}
	if err := u.startEngines(ctx); err != nil {
		return err
	}
	if err := u.keepProgram(); err != nil {
		return err
	}
	if err := u.writeAccess(); err != nil {
		return err
	}
	if err := u.openPublic(); err != nil {
		return err
	}
	replicas := u.replicas()
	for _, group := range slices.Sorted(maps.Keys(replicas)) {
		for n := range replicas[group] {
			if err := u.add(group, n+1); err != nil {
				return err
			}
		}
	}
	for _, c := range u.Children() {
		if err := u.WaitHealthy(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// replicas are the groups of roles and how many processes each has at the start.
func (u *Up) replicas() map[string]int {
	if len(u.Config.Up.Replicas) == 0 {
		return DefaultReplicas()
	}
	return u.Config.Up.Replicas
}

// openPublic opens the public address once for all routers and all their restarts: a connection that comes while a
// router is replaced waits instead of being refused.
func (u *Up) openPublic() error {
	l, err := net.Listen("tcp", u.Config.Server.Listen)
	if err != nil {
		return fmt.Errorf("server.listen: %w: choose another address with --listen", err)
	}
	defer l.Close() // the file stays open
	u.public, err = l.(*net.TCPListener).File()
	return err
}

// Children are the processes in the order of their names; the first with the role router comes first.
func (u *Up) Children() []*Child {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.children)
}

func (u *Up) env(name, value string) {
	if value != "" {
		u.Environ = append(u.Environ, name+"="+value)
	}
}

// startEngines starts a private PostgreSQL and Redis where no address is given, and shares a directory
// for blobs where no S3 is.
func (u *Up) startEngines(ctx context.Context) error {
	c := u.Config
	abs, err := filepath.Abs(c.Server.Data)
	if err != nil {
		return err
	}
	c.Server.Data = abs
	if err := u.startServers(ctx); err != nil {
		return err
	}
	u.env("LYCEUM_DATABASE_URL", c.Database.URL.Reveal())
	u.env("LYCEUM_REDIS_ADDRESSES", strings.Join(c.Redis.Addresses, ","))
	if c.Blob.S3.Endpoint == "" {
		shared := filepath.Join(abs, "blobs")
		if c.Blob.Directory != "" {
			if shared, err = filepath.Abs(c.Blob.Directory); err != nil {
				return err
			}
		}
		c.Blob.Directory, c.Blob.Shared = shared, true
		u.env("LYCEUM_BLOB_DIRECTORY", shared)
		u.env("LYCEUM_BLOB_DIRECTORY_SHARED", "true")
	}
	if c.Fleet.Secret.Reveal() == "" {
		path := u.secretFile()
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := disk.WriteFile(path, []byte(rand.Text()+rand.Text()+"\n"), 0o600); err != nil {
				return err
			}
		}
		u.env("LYCEUM_FLEET_SECRET_FILE", path)
	}
	return nil
}

func (u *Up) secretFile() string { return filepath.Join(u.Config.Server.Data, "secret") }

// add starts the process of a group with a number.
func (u *Up) add(group string, n int) error {
	c := &Child{Name: fmt.Sprintf("%s-%d", group, n), Group: group, Roles: strings.Split(group, "+"), up: u, program: u.Program}
	c.public = slices.Contains(c.Roles, "router") || slices.Contains(c.Roles, allRoles)
	address, err := c.freshAddress()
	if err != nil {
		return err
	}
	r, err := c.spawn(c.program, address)
	if err != nil {
		return err
	}
	c.run, c.address = r, address
	u.mu.Lock()
	if c.public {
		u.children = slices.Insert(u.children, 0, c)
	} else {
		u.children = append(u.children, c)
	}
	u.mu.Unlock()
	u.wg.Go(func() { u.keep(c) })
	return nil
}

// Address is that of the public listener of the process that serves now.
func (c *Child) Address() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.address
}

// freshAddress is where the next process can listen while the one before still does.
func (c *Child) freshAddress() (string, error) {
	if c.public { // all share one socket
		return c.up.Config.Server.Listen, nil
	}
	port, err := FreePort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// spawn starts a process for a child; its output goes to the child's log file.
func (c *Child) spawn(program, address string) (*childRun, error) {
	u := c.up
	if err := os.MkdirAll(c.Dir(), 0o700); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := []string{"serve", "--data", c.Dir(), "--listen", address, "--roles", strings.Join(c.Roles, ","), "--server-name", u.Config.Server.Name}
	if u.File != "" {
		args = append(args, "--config", u.File)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = slices.Concat([]string{"LYCEUM_HTTP_DRAIN_DELAY=" + leaveTime}, os.Environ(), u.Environ)
	if c.public {
		cmd.ExtraFiles = []*os.File{u.public}
		cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_PID=")
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	r := &childRun{cmd: cmd, program: program, since: time.Now(), done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the child ends with the thread that started it
		err := cmd.Start()
		started <- err
		if err == nil {
			r.how = cmd.Wait()
			close(r.done)
		}
	}()
	return r, <-started
}

func (c *Child) logPath() string { return filepath.Join(c.Dir(), "log") }

// leaveTime is how long a process that stops goes on serving, so that clients leave it by themselves.
const leaveTime = "500ms"

// keep starts a child again when it ends, with a growing pause.
func (u *Up) keep(c *Child) {
	for pause := firstPause; ; {
		r := c.current()
		<-r.done
		c.mu.Lock()
		replaced, gone := c.run != r, c.gone
		if !replaced && !gone {
			c.ended++
		}
		c.mu.Unlock()
		if gone {
			return
		}
		if replaced {
			continue
		}
		if time.Since(r.since) > 30*time.Second {
			pause = firstPause
		}
		if pause == firstPause { // not each end of one that does not come up
			say("%s ended (%s): starting it again", c.Name, howEnded(r.how))
		}
		time.Sleep(pause)
		pause = min(2*pause, mostPause)
		c.mu.Lock()
		if c.gone {
			c.mu.Unlock()
			return
		}
		next, err := c.spawn(c.program, c.address)
		if err == nil {
			c.run = next
		}
		c.mu.Unlock()
		if err != nil {
			say("%s does not start again: %v", c.Name, err)
		}
	}
}

// WaitHealthy returns when a child serves.
func (u *Up) WaitHealthy(ctx context.Context, c *Child) error {
	c.mu.Lock()
	before := c.ended
	c.mu.Unlock()
	for deadline := time.Now().Add(startTime); ; {
		r := c.current()
		if _, ok := readProcessFile(c.Dir(), r.cmd.Process.Pid); ok {
			return nil
		}
		c.mu.Lock()
		crashes := c.ended >= before+3
		c.mu.Unlock()
		if crashes || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s does not serve; its log ends with:\n%s", c.Name, u.tailOf(c))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// startTime is how long a process may take from its start to serving, with all others starting too.
const startTime = 90 * time.Second

func (u *Up) tailOf(c *Child) string {
	text, err := os.ReadFile(c.logPath())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-1500):])
}

// Kill ends a child's process at once, as a crash would; it is started again.
func (c *Child) Kill() error { return c.Signal(syscall.SIGKILL) }

// Signal sends a signal to a child's process.
func (c *Child) Signal(s os.Signal) error { return c.current().cmd.Process.Signal(s) }

// retire ends a child for good, in an orderly way.
func (c *Child) retire(ctx context.Context) {
	c.mu.Lock()
	c.gone = true
	r := c.run
	c.mu.Unlock()
	r.end(ctx)
}

// endTime is how long a process may take to finish what it has begun.
const endTime = 40 * time.Second

// end stops a process in an orderly way and returns when it is gone.
func (r *childRun) end(ctx context.Context) {
	_ = r.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-r.done:
		return
	case <-ctx.Done():
	case <-time.After(endTime):
	}
	_ = r.cmd.Process.Kill()
	<-r.done
}

// Stop ends all processes in an orderly way, then the servers that Start started. A server that is down stays so.
func (u *Up) Stop(ctx context.Context) error {
	if u.unwatch != nil {
		u.unwatch()
	}
	var wg sync.WaitGroup
	for _, c := range u.Children() {
		wg.Go(func() { c.retire(ctx) })
	}
	wg.Wait()
	err := u.stopServers()
	u.wg.Wait()
	if u.public != nil {
		_ = u.public.Close()
	}
	return err
}
