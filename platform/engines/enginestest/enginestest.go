package enginestest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lyceum/platform/engines"
)

// startWait is long because several test binaries start their servers at once on small machines.
const startWait = 60 * time.Second

// S3Config is what a client needs to reach the S3 server.
type S3Config struct {
	Endpoint  string // http://host:port
	Region    string
	Bucket    string // exists and is empty
	AccessKey string
	SecretKey string
}

// shared is one server of this test binary, started when it is first asked for.
type shared[T any] struct {
	once   sync.Once
	engine T
	err    error
}

func (s *shared[T]) get(t testing.TB, kind string, start func(ctx context.Context, dir string) (T, error)) T {
	t.Helper()
	s.once.Do(func() {
		dir, err := baseDir()
		if err != nil {
			s.err = err
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), startWait)
		defer cancel()
		s.engine, s.err = start(ctx, filepath.Join(dir, kind))
	})
	if s.err != nil {
		t.Fatalf("this test needs a real %s: %v", kind, s.err)
	}
	return s.engine
}

var (
	postgres shared[*engines.Postgres]
	redis    shared[*engines.Redis]
	s3       shared[*engines.S3]
	serial   atomic.Int64
)

// Postgres returns the server shared by the tests of this binary. A test that stops or
// kills a server starts its own with engines.StartPostgres.
func Postgres(t testing.TB) *engines.Postgres {
	t.Helper()
	return postgres.get(t, "postgres", func(ctx context.Context, dir string) (*engines.Postgres, error) {
		return engines.StartPostgres(ctx, dir)
	})
}

// TestPostgres returns the URL of a fresh, empty database, removed when the test ends.
func TestPostgres(t testing.TB) string {
	t.Helper()
	server := Postgres(t)
	name := fmt.Sprintf("test_%d", serial.Add(1))
	url, err := server.NewDatabase(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startWait)
		defer cancel()
		if err := server.DropDatabase(ctx, name); err != nil {
			t.Error(err)
		}
	})
	return url
}

// TestRedis returns the URL of the shared server. Tests in parallel keep apart by a prefix: see Unique.
func TestRedis(t testing.TB) string {
	t.Helper()
	return redis.get(t, "redis", func(ctx context.Context, dir string) (*engines.Redis, error) {
		return engines.StartRedis(ctx, dir)
	}).URL()
}

// TestS3 returns a fresh, empty bucket.
func TestS3(t testing.TB) S3Config {
	t.Helper()
	server := s3.get(t, "s3", engines.StartS3)
	bucket := fmt.Sprintf("test-%d", serial.Add(1))
	if err := server.MakeBucket(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	return S3Config{
		Endpoint: server.Endpoint(), Region: server.Region(), Bucket: bucket,
		AccessKey: server.AccessKey(), SecretKey: server.SecretKey(),
	}
}

// Unique returns a short name that no other test of this binary gets.
func Unique() string { return fmt.Sprintf("t%d", serial.Add(1)) }

// Dir returns a directory that the user who runs PostgreSQL for root can pass, removed when the test ends.
// The directory of t.TempDir is closed to other users.
func Dir(t testing.TB) string {
	t.Helper()
	base, err := baseDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, Unique())
	if err := os.Mkdir(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

const dirPrefix = "lyceum-engines-"

// baseDir makes the directory of this test binary and removes those of binaries that are gone:
// a test binary has no end at which it could remove its own while the servers still run.
var baseDir = sync.OnceValues(func() (string, error) {
	old, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && n != os.Getpid() && gone(n) {
			os.RemoveAll(dir)
		}
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711)
})

func gone(pid int) bool {
	process, err := os.FindProcess(pid)
	if err != nil {
		return true
	}
	err = process.Signal(syscall.Signal(0))
	return errors.Is(err, os.ErrProcessDone) || errors.Is(err, fs.ErrNotExist)
}
