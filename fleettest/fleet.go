package fleettest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lyceum/fleet"
	"lyceum/ops/up"
	"lyceum/platform/conf"
	"lyceum/platform/engines"
)

// ServerName is the server name of all fleets.
const ServerName = "fleet.test"

// settings make tests quick: anybody registers, hashing is cheap, nobody is slowed down, and
// push gateways may be here.
var settings = []string{
	"LYCEUM_ACCOUNTS_REGISTRATION=open", "LYCEUM_HTTP_RATE_LIMITS_OFF=true",
	"LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB=64", "LYCEUM_ACCOUNTS_PASSWORD_PASSES=1",
	"LYCEUM_PUSH_ALLOW_PRIVATE=127.0.0.0/8,10.0.0.0/8", "LYCEUM_PUSH_ALLOW_HTTP=true",
}

// startWait is long because 18 processes start at once on small machines.
const startWait = 3 * time.Minute

// Fleet is a running Lyceum.
type Fleet struct {
	// Postgres and Redis are the engines of the shape "split", to be stopped and started again; nil in "one".
	Postgres *engines.Postgres
	Redis    *engines.Redis

	dir  string
	up   *up.Supervisor // nil in "one"
	url  string
	stop []func() error // in the order of starting
	turn atomic.Uint64
	crew *Crew // nil unless this is the fleet of one
}

// suite is what the tests of a binary share.
var suite struct {
	dir     string
	program func() (string, error)
	one     func() (*Fleet, error)
	split   func() (*Fleet, error)
	small   func() (*Crew, error)
	hosts   func() (*Crew, error)

	mu     sync.Mutex
	fleets []*Fleet
}

// Main runs the tests of a package and then stops what they started; a TestMain calls it. When tests fail,
// the directory with the logs of all processes is kept and named.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "lyceum-fleet-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // PostgreSQL may run as another user, who must be able to enter
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	suite.dir = dir
	suite.program = sync.OnceValues(build)
	suite.one = sync.OnceValues(func() (*Fleet, error) { return keep(startOne()) })
	suite.split = sync.OnceValues(func() (*Fleet, error) { return keep(startSplit()) })
	suite.small = sync.OnceValues(func() (*Crew, error) {
		c, err := startSmall()
		_, err = keep(c.Fleet, err)
		return c, err
	})
	suite.hosts = sync.OnceValues(func() (*Crew, error) {
		c, err := startHosts()
		_, err = keep(c.Fleet, err)
		return c, err
	})
	code := m.Run()
	for _, f := range suite.fleets {
		if err := f.close(); err != nil {
			fmt.Fprintln(os.Stderr, "a fleet did not stop well:", err)
			code = max(code, 1)
		}
	}
	if code != 0 {
		fmt.Fprintln(os.Stderr, "logs are kept in", dir)
	} else if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// Run runs body as a subtest in each shape.
func Run(t *testing.T, body func(t *testing.T, f *Fleet)) {
	t.Helper()
	t.Run("one", func(t *testing.T) { body(t, One(t)) })
	t.Run("split", func(t *testing.T) { body(t, Split(t)) })
}

// One is the process over SQLite and a directory.
func One(t *testing.T) *Fleet {
	t.Helper()
	return started(t, suite.one)
}

// Split is the fleet in which each role has a process and each writer two.
func Split(t *testing.T) *Fleet {
	t.Helper()
	return started(t, suite.split)
}

func started(t *testing.T, start func() (*Fleet, error)) *Fleet {
	t.Helper()
	if start == nil {
		t.Fatal("this package needs func TestMain(m *testing.M) { fleettest.Main(m) }")
	}
	f, err := start()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// keep has a fleet stopped at the end, also one that started in part.
func keep(f *Fleet, err error) (*Fleet, error) {
	suite.mu.Lock()
	defer suite.mu.Unlock()
	suite.fleets = append(suite.fleets, f)
	return f, err
}

// build makes the binary as releases are made.
func build() (string, error) {
	program := filepath.Join(suite.dir, "lyceum")
	cmd := exec.Command("go", "build", "-o", program, "lyceum/cmd/lyceum")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build lyceum: %w\n%s", err, out)
	}
	return program, nil
}

func startOne() (*Fleet, error) {
	f := &Fleet{dir: filepath.Join(suite.dir, "one")}
	program, err := suite.program()
	if err != nil {
		return f, err
	}
	port, err := up.FreePort()
	if err != nil {
		return f, err
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return f, err
	}
	log, err := os.Create(filepath.Join(f.dir, "log"))
	if err != nil {
		return f, err
	}
	defer log.Close()
	address := fmt.Sprintf("127.0.0.1:%d", port)
	f.url = "http://" + address
	cmd := exec.Command(program, "serve", "--data", filepath.Join(f.dir, "data"), "--listen", address, "--server-name", ServerName)
	cmd.Env = append(os.Environ(), settings...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return f, err
	}
	f.stop = append(f.stop, func() error {
		return errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	})
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	return f, awaitHealth(ctx, f.url)
}

