package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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
	"lyceum/platform/role"
)

// Supervisor keeps a fleet of processes running on this machine. It is started and stopped once.
type Supervisor struct {
	Program string        // the lyceum binary
	Config  *fleet.Config // of all processes
	File    string        // configuration file that the processes read too; "" for none
	Environ []string      // more variables for all processes, over all else

	Flags map[string]string // "section.key" to value: over the environment of this process, for all processes

	servers     []*server          // PostgreSQL and Redis, where Start started them
	connections int                // that this PostgreSQL takes; 0 for one of somebody else
	unwatch     context.CancelFunc // servers that end are not started again
	public      *os.File           // socket of the public address, shared by all routers
	mu          sync.Mutex
	children    []*Child
	stopping    bool       // no child is added any more
	accessMu    sync.Mutex // of what AccessFile holds, and since when the process runs that has it
	accessText  []byte
	accessSince time.Time
	wg          sync.WaitGroup // who keeps the children and servers
}

// Child is one process of a Supervisor. When it ends, or is replaced, another process takes its place.
type Child struct {
	Name  string   // group and number, such as events-1
	Group string   // roles joined by +, as in the configuration
	Roles []string // of the group

	up     *Supervisor
	public bool // it listens at the public address of the fleet
	// Every process of the child is run, next or old until it has ended, so that retire finds it.
	mu      sync.Mutex
	program string
	run     *run   // the process of the child; when it ends, another one is started
	next    *run   // Restart has started it, and it does not serve yet; nil for none
	old     *run   // run has replaced it, and it has not ended yet; nil for none
	address string // of the public listener of run
	ended   int    // how often it ended by itself
	endFrom int64  // where the log of the last process that did begins
	gone    bool   // nothing is started any more
}

// run is one start of a child.
type run struct {
	cmd     *exec.Cmd
	program string
	address string // of its public listener
	logFrom int64  // where the log ended when it was started
	since   time.Time
	asked   sync.Once     // to end: a second signal would cut it short
	left    chan struct{} // closed when another one has its place
	done    chan struct{} // closed at its end, when how is set
	how     error
	access  []byte            // its configuration, for commands; empty when it can not be read
	file    fleet.ProcessFile // what it wrote when it served; zero until Child.serving has seen it
}

// hasEnded tells whether the process is gone.
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

// PID is the id of the running process, 0 between two.
func (c *Child) PID() int { return c.current().pid() }

func (c *Child) current() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// serving tells whether a process of the child serves. What it wrote is remembered, as another process of the child
// writes the same file. The caller holds mu.
func (c *Child) serving(r *run) bool {
	if r.file.PID == 0 {
		if f, ok := fleet.ReadProcessFile(c.Dir(), r.cmd.Process.Pid); ok {
			r.file = f
		}
	}
	return r.file.PID != 0 && !r.hasEnded()
}

// Dir is where the process keeps its scratch files and its log.
func (c *Child) Dir() string { return filepath.Join(c.up.Config.Server.Data, c.Name) }

// Start starts engines that the configuration does not name, then all processes, and returns when each
// serves. On an error it stops what it started. Roles that nobody has are an error where this machine starts the database, which no
// process of another machine reaches.
func (u *Supervisor) Start(ctx context.Context) (err error) {
	if err := u.Check(ctx); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if err := u.openPublic(); err != nil {
		return err
	}
	if err := os.MkdirAll(u.Config.Server.Data, 0o755); err != nil {
		return err
	}
	if err := u.startEngines(ctx); err != nil {
		return err
	}
	if err := u.openSecret(ctx); err != nil {
		return err
	}
	if err := u.keepProgram(); err != nil {
		return err
	}
	replicas := Replicas(&u.Config.Up)
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

// Children are the processes in the order of their names; the first with the role router comes first.
func (u *Supervisor) Children() []*Child {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.children)
}

// startEngines starts a private PostgreSQL and Redis where no address is given, and shares a directory
// for blobs where no S3 is.
func (u *Supervisor) startEngines(ctx context.Context) error {
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
	return nil
}

// add starts the process of a group with a number. It holds mu meanwhile, so that Stop finds each that was started.
func (u *Supervisor) add(group string, n int) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopping {
		return fmt.Errorf("%s-%d is not started: the fleet is being stopped", group, n)
	}
	c := &Child{Name: fmt.Sprintf("%s-%d", group, n), Group: group, Roles: strings.Split(group, "+"), up: u, program: u.Program}
	if slices.ContainsFunc(u.children, func(o *Child) bool { return o.Name == c.Name }) {
		return fmt.Errorf("%s is there already: another change is under way", c.Name)
	}
	c.public = slices.Contains(c.Roles, "router") || slices.Contains(c.Roles, fleet.AllRoles)
	address, err := c.freshAddress()
	if err != nil {
		return err
	}
	r, err := c.spawn(c.program, address)
	if err != nil {
		return err
	}
	c.run, c.address = r, address
	if c.public {
		u.children = slices.Insert(u.children, 0, c)
	} else {
		u.children = append(u.children, c)
	}
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
	access, _ := u.access() // the process says what is wrong with it
	cmd := exec.Command(program, args...)
	cmd.Env = u.environ()
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
		cmd: cmd, program: program, address: address, access: access, logFrom: logFrom, since: time.Now(), left: make(chan struct{}),
		done: make(chan struct{}),
	}
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
	if err := <-started; err != nil {
		return nil, err
	}
	return r, nil
}

