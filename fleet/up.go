package fleet

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"lyceum/platform/conf"
	"lyceum/platform/engines"
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
	Program  string   // the lyceum binary
	Config   *Config  // of all processes
	Environ  []string // more variables for all processes, over the configuration
	File     string   // configuration file that the processes read too; "" for none
	LogLevel string

	engines  []interface{ Stop() error }
	mu       sync.Mutex
	children []*Child
	stopping bool
	wg       sync.WaitGroup
}

// Child is one process of an Up.
type Child struct {
	Name    string   // roles and number, such as events-1
	Roles   []string // as given
	Address string   // of its public listener

	mu    sync.Mutex
	cmd   *exec.Cmd
	done  chan struct{}
	ended int // how often it ended
}

// PID is the id of the running process, 0 between two.
func (c *Child) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil || c.cmd.Process == nil {
		return 0
	}
	return c.cmd.Process.Pid
}

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
	if err := u.writeAccess(); err != nil {
		return err
	}
	replicas := u.Config.Up.Replicas
	if len(replicas) == 0 {
		replicas = DefaultReplicas()
	}
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
	if c.Database.URL.Reveal() == "" {
		pg, err := engines.StartPostgres(ctx, filepath.Join(abs, "postgres"), "max_connections=300")
		if err != nil {
			return err
		}
		u.engines = append(u.engines, pg)
		c.Database.URL = conf.Secret(pg.URL())
	}
	u.env("LYCEUM_DATABASE_URL", c.Database.URL.Reveal())
	if len(c.Redis.Addresses) == 0 {
		r, err := engines.StartRedis(ctx, filepath.Join(abs, "redis"))
		if err != nil {
			return err
		}
		u.engines = append(u.engines, r)
		c.Redis.Addresses = []string{r.URL()}
	}
	u.env("LYCEUM_REDIS_ADDRESSES", strings.Join(c.Redis.Addresses, ","))
	if c.Blob.S3.Endpoint == "" {
		shared := filepath.Join(abs, "blobs")
		if c.Blob.Directory != "" {
			if shared, err = filepath.Abs(c.Blob.Directory); err != nil {
				return err
			}
		}
		u.env("LYCEUM_BLOB_DIRECTORY", shared)
		u.env("LYCEUM_BLOB_DIRECTORY_SHARED", "true")
	}
	if c.Fleet.Secret.Reveal() == "" {
		path := u.secretFile()
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := os.WriteFile(path, []byte(rand.Text()+rand.Text()+"\n"), 0o600); err != nil {
				return err
			}
		}
		u.env("LYCEUM_FLEET_SECRET_FILE", path)
	}
	return nil
}

// AccessFile is the configuration with which commands such as lyceum user reach the fleet.
func (u *Up) AccessFile() string { return filepath.Join(u.Config.Server.Data, "fleet.yaml") }