// startEngines starts what the processes of a fleet share.
func (f *Fleet) startEngines(ctx context.Context) (s3 *engines.S3, err error) {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return nil, err
	}
	if f.Postgres, err = engines.StartPostgres(ctx, filepath.Join(f.dir, "postgres"), "max_connections=400"); err != nil {
		return nil, err
	}
	f.stop = append(f.stop, f.Postgres.Stop)
	if f.Redis, err = engines.StartRedis(ctx, filepath.Join(f.dir, "redis")); err != nil {
		return nil, err
	}
	f.stop = append(f.stop, f.Redis.Stop)
	if s3, err = engines.StartS3(ctx, filepath.Join(f.dir, "s3")); err != nil {
		return nil, err
	}
	f.stop = append(f.stop, s3.Stop)
	return s3, nil
}

func startSplit() (*Fleet, error) {
	f := &Fleet{dir: filepath.Join(suite.dir, "split")}
	program, err := suite.program()
	if err != nil {
		return f, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	s3, err := f.startEngines(ctx)
	if err != nil {
		return f, err
	}
	port, err := up.FreePort()
	if err != nil {
		return f, err
	}
	environ := append([]string{
		"LYCEUM_BLOB_S3_ENDPOINT=" + s3.Endpoint(), "LYCEUM_BLOB_S3_BUCKET=lyceum", "LYCEUM_BLOB_S3_MAKE_BUCKET=true",
		"LYCEUM_BLOB_S3_ACCESS_KEY=" + s3.AccessKey(), "LYCEUM_BLOB_S3_SECRET_KEY=" + s3.SecretKey(),
	}, settings...)
	config, err := fleet.Load(conf.Sources{Environ: append([]string{
		"LYCEUM_SERVER_NAME=" + ServerName, "LYCEUM_SERVER_DATA=" + filepath.Join(f.dir, "data"),
		fmt.Sprintf("LYCEUM_SERVER_LISTEN=127.0.0.1:%d", port),
	}, environ...)})
	if err != nil {
		return f, err
	}
	config.Database.URL = conf.Secret(f.Postgres.URL())
	config.Redis.Addresses = []string{f.Redis.URL()}
	config.Up.Replicas = up.EachRole()
	f.up = &up.Supervisor{Program: program, Config: config, Environ: environ}
	if err := f.up.Start(ctx); err != nil {
		f.up = nil // it stopped what it started
		return f, err
	}
	return f, nil
}

func (f *Fleet) close() error {
	var errs []error
	if f.up != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		errs = append(errs, f.up.Stop(ctx))
	}
	if f.crew != nil {
		errs = append(errs, f.crew.close())
	}
	for i := len(f.stop) - 1; i >= 0; i-- {
		errs = append(errs, f.stop[i]())
	}
	return errors.Join(errs...)
}

func awaitHealth(ctx context.Context, url string) error {
	client := &http.Client{Timeout: 2 * time.Second}
	for {
		res, err := client.Get(url + "/health")
		if err == nil {
			_ = res.Body.Close() // only the status counts
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(res.Status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w", url, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// URL is where clients are sent: the router, or the one process.
func (f *Fleet) URL() string { return f.URLs()[0] }

// URLs are the public listeners of all processes, the router first. Each answers every request.
func (f *Fleet) URLs() []string {
	var urls []string
	if f.crew != nil {
		for _, m := range f.crew.Members() {
			urls = append(urls, m.URL)
		}
		return urls
	}
	if f.up == nil {
		return []string{f.url}
	}
	for _, c := range f.up.Children() {
		urls = append(urls, "http://"+c.Address())
	}
	return urls
}

// Next is the URL of each process in turn.
func (f *Fleet) Next() string {
	urls := f.URLs()
	return urls[f.turn.Add(1)%uint64(len(urls))]
}

// Children are the processes of the shape "split"; there are none to kill in "one".
func (f *Fleet) Children() []*up.Child {
	if f.up == nil {
		return nil
	}
	return f.up.Children()
}

// Restart replaces a process of "split" as lyceum restart does.
func (f *Fleet) Restart(ctx context.Context, c *up.Child) error { return f.up.Restart(ctx, c, "") }

// Refused starts one more process of "split" with more variables and returns what it said when it ended by
// itself. One that serves, or lasts longer than half a minute, fails the test.
func (f *Fleet) Refused(t *testing.T, environ ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.up.Program, "serve", "--data", t.TempDir(), "--listen", "127.0.0.1:0")
	cmd.Env = slices.Concat(os.Environ(), []string{"LYCEUM_SERVER_NAME=" + ServerName}, f.up.Environ, environ)
	out, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() != nil || strings.Contains(string(out), "msg=serving") {
		t.Fatalf("the process was not refused: %v\n%s", err, out)
	}
	return string(out)
}

// Child is the process with a name such as events-1.
func (f *Fleet) Child(t *testing.T, name string) *up.Child {
	t.Helper()
	for _, c := range f.Children() {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no process has the name %s", name)
	return nil
}

// AwaitHealthy returns when every process serves.
func (f *Fleet) AwaitHealthy(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, url := range f.URLs() {
		if err := awaitHealth(ctx, url); err != nil {
			t.Fatal(err)
		}
	}
}

// Complaints are the warnings and errors that a process of "split" has logged.
func (f *Fleet) Complaints(t *testing.T, child string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(f.dir, "data", child, "log"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "WARN") || strings.Contains(line, "ERROR") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}