func (c *Child) logPath() string { return filepath.Join(c.Dir(), "log") }

// leaveTime is how long a process that stops goes on serving, so that clients leave it by themselves.
const leaveTime = "500ms"

// keep starts a child again when it ends, with a growing pause, until the child is stopped.
func (u *Supervisor) keep(c *Child) {
	r, pause := c.current(), firstPause
	for {
		select {
		case <-r.done:
		case <-r.left: // it may take a while to end
		}
		c.mu.Lock()
		now, gone := c.run, c.gone
		if now == r && !gone {
			c.ended++
			c.endFrom = r.logFrom
		}
		c.mu.Unlock()
		if gone {
			return
		}
		if now != r { // by Restart, and it served
			r, pause = now, firstPause
			continue
		}
		if time.Since(r.since) > 30*time.Second {
			pause = firstPause
		}
		if pause == firstPause { // not each end of one that does not come up
			say("%s ended (%s): starting it again", c.Name, howEnded(r.how))
		}
		next, err := c.again(r, pause)
		if err != nil {
			say("%s does not start again: %v", c.Name, err)
		}
		if next != nil {
			r = next
			u.wg.Go(func() { _ = u.WaitHealthy(context.Background(), c) }) // for the configuration, which may be another now
		}
		pause = min(2*pause, mostPause)
	}
}

// again starts a process in place of r, which has ended, after a pause. It leaves that to a Restart under way, so that
// a crash never makes a second process beside the next one, and starts none when the child is stopped: then it gives nil.
func (c *Child) again(r *run, pause time.Duration) (*run, error) {
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

// WaitHealthy returns when a child serves. Commands have its configuration then.
func (u *Supervisor) WaitHealthy(ctx context.Context, c *Child) error {
	c.mu.Lock()
	before, from := c.ended, c.run.logFrom
	c.mu.Unlock()
	for deadline := time.Now().Add(startTime); ; time.Sleep(stepTime) {
		c.mu.Lock()
		r := c.run
		gone, serves, crashes := c.gone, c.serving(r), c.ended >= before+3
		if crashes {
			from = c.endFrom // each said the same
		}
		c.mu.Unlock()
		if gone {
			return c.stopped()
		}
		if serves {
			return u.writeAccess(r)
		}
		if crashes || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s does not serve; its log ends with:\n%s", c.Name, c.logSince(from, -1))
		}
	}
}

// stopped is what they are told who wait for a child that is stopped meanwhile.
func (c *Child) stopped() error {
	c.up.mu.Lock()
	defer c.up.mu.Unlock()
	if c.up.stopping {
		return errStopped
	}
	return fmt.Errorf("%s was stopped meanwhile", c.Name)
}

// stepTime is how often is looked whether a process serves.
const stepTime = 20 * time.Millisecond

// startTime is how long a process may take from its start to serving, with all others starting too.
const startTime = 90 * time.Second

// logSince gives the end of what processes wrote to the log since it ended at from, but for the one with a machine id.
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

// Kill ends a child's process at once, as a crash would; it is started again.
func (c *Child) Kill() error { return c.Signal(syscall.SIGKILL) }

// Signal sends a signal to a child's process.
func (c *Child) Signal(s os.Signal) error { return c.current().cmd.Process.Signal(s) }

// retire ends a child for good, in an orderly way, and returns when none of its processes is left.
func (c *Child) retire(ctx context.Context) {
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

// endTime is how long a process may take to finish what it has begun.
const endTime = 40 * time.Second

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

// stopStep tells when a process of some roles is stopped, the lowest first: those that take the requests of clients, then those
// that tell of news, then owners of shards, which the others need for what is under way.
func stopStep(roles []string) int {
	step := 0
	for _, name := range roles {
		switch i := slices.IndexFunc(fleet.Roles, func(r role.Role) bool { return r.Name == name }); {
		case i < 0 || fleet.Roles[i].Stream != "": // all roles, or one that owns shards
			return 2
		case name == "sync" || name == "push":
			step = 1
		}
	}
	return step
}

// stopChildren ends all processes, step by step. Nobody adds one any more.
func (u *Supervisor) stopChildren(ctx context.Context) {
	steps := map[int][]*Child{}
	for _, c := range u.Children() {
		step := stopStep(c.Roles)
		steps[step] = append(steps[step], c)
		if c.public { // none is started any more
			c.mu.Lock()
			c.gone = true
			c.mu.Unlock()
		}
	}
	if u.public != nil {
		_ = u.public.Close() // after the last router clients are refused, and do not wait
	}
	for _, step := range slices.Sorted(maps.Keys(steps)) {
		var wg sync.WaitGroup
		for _, c := range steps[step] {
			wg.Go(func() { c.retire(ctx) })
		}
		wg.Wait()
	}
}

// Stop ends all processes in an orderly way, then the servers that Start started. A server that is down stays so.
func (u *Supervisor) Stop(ctx context.Context) error {
	if u.unwatch != nil {
		u.unwatch()
	}
	u.mu.Lock()
	u.stopping = true
	u.mu.Unlock()
	u.stopChildren(ctx)
	err := u.stopServers() // they serve until the last process has ended
	u.wg.Wait()
	return err
}
