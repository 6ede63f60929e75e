package fleettest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lyceum/ops/up"
	"lyceum/platform/engines"
)

// Combined are the writers that small fleets put into one process.
const Combined = "receipts+typing+presence+todevice+accountdata+devicelists"

// Member is one process of a Crew. When it ends by itself it is started again.
type Member struct {
	Name  string // roles and number, such as events-1
	Roles string // joined by +
	Host  *Host  // nil: the machine itself
	URL   string // of its public listener

	crew    *Crew
	data    string
	environ []string
	program string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
	gone bool
}

// spec says what a new process is.
type spec struct {
	roles   string
	host    *Host
	data    string // "": one of the crew's
	environ []string
	program string // "": the one of the crew
}

// Crew is a small fleet of real processes over engines of its own, whose parts a test breaks one by one: two
// processes of each writer; as root each on one of two hosts with networks of their own.
type Crew struct {
	*Fleet
	S3      *engines.S3
	Store   *FaultyHTTP // between the processes and S3
	Network *Network    // nil where this machine lets us make none

	program string
	environ []string
	mu      sync.Mutex
	members []*Member
	wg      sync.WaitGroup
	ports   atomic.Int64 // given on hosts
}

// Small is a fleet of eight processes on loopback, shared by the tests of a package.
func Small(t *testing.T) *Crew {
	t.Helper()
	c, err := suite.small()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TwoHosts is a fleet of two processes on each of two hosts. Without the right to make networks the test is skipped.
func TwoHosts(t *testing.T) *Crew {
	t.Helper()
	if err := CanNetwork(); err != nil {
		t.Skipf("no hosts with networks of their own: %v", err)
	}
	c, err := suite.hosts()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func startSmall() (*Crew, error) {
	c, err := newCrew("small", false)
	if err == nil {
		err = c.startAll([]spec{
			{roles: "router"},
			{roles: "client+media"},
			{roles: "sync+push"},
			{roles: "sync+push"},
			{roles: "events"},
			{roles: "events"},
			{roles: Combined},
			{roles: Combined},
		})
	}
	return c, err
}

func startHosts() (*Crew, error) {
	c, err := newCrew("hosts", true)
	if err != nil {
		return c, err
	}
	var list []spec
	for _, h := range c.Network.Hosts {
		list = append(list, spec{roles: "router+client+media+sync+push", host: h}, spec{roles: "events+" + Combined, host: h})
	}
	return c, c.startAll(list)
}

// newCrew starts the engines.
func newCrew(name string, network bool) (*Crew, error) {
	c := &Crew{Fleet: &Fleet{dir: filepath.Join(suite.dir, name)}}
	c.crew = c
	var err error
	if c.program, err = suite.program(); err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	if c.S3, err = c.startEngines(ctx); err != nil {
		return c, err
	}
	database, redis, address := c.Postgres.URL(), c.Redis.URL(), "127.0.0.1:0"
	if network {
		if c.Network, err = NewNetwork(); err != nil {
			return c, err
		}
		c.stop = append(c.stop, c.Network.Close)
		if database, err = c.Network.Offer("db", database); err != nil {
			return c, err
		}
		if redis, err = c.Network.Offer("redis", redis); err != nil {
			return c, err
		}
		address = c.Network.Address("front") + ":0"
	}
	if c.Store, err = NewFaultyHTTP(address, c.S3.Endpoint()); err != nil {
		return c, err
	}
	c.stop = append(c.stop, c.Store.Close)
	secret := filepath.Join(c.dir, "secret")
	if err := os.WriteFile(secret, []byte("the secret of a fleet that is broken on purpose"), 0o600); err != nil {
		return c, err
	}
	c.environ = append([]string{
		"LYCEUM_SERVER_NAME=" + ServerName, "LYCEUM_DATABASE_URL=" + database, "LYCEUM_REDIS_ADDRESSES=" + redis,
		"LYCEUM_FLEET_SECRET_FILE=" + secret,
		"LYCEUM_BLOB_S3_ENDPOINT=" + c.Store.URL(), "LYCEUM_BLOB_S3_BUCKET=lyceum", "LYCEUM_BLOB_S3_MAKE_BUCKET=true",
		"LYCEUM_BLOB_S3_ACCESS_KEY=" + c.S3.AccessKey(), "LYCEUM_BLOB_S3_SECRET_KEY=" + c.S3.SecretKey(),
	}, settings...)
	return c, nil
}

func (c *Crew) startAll(list []spec) error {
	for _, s := range list {
		if _, err := c.add(s); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	for _, m := range c.Members() {
		if err := awaitHealth(ctx, m.URL); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}

// add starts a process; its name gets a number.
func (c *Crew) add(s spec) (*Member, error) {
	n := 1
	for c.find(fmt.Sprintf("%s-%d", s.roles, n)) != nil {
		n++
	}
	p := &Member{
		Name:    fmt.Sprintf("%s-%d", s.roles, n),
		Roles:   s.roles,
		Host:    s.host,
		data:    s.data,
		environ: s.environ,
		program: cmp.Or(s.program, c.program),
		crew:    c,
	}
	if p.data == "" {
		p.data = filepath.Join(c.dir, "data", p.Name)
	}
	host, port := "127.0.0.1", 0
	var err error
	if p.Host != nil {
		host, port = p.Host.Address("front"), 8000+int(c.ports.Add(1))
	} else if port, err = up.FreePort(); err != nil {
		return nil, err
	}
	p.URL = fmt.Sprintf("http://%s:%d", host, port)
	if err := p.spawn(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.members = append(c.members, p)
	c.mu.Unlock()
	c.wg.Go(p.keep)
	return p, nil
}

// Join starts one more process on a host, nil for the machine itself, and returns when it serves. data is its directory,
// "" for one of the crew's. It stays until it is told to leave.
func (c *Crew) Join(t *testing.T, roles string, host *Host, data string, environ ...string) *Member {
	t.Helper()
	return c.join(t, spec{roles: roles, host: host, data: data, environ: environ})
}

// JoinAs starts one more process, of another binary.
func (c *Crew) JoinAs(t *testing.T, program, roles string, environ ...string) *Member {
	t.Helper()
	return c.join(t, spec{roles: roles, environ: environ, program: program})
}

func (c *Crew) join(t *testing.T, s spec) *Member {
	t.Helper()
	m, err := c.add(s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := awaitHealth(ctx, m.URL); err != nil {
		t.Fatalf("%v; its log ends with:\n%s", err, m.tail())
	}
	return m
}

// Leave ends a process for good, in an orderly way. Leaving twice is no error.
func (m *Member) Leave(t *testing.T) {
	t.Helper()
	if err := m.leave(); err != nil {
		t.Error(err)
	}
}

func (m *Member) leave() error {
	c := m.crew
	c.mu.Lock()
	c.members = slices.DeleteFunc(c.members, func(o *Member) bool { return o == m })
	c.mu.Unlock()
	m.mu.Lock()
	left := m.gone
	m.gone = true
	done := m.done
	m.mu.Unlock()
	if left {
		return nil
	}
	_ = m.Signal(syscall.SIGCONT) // a stopped process would not hear of its end
	_ = m.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-done:
		return nil
	case <-time.After(40 * time.Second):
		_ = m.Signal(syscall.SIGKILL)
		return fmt.Errorf("%s did not end within 40 s; its log ends with:\n%s", m.Name, m.tail())
	}
}

// spawn starts the process on its host.
func (m *Member) spawn() error {
	if err := os.MkdirAll(m.data, 0o700); err != nil {
		return err
	}
	logs := filepath.Join(m.crew.dir, "data", m.Name)
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(logs, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{
		m.program,
		"serve",
		"--data",
		m.data,
		"--listen",
		strings.TrimPrefix(m.URL, "http://"),
		"--roles",
		strings.ReplaceAll(m.Roles, "+", ","),
	}
	internal := "127.0.0.1:0"
	if m.Host != nil {
		internal = m.Host.Address("peers") + ":0"
		args = slices.Concat(m.Host.command(), args)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = slices.Concat(os.Environ(), m.crew.environ, []string{"LYCEUM_FLEET_INTERNAL_LISTEN=" + internal}, m.environ)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done, started := make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the process ends with the thread that started it
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	m.mu.Lock()
	m.cmd, m.done = cmd, done
	m.mu.Unlock()
	return nil
}

// keep starts the process again when it ends.
func (m *Member) keep() {
	for {
		m.mu.Lock()
		done := m.done
		m.mu.Unlock()
		<-done
		time.Sleep(200 * time.Millisecond)
		m.mu.Lock()
		gone := m.gone
		m.mu.Unlock()
		if gone || m.spawn() != nil {
			return
		}
	}
}

// Signal sends a signal to the process.
func (m *Member) Signal(s os.Signal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cmd.Process.Signal(s)
}

// PID is the id of the process, which may have ended.
func (m *Member) PID() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cmd.Process.Pid
}

func (m *Member) tail() string {
	text, err := os.ReadFile(filepath.Join(m.crew.dir, "data", m.Name, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-3000):])
}

// Members are the processes, in the order of starting.
func (c *Crew) Members() []*Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.members)
}

func (c *Crew) find(name string) *Member {
	for _, m := range c.Members() {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// Member is the process with a name such as events-1.
func (c *Crew) Member(t *testing.T, name string) *Member {
	t.Helper()
	m := c.find(name)
	if m == nil {
		t.Fatalf("no process has the name %s", name)
	}
	return m
}

// AwaitRecovery returns how long it took until every process serves.
func (c *Crew) AwaitRecovery(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	for _, m := range c.Members() {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := awaitHealth(ctx, m.URL)
		cancel()
		if err != nil {
			t.Fatalf("%s: %v; its log ends with:\n%s", m.Name, err, m.tail())
		}
	}
	return time.Since(began)
}

func (c *Crew) close() error {
	var wg sync.WaitGroup
	errs := make([]error, len(c.Members()))
	for i, m := range c.Members() {
		wg.Go(func() { errs[i] = m.leave() })
	}
	wg.Wait()
	c.wg.Wait()
	return errors.Join(errs...)
}
