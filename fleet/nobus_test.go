package fleet_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"lyceum/platform/db/dbtest"
)

// TestOneProcessWithoutRedisComesBack: the process that was killed is no other one, nor are those that were refused.
func TestOneProcessWithoutRedisComesBack(t *testing.T) {
	s := newSite(t, "postgres")
	s.environ = slices.DeleteFunc(s.environ, func(v string) bool { return strings.HasPrefix(v, "LYCEUM_REDIS") })
	s.mustRun(t, "user", "add", "--admin", "alice") // nothing runs yet
	commands := func(when string) {
		t.Helper()
		for _, args := range [][]string{{"user", "token", "alice"}, {"user", "passwd", "alice"}, {"status"}} {
			if out, err := s.run(t, args...); err != nil {
				t.Errorf("%s: lyceum %v: %v\n%s", when, args, err, out)
			}
		}
	}
	first := s.process(t, s.data)
	commands("while it runs")
	if err := first.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := s.process(t, s.data)
	for range 3 {
		s.mustFail(t, []string{"redis.addresses"}, "serve", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	}
	d := dbtest.Open(t, s.config(t).Database.URL.Reveal())
	var registered int
	if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM machines WHERE expires_ms > $1", time.Now().UnixMilli()).Scan(&registered); err != nil || registered != 1 {
		t.Errorf("%d processes are registered, %v: those that were refused are none", registered, err)
	}
	if err := second.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	commands("after it was killed")
	s.process(t, s.data)
	s.stop()
	commands("after it stopped")
}

// TestOneProcessWithADirectoryComesBack: so it is with one whose files no other would see.
func TestOneProcessWithADirectoryComesBack(t *testing.T) {
	s := newSite(t, "postgres")
	s.environ = slices.DeleteFunc(s.environ, func(v string) bool { return strings.HasPrefix(v, "LYCEUM_BLOB") })
	s.environ = append(s.environ, "LYCEUM_BLOB_DIRECTORY="+t.TempDir())
	if err := s.process(t, s.data).Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.process(t, s.data)
	s.mustFail(t, []string{"blob.directory", "blob.s3"}, "serve", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	s.mustRun(t, "user", "add", "bob", "--data", t.TempDir()) // it needs no files
}
