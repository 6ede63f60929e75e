package fleet_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lyceum/ops/opstest"
	"lyceum/platform/db/dbtest"
)

// TestOneProcessWithoutRedisComesBack: the process that was killed is no other one, nor are those that were refused.
func TestOneProcessWithoutRedisComesBack(t *testing.T) {
	s := opstest.NewSite(t, "postgres")
	s.Environ = slices.DeleteFunc(s.Environ, func(v string) bool { return strings.HasPrefix(v, "LYCEUM_REDIS") })
	s.MustRun(t, "user", "add", "--admin", "alice") // nothing runs yet
	commands := func(when string) {
		t.Helper()
		for _, args := range [][]string{{"user", "token", "alice"}, {"user", "passwd", "alice"}, {"status"}} {
			if out, err := s.Run(t, args...); err != nil {
				t.Errorf("%s: lyceum %v: %v\n%s", when, args, err, out)
			}
		}
	}
	first := s.Process(t, s.Data)
	commands("while it runs")
	if err := first.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := s.Process(t, s.Data)
	for range 3 {
		s.MustFail(t, []string{"redis.addresses"}, "serve", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	}
	d := dbtest.Open(t, s.Config(t).Database.URL.Reveal())
	var registered int
	if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM machines WHERE expires_ms > $1",
		time.Now().UnixMilli()).Scan(&registered); err != nil || registered != 1 {
		t.Errorf("%d processes are registered, %v: those that were refused are none", registered, err)
	}
	if err := second.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	commands("after it was killed")
	s.Process(t, s.Data)
	s.Stop()
	commands("after it stopped")
}

// TestOneProcessWithADirectoryComesBack: so it is with one whose files no other would see.
func TestOneProcessWithADirectoryComesBack(t *testing.T) {
	s := opstest.NewSite(t, "postgres")
	s.Environ = slices.DeleteFunc(s.Environ, func(v string) bool { return strings.HasPrefix(v, "LYCEUM_BLOB") })
	s.Environ = append(s.Environ, "LYCEUM_BLOB_DIRECTORY="+t.TempDir())
	if err := s.Process(t, s.Data).Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.Process(t, s.Data)
	s.MustFail(t, []string{"blob.directory", "blob.s3"}, "serve", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	s.MustRun(t, "user", "add", "bob", "--data", t.TempDir()) // it needs no files
}
