package opstest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lyceum/fleet"
	"lyceum/ops/up"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
)

// Program is the binary, built once.
var Program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lyceum-backup-test-")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "lyceum")
	out, err := exec.Command("go", "build", "-o", name, "lyceum/cmd/lyceum").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build lyceum: %w\n%s", err, out)
	}
	return name, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if name, err := Program(); err == nil && code >= 0 {
		_ = os.RemoveAll(filepath.Dir(name)) // in a directory for temporary files
	}
	os.Exit(code)
}

// Main runs the tests of a package that runs the binary.
func Main(m *testing.M) int {
	code := m.Run()
	if name, err := Program(); err == nil && code >= 0 {
		_ = os.RemoveAll(filepath.Dir(name)) // in a directory for temporary files
	}
	return code
}

// Site is a place for a server: a data directory, or engines.
type Site struct {
	Data    string        // the data directory
	Environ []string      // of all commands; LYCEUM_SERVER_NAME is the first
	URL     string        // of the process that was started last
	Output  func() string // of that process, until now
	stops   []func()
}

// output is what a process writes. It is safe for concurrent use.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write is part of io.Writer.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// String returns all of it.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

const Secret = "the secret of a fleet in a test"

// NewSite is an empty place.
func NewSite(t *testing.T, engine string) *Site {
	t.Helper()
	s := &Site{Data: filepath.Join(t.TempDir(), "data")}
	s.Environ = []string{
		"LYCEUM_SERVER_NAME=backup.test", "LYCEUM_SERVER_DATA=" + s.Data, "LYCEUM_ACCOUNTS_REGISTRATION=open", "LYCEUM_HTTP_RATE_LIMITS_OFF=true",
		"LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB=64", "LYCEUM_ACCOUNTS_PASSWORD_PASSES=1", "LYCEUM_FLEET_SECRET=" + Secret,
	}
	if engine == "postgres" {
		s3 := enginestest.TestS3(t)
		s.Environ = append(s.Environ, "LYCEUM_DATABASE_URL="+enginestest.TestPostgres(t), "LYCEUM_REDIS_ADDRESSES="+enginestest.TestRedis(t),
			"LYCEUM_REDIS_PREFIX="+enginestest.Unique(), "LYCEUM_BLOB_S3_ENDPOINT="+s3.Endpoint, "LYCEUM_BLOB_S3_BUCKET="+s3.Bucket,
			"LYCEUM_BLOB_S3_ACCESS_KEY="+s3.AccessKey, "LYCEUM_BLOB_S3_SECRET_KEY="+s3.SecretKey)
	}
	return s
}

// NewUpSite is a site for lyceum up: with the given variables beside those that make it cheap.
func NewUpSite(t *testing.T, more ...string) *Site {
	t.Helper()
	s := &Site{Data: filepath.Join(enginestest.Dir(t), "fleet")}
	s.Environ = append([]string{
		"LYCEUM_SERVER_NAME=", "LYCEUM_SERVER_DATA=" + s.Data, "LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB=64", "LYCEUM_ACCOUNTS_PASSWORD_PASSES=1",
	}, more...)
	return s
}

func (s *Site) Config(t *testing.T) *fleet.Config {
	t.Helper()
	c, err := fleet.Load(conf.Sources{Environ: s.Environ})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Called is a site without a configured name, or with one.
func (s *Site) Called(name string) *Site {
	s.Environ[0] = "LYCEUM_SERVER_NAME=" + name
	return s
}

// Without is the site without the variables that begin in one of some ways.
func (s *Site) Without(beginnings ...string) *Site {
	without := *s
	without.Environ = slices.DeleteFunc(slices.Clone(s.Environ), func(e string) bool {
		return slices.ContainsFunc(beginnings, func(beginning string) bool { return strings.HasPrefix(e, beginning) })
	})
	return &without
}

// LongestCommand ends one that should have been refused, and serves.
const LongestCommand = 2 * time.Minute

// Run runs a command of the binary and returns what it said.
func (s *Site) Run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	name, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), LongestCommand)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), s.Environ...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *Site) MustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.Run(t, args...)
	if err != nil {
		t.Fatalf("lyceum %v: %v\n%s", args, err, out)
	}
	return out
}

// MustFail runs a command that ends with an error that has all the words.
func (s *Site) MustFail(t *testing.T, words []string, args ...string) {
	t.Helper()
	out, err := s.Run(t, args...)
	if err == nil {
		t.Errorf("lyceum %v: expected an error with %q, found\n%s", args, words, out)
	}
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("lyceum %v: expected an error with %q, found\n%s", args, words, out)
		}
	}
}

// NotCreated checks that no file was made.
func NotCreated(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		found, _ := os.ReadDir(dir)
		t.Errorf("%s: %v %v, expected that it was not made", dir, found, err)
	}
}

// Start starts one process, which has all roles; over PostgreSQL a second joins it.
func (s *Site) Start(t *testing.T) {
	t.Helper()
	s.Process(t, s.Data)
	if slices.ContainsFunc(s.Environ, func(e string) bool { return strings.HasPrefix(e, "LYCEUM_DATABASE_URL") }) {
		s.Process(t, t.TempDir())
	}
}

// Process starts one process, which has all roles, and waits until it serves.
func (s *Site) Process(t *testing.T, data string, args ...string) *exec.Cmd {
	t.Helper()
	name, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	port, err := up.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	log := &output{}
	s.Output = log.String
	cmd := exec.Command(name, append([]string{"serve", "--data", data, "--listen", fmt.Sprintf("127.0.0.1:%d", port)}, args...)...)
	cmd.Env, cmd.Dir = append(os.Environ(), s.Environ...), t.TempDir()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // read by who stops it
		close(done)
	}()
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-done
			t.Errorf("the server does not stop:\n%s", log.String())
		}
	})
	t.Cleanup(stop)
	s.stops = append(s.stops, stop)
	s.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		res, err := http.Get(s.URL + "/health")
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == 200 {
				return cmd
			}
		}
		select {
		case <-done:
			t.Fatalf("the server ended:\n%s", log.String())
		default:
		}
		if time.Since(began) > time.Minute {
			t.Fatal("the server does not serve")
		}
	}
}

func (s *Site) Stop() {
	for _, stop := range s.stops {
		stop()
	}
	s.stops = nil
}

// ServeFor starts one process, stops it when it serves, and returns what it said.
func (s *Site) ServeFor(t *testing.T, args ...string) string {
	t.Helper()
	s.Process(t, s.Data, args...)
	s.Stop()
	return s.Output()
}

// Up starts a small fleet in the background, and stops it at the end. It returns what the start printed.
func (s *Site) Up(t *testing.T, args ...string) (printed string) {
	t.Helper()
	port, err := up.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	s.URL = fmt.Sprintf("http://127.0.0.1:%d", port)
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	printed = s.MustRun(t, append([]string{"up", "--detach", "--listen", listen, "--set", "up.replicas=all=2"}, args...)...)
	s.stops = []func(){func() { s.MustRun(t, "stop") }}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), LongestCommand)
		defer cancel()
		if running, err := up.FindSupervisor(s.Data); err == nil {
			if err := running.Stop(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	return printed
}

func (s *Site) Database(t *testing.T) *db.DB {
	t.Helper()
	url := s.Config(t).Database.URL.Reveal()
	if url == "" {
		url = "sqlite:" + filepath.Join(s.Data, "lyceum.db")
	}
	d, err := db.Open(t.Context(), url, db.Options{Readers: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}
