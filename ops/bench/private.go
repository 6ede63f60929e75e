package bench

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"lyceum/ops/plan"
	"lyceum/platform/engines"
)

// calibratedRoles are those with a process of their own in a private fleet; the pools are served by them.
var calibratedRoles = []string{
	"router", "client", "sync", "events", "receipts", "typing", "presence", "todevice", "accountdata", "devicelists", "push", "media",
}

// private is a server started only to be measured.
type private struct {
	program string
	dir     string
	environ []string
	pg      *engines.Postgres
	redis   *engines.Redis
	pids    map[string]int // by role
	url     string

	mu   sync.Mutex
	cmds []*exec.Cmd
	done []chan struct{}
}

// startPrivate starts a process for each role over PostgreSQL and Redis of its own, or one process over SQLite.
func startPrivate(ctx context.Context, o CalibrateOptions, dir string) (*private, error) {
	p := &private{program: o.Program, dir: dir, pids: map[string]int{}}
	p.environ = append(os.Environ(),
		"LYCEUM_ACCOUNTS_REGISTRATION=open", "LYCEUM_HTTP_RATE_LIMITS_OFF=true", "LYCEUM_OBS_LOG_LEVEL=warn",
		"LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB=64", "LYCEUM_ACCOUNTS_PASSWORD_PASSES=1", "LYCEUM_SERVER_NAME=calibrate.test")
	roles := []string{plan.AllRoles}
	if !o.Alone {
		roles = calibratedRoles
		if err := p.startEngines(ctx); err != nil {
			return p, err
		}
	}
	p.environ = append(p.environ, o.Environ...)
	for _, role := range roles {
		address, err := freeAddress()
		if err != nil {
			return p, err
		}
		if p.url == "" {
			p.url = "http://" + address
		}
		if err := p.serve(role, address); err != nil {
			return p, err
		}
		if err := p.awaitHealthy(ctx, role, address); err != nil {
			return p, err
		}
	}
	return p, nil
}

func (p *private) startEngines(ctx context.Context) (err error) {
	if p.pg, err = engines.StartPostgres(ctx, filepath.Join(p.dir, "postgres"), "max_connections=300"); err != nil {
		return err
	}
	if p.redis, err = engines.StartRedis(ctx, filepath.Join(p.dir, "redis")); err != nil {
		return err
	}
	p.environ = append(p.environ,
		"LYCEUM_DATABASE_URL="+p.pg.URL(), "LYCEUM_REDIS_ADDRESSES="+p.redis.URL(), "LYCEUM_FLEET_SECRET="+rand.Text()+rand.Text(),
		"LYCEUM_BLOB_DIRECTORY="+filepath.Join(p.dir, "blobs"), "LYCEUM_BLOB_DIRECTORY_SHARED=true")
	return nil
}

// freeAddress finds a port below those that systems give to outgoing connections.
func freeAddress() (string, error) {
	for port := 18100 + os.Getpid()%1000*10; port < 32000; port++ {
		address := fmt.Sprintf("127.0.0.1:%d", port)
		if l, err := net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", errors.New("no port between 18100 and 32000 is free")
}

func (p *private) logOf(role string) string { return filepath.Join(p.dir, role+".log") }

func (p *private) serve(role, address string) error {
	log, err := os.Create(p.logOf(role))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.program, "serve", "--data", filepath.Join(p.dir, role), "--listen", address, "--roles", role)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.environ, log, log
	cmd.SysProcAttr = childAttributes()
	started, done := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the child ends with this thread, so it must live as long
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its log says how it ended
			close(done)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	p.mu.Lock()
	p.cmds, p.done = append(p.cmds, cmd), append(p.done, done)
	p.mu.Unlock()
	p.pids[role] = cmd.Process.Pid
	return nil
}

func (p *private) awaitHealthy(ctx context.Context, role, address string) error {
	p.mu.Lock()
	done := p.done[len(p.done)-1]
	p.mu.Unlock()
	client := &http.Client{Timeout: 2 * time.Second}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		res, err := client.Get("http://" + address + "/health")
		if err == nil {
			_ = res.Body.Close() // only the status counts
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-done:
			return fmt.Errorf("the process of role %s ended at its start: %s", role, lastLine(p.logOf(role)))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return fmt.Errorf("the process of role %s does not serve after a minute: %s", role, lastLine(p.logOf(role)))
}

func lastLine(path string) (line string) {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if text := strings.TrimSpace(s.Text()); text != "" {
			line = text
		}
	}
	return line
}

// stop ends all, the engines last.
func (p *private) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.cmds) - 1; i >= 0; i-- {
		_ = p.cmds[i].Process.Signal(syscall.SIGTERM) // it may have ended
	}
	limit := time.After(30 * time.Second)
	for i, done := range p.done {
		select {
		case <-done:
		case <-limit:
			_ = p.cmds[i].Process.Kill() // it may have ended
		}
	}
	if p.redis != nil {
		_ = p.redis.Stop() // nothing of it is kept
	}
	if p.pg != nil {
		_ = p.pg.Stop() // as above
	}
}

// databaseBytes is the size of the database with its indexes.
func (p *private) databaseBytes(ctx context.Context) (n float64, err error) {
	if p.pg == nil {
		err = filepath.WalkDir(filepath.Join(p.dir, plan.AllRoles), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // it may have just gone
			}
			if info, err := d.Info(); err == nil && strings.Contains(filepath.Base(path), ".db") {
				n += float64(info.Size())
			}
			return nil
		})
		return n, err
	}
	c, err := pgx.Connect(ctx, p.pg.URL())
	if err != nil {
		return 0, err
	}
	defer c.Close(ctx)
	err = c.QueryRow(ctx, "SELECT pg_database_size(current_database())::float8").Scan(&n)
	return n, err
}

// redisBytes is what Redis has sent to all its clients since its start.
func (p *private) redisBytes() (float64, error) {
	if p.redis == nil {
		return 0, nil
	}
	c, err := net.DialTimeout("tcp", p.redis.Addr(), 5*time.Second)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(c, "AUTH %s\r\nINFO stats\r\nQUIT\r\n", p.redis.Password()); err != nil {
		return 0, err
	}
	text, err := io.ReadAll(c)
	if err != nil {
		return 0, err
	}
	var n float64
	_, rest, found := strings.Cut(string(text), "total_net_output_bytes:")
	if !found {
		return 0, errors.New("redis: INFO stats has no total_net_output_bytes")
	}
	_, err = fmt.Sscanf(rest, "%f", &n)
	return n, err
}
