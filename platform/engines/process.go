package engines

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopWait is how long a server may take to end by itself before it is killed.
const stopWait = 20 * time.Second

// account is the user that a server runs as, when that is not ours.
type account struct {
	name     string
	uid, gid uint32
}

// launch says how to start a server; it is kept so that Restart does the same again.
type launch struct {
	name    string         // for messages
	args    []string       // program and arguments
	env     []string       // the whole environment
	dir     string         // working directory
	logFile string         // standard output and error are appended to it
	as      *account       // nil: our own
	end     syscall.Signal // asks for a clean end
	ready   func(ctx context.Context) error
}

// server is one child process that can be stopped and started again.
type server struct {
	launch launch
	change sync.Mutex // held while it is started or ended
	mu     sync.Mutex // guards child
	child  *child     // nil: it was ended, or never started
}

type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and err is set
	err  error
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (s *server) current() *child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.child
}

func (s *server) set(c *child) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.child = c
}

// Start starts the server again on the same port with the same data and returns when it answers, however long it takes
// to recover. It tries once. When ctx ends before that, the server does not run.
func (s *server) Start(ctx context.Context) error {
	s.change.Lock()
	defer s.change.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("start %s: %w", s.launch.name, err)
	}
	if c := s.current(); c != nil && !c.ended() {
		return fmt.Errorf("%s runs already", s.launch.name)
	}
	c, err := spawn(s.launch)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.launch.name, err)
	}
	s.set(c)
	if err := s.awaitReady(ctx, c); err != nil {
		s.set(nil)
		return fmt.Errorf("start %s: %w%s", s.launch.name, errors.Join(err, s.stop(c, s.launch.end)), lastLines(s.launch.logFile))
	}
	return nil
}

// Wait returns when the running process has ended, and how: by itself, or by Stop and Kill. It returns at once when none runs.
func (s *server) Wait() error {
	c := s.current()
	if c == nil {
		return nil
	}
	<-c.done
	return c.err
}

func (s *server) awaitReady(ctx context.Context, c *child) error {
	for wait := 5 * time.Millisecond; ; wait = min(wait*2, 100*time.Millisecond) {
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := s.launch.ready(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("the process ended: %w", errors.Join(errExited, c.err))
		case <-ctx.Done():
			return fmt.Errorf("it did not answer in time: %w (last answer: %w)", ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

var errExited = errors.New("exited before it was ready")

// spawn starts the child from a thread that lives as long as the child does: the kernel ties the
// signal for a parent's death to the thread, and the Go runtime ends threads as it likes.
func spawn(l launch) (*child, error) {
	log, err := os.OpenFile(l.logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(l.args[0], l.args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = l.env, l.dir, log, log
	cmd.SysProcAttr = childAttr(l.as, l.end)
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// end signals the child and waits for its end.
func (s *server) end(sig os.Signal) error {
	s.change.Lock()
	defer s.change.Unlock()
	c := s.current()
	if c == nil {
		return nil
	}
	s.set(nil)
	return s.stop(c, sig)
}

// stop signals a child and waits for its end; it is killed when it takes longer than stopWait.
func (s *server) stop(c *child, sig os.Signal) error {
	c.cmd.Process.Signal(sig)
	timer := time.NewTimer(stopWait)
	defer timer.Stop()
	select {
	case <-c.done:
		return nil
	case <-timer.C:
		c.cmd.Process.Kill()
		<-c.done
		return fmt.Errorf("stop %s: it did not end within %s and was killed", s.launch.name, stopWait)
	}
}

// Stop ends the server cleanly. Its data stays. Stopping twice is no error.
func (s *server) Stop() error { return s.end(s.launch.end) }

// Kill ends the server at once, as a crash would.
func (s *server) Kill() error { return s.end(os.Kill) }

// Restart stops the server if it runs and starts it again on the same port with the same data.
func (s *server) Restart(ctx context.Context) error {
	if err := s.Stop(); err != nil {
		return err
	}
	// The backends of a PostgreSQL killed before this hold its shared memory for a moment longer.
	ctx, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	for {
		err := s.Start(ctx)
		if err == nil || !errors.Is(err, errExited) || ctx.Err() != nil {
			return err
		}
	}
}

// Pid is the process id of the server, also while it starts; 0 when it does not run.
func (s *server) Pid() int {
	c := s.current()
	if c == nil || c.ended() {
		return 0
	}
	return c.cmd.Process.Pid
}

// Log is the name of the server's log file.
func (s *server) Log() string { return s.launch.logFile }

// LastLines is the end of the log for a message, behind the name of its file; "" when there is none.
func (s *server) LastLines() string { return lastLines(s.launch.logFile) }

// startOnFreePort tries several ports: another process may take a port between the check and the server's bind.
func startOnFreePort(ctx context.Context, prepare func(port int) (*server, error)) (*server, error) {
	var last error
	for range 5 {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		s, err := prepare(port)
		if err != nil {
			return nil, err
		}
		if last = s.Start(ctx); last == nil {
			return s, nil
		}
		if !errors.Is(last, errExited) {
			break
		}
	}
	return nil, last
}

// FreePort returns a loopback port that nobody listens on. Another process may take it at any time.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free loopback port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// lastLines returns the end of a log for an error message.
func lastLines(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 2000 {
		f.Seek(-2000, io.SeekEnd)
	}
	tail, _ := io.ReadAll(io.LimitReader(f, 2000))
	if len(tail) == 0 {
		return ""
	}
	return "; the end of " + path + ":\n" + strings.TrimSpace(string(tail))
}

// childEnv is small on purpose: variables such as PGDATA or PGHOST of the caller must not change a private server.
func childEnv(extra ...string) []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"PATH", "TMPDIR", "LD_LIBRARY_PATH"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return append(env, extra...)
}

func randomPassword() string { return rand.Text() }

// unprivileged returns the account to run a server as that refuses to be root, nil when we are not root.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			continue
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			continue
		}
		return &account{name: name, uid: uint32(uid), gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root and there is no user postgres or nobody: add one, or start lyceum as " +
		"another user")
}

// reachable tells whether others can pass every directory above dir.
func reachable(dir string, as *account) error {
	for d := filepath.Dir(dir); ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("user %s, who runs PostgreSQL for root, can not pass %s (mode %o): choose a data directory elsewhere or run chmod "+
				"o+x %s", as.name, d, info.Mode().Perm(), d)
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}