// writeAccess writes AccessFile, which only its owner can read. JSON is YAML too.
func (u *Up) writeAccess() error {
	c := u.Config
	scratch := filepath.Join(c.Server.Data, "commands")
	process := map[string]string{"secret": c.Fleet.Secret.Reveal()}
	if process["secret"] == "" {
		process = map[string]string{"secret_file": u.secretFile()}
	}
	text, err := json.MarshalIndent(map[string]any{
		"server":   map[string]string{"name": c.Server.Name, "data": scratch},
		"database": map[string]string{"url": c.Database.URL.Reveal()},
		"redis":    map[string]any{"addresses": c.Redis.Addresses, "password": c.Redis.Password.Reveal()},
		"fleet":    process,
		"blob":     map[string]string{"directory": scratch},
	}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(u.AccessFile(), append(text, '\n'), 0o600)
}

func (u *Up) secretFile() string { return filepath.Join(u.Config.Server.Data, "secret") }

func (u *Up) add(group string, n int) error {
	c := &Child{Name: fmt.Sprintf("%s-%d", group, n), Roles: strings.Split(group, "+")}
	router := slices.Contains(c.Roles, "router") || slices.Contains(c.Roles, allRoles)
	u.mu.Lock()
	first := router && !slices.ContainsFunc(u.children, func(o *Child) bool { return o.Address == u.Config.Server.Listen })
	u.mu.Unlock()
	c.Address = u.Config.Server.Listen
	if !first {
		port, err := FreePort()
		if err != nil {
			return err
		}
		c.Address = fmt.Sprintf("127.0.0.1:%d", port)
	}
	u.mu.Lock()
	if first {
		u.children = slices.Insert(u.children, 0, c)
	} else {
		u.children = append(u.children, c)
	}
	u.mu.Unlock()
	if err := u.spawn(c); err != nil {
		return err
	}
	u.wg.Go(func() { u.keep(c) })
	return nil
}

// spawn starts the process of a child; its output goes to a log file.
func (u *Up) spawn(c *Child) error {
	dir := filepath.Join(u.Config.Server.Data, c.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"serve", "--data", dir, "--listen", c.Address, "--roles", strings.Join(c.Roles, ","), "--server-name", u.Config.Server.Name}
	if u.File != "" {
		args = append(args, "--config", u.File)
	}
	cmd := exec.Command(u.Program, args...)
	cmd.Env = append(os.Environ(), u.Environ...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	c.mu.Lock()
	c.cmd, c.done = cmd, done
	c.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	return nil
}

// keep starts a child again when it ends, with a growing pause.
func (u *Up) keep(c *Child) {
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		started := time.Now()
		c.mu.Lock()
		done := c.done
		c.mu.Unlock()
		<-done
		c.mu.Lock()
		c.ended++
		c.mu.Unlock()
		if time.Since(started) > 30*time.Second {
			pause = 200 * time.Millisecond
		}
		time.Sleep(pause)
		u.mu.Lock()
		stopping := u.stopping
		u.mu.Unlock()
		if stopping {
			return
		}
		if err := u.spawn(c); err != nil {
			fmt.Fprintf(os.Stderr, "%s does not start again: %v\n", c.Name, err)
			return
		}
	}
}

// WaitHealthy returns when a child serves.
func (u *Up) WaitHealthy(ctx context.Context, c *Child) error {
	client := &http.Client{Timeout: 2 * time.Second}
	for deadline := time.Now().Add(60 * time.Second); ; {
		res, err := client.Get("http://" + c.Address + "/health")
		if err == nil {
			_, _ = io.Copy(io.Discard, res.Body) // only the status counts
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		c.mu.Lock()
		crashes := c.ended >= 3
		c.mu.Unlock()
		if crashes || time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("%s does not serve; its log ends with:\n%s", c.Name, u.tailOf(c))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (u *Up) tailOf(c *Child) string {
	text, err := os.ReadFile(filepath.Join(u.Config.Server.Data, c.Name, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-1500):])
}

// Kill ends a child's process at once, as a crash would; it is started again.
func (c *Child) Kill() error { return c.Signal(syscall.SIGKILL) }

// Signal sends a signal to a child's process.
func (c *Child) Signal(s os.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cmd.Process.Signal(s)
}

// Stop ends all processes in an orderly way, then the engines that Start started.
func (u *Up) Stop(ctx context.Context) error {
	u.mu.Lock()
	u.stopping = true
	u.mu.Unlock()
	children := u.Children()
	for _, c := range children {
		_ = c.Signal(syscall.SIGTERM) // it may have ended by itself
	}
	for _, c := range children {
		c.mu.Lock()
		done := c.done
		c.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			_ = c.Kill()
		case <-time.After(40 * time.Second):
			_ = c.Kill()
		}
	}
	u.wg.Wait()
	var errs []error
	for _, e := range slices.Backward(u.engines) {
		errs = append(errs, e.Stop())
	}
	return errors.Join(errs...)
}
