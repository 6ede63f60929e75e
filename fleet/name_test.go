package fleet_test

import (
	"database/sql"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// called is a site without a configured name, or with one.
func (s *site) called(name string) *site {
	s.environ[0] = "LYCEUM_SERVER_NAME=" + name
	return s
}

// mustFail runs a command that ends with an error that has all the words.
func (s *site) mustFail(t *testing.T, words []string, args ...string) {
	t.Helper()
	out, err := s.run(t, args...)
	if err == nil {
		t.Errorf("lyceum %v: expected an error with %q, found\n%s", args, words, out)
	}
	for _, word := range words {
		if !strings.Contains(out, word) {
			t.Errorf("lyceum %v: expected an error with %q, found\n%s", args, words, out)
		}
	}
}

// nothing checks that no file was made.
func nothing(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		found, _ := os.ReadDir(dir)
		t.Errorf("%s: %v %v, expected that it was not made", dir, found, err)
	}
}

// TestServerNameIsKept: what the first start was told holds for every later process and command.
func TestServerNameIsKept(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			s := newSite(t, engine).called("")
			s.mustFail(t, []string{"there is no server", "--server-name"}, "user", "add", "--admin", "early")
			for _, args := range [][]string{{"user", "token", "a"}, {"user", "passwd", "a"}, {"status"}, {"doctor"}, {"backup", t.TempDir() + "/b"}} {
				s.mustFail(t, []string{"there is no server"}, args...)
			}
			nothing(t, s.data)

			s.called("example.org").start(t)
			if out := s.called("").mustRun(t, "user", "add", "--admin", "alice"); !strings.Contains(out, "@alice:example.org") {
				t.Errorf("made %s", out)
			}
			wrong := func() {
				t.Helper()
				s.called("other.org")
				both := []string{"example.org", "other.org", "server.name"}
				for _, args := range [][]string{{"user", "add", "zed"}, {"user", "token", "alice"}, {"status"}, {"backup", t.TempDir() + "/b"}} {
					s.mustFail(t, both, args...)
				}
			}
			wrong()
			s.stop()
			wrong()
			s.mustFail(t, []string{"example.org", "other.org"}, "serve", "--listen", "127.0.0.1:0")

			s.called("").start(t)
			s.mustRun(t, "user", "token", "alice")
			s.mustFail(t, []string{"there is no user"}, "user", "token", "zed")
			s.stop()
			file := filepath.Join(t.TempDir(), "backup.tar.zst")
			if out := s.mustRun(t, "backup", file); !strings.Contains(out, "example.org") {
				t.Errorf("the backup says %s", out)
			}
			r := newSite(t, engine).called("other.org")
			r.mustFail(t, []string{"example.org", "other.org"}, "restore", file)
			if engine == "sqlite" {
				nothing(t, r.data)
			}
			r.called("").mustRun(t, "restore", file)
			r.start(t)
			r.mustRun(t, "user", "token", "alice")
		})
	}
}

// TestFirstUserBeforeTheFirstStart has the name that the server will have, and takes the first administrator's token
// from nobody else.
func TestFirstUserBeforeTheFirstStart(t *testing.T) {
	s := newSite(t, "sqlite").called("example.org")
	if out := s.mustRun(t, "user", "add", "--admin", "alice"); !strings.Contains(out, "@alice:example.org") || !strings.Contains(out, "one is made") {
		t.Errorf("made %s", out)
	}
	s.called("other.org").mustFail(t, []string{"example.org", "other.org"}, "serve", "--listen", "127.0.0.1:0")
	s.called("").start(t)
	s.mustRun(t, "user", "token", "alice")
}

// TestAFirstStartThatFailsGivesNoName: a typing error in the name is mended together with what else was wrong.
func TestAFirstStartThatFailsGivesNoName(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := newSite(t, "postgres")
	good := slices.Clone(s.environ)
	for want, wrong := range map[string]string{
		"redis.password":   "LYCEUM_REDIS_PASSWORD=wrong",
		"blob":             "LYCEUM_BLOB_S3_BUCKET=is-not-there",
		"fleet.ops_listen": "LYCEUM_FLEET_OPS_LISTEN=" + taken.Addr().String(),
	} {
		s.environ = append(slices.Clone(good), wrong)
		s.called("exmaple.org").mustFail(t, []string{want}, "serve", "--listen", "127.0.0.1:0")
	}
	s.environ = append(good, "LYCEUM_FLEET_SECRET=another secret of sixteen letters") // the key is not sealed with the one before either
	s.called("example.org").start(t)
}

// TestServeThatFailsMakesNothing: neither a database nor a secret, and nothing in what belongs to others.
func TestServeThatFailsMakesNothing(t *testing.T) {
	s := newSite(t, "sqlite")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s.mustFail(t, []string{"server.listen"}, "serve", "--listen", taken.Addr().String())
	nothing(t, s.data)
	s.mustFail(t, []string{"server.listen"}, "serve", "--listen", "nonsense")
	nothing(t, s.data)

	if err := os.Mkdir(s.data, 0o755); err != nil {
		t.Fatal(err)
	}
	left := func(want string) {
		t.Helper()
		var names []string
		found, err := os.ReadDir(s.data)
		for _, f := range found {
			if f.Name() != "lock" {
				names = append(names, f.Name())
			}
		}
		if got := strings.Join(names, " "); got != want || err != nil {
			t.Errorf("the directory holds %s, %v, expected %s", got, err, want)
		}
	}
	access := filepath.Join(s.data, "fleet.yaml")
	if err := os.WriteFile(access, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve"}, {"user", "add", "a"}, {"user", "token", "a"}, {"status"}, {"doctor"}, {"backup", t.TempDir() + "/b"}} {
		s.mustFail(t, []string{"--config " + access}, args...)
	}
	left("fleet.yaml")
	if err := os.Remove(access); err != nil {
		t.Fatal(err)
	}

	other, err := sql.Open("sqlite", filepath.Join(s.data, "lyceum.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec("CREATE TABLE users (name TEXT)"); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve"}, {"user", "add", "a"}, {"status"}, {"restore", access, "--replace"}} {
		if args[0] == "restore" {
			args[1] = s.data // any name that is there: the database is looked at first
		}
		s.mustFail(t, []string{"belongs to another program", "users"}, args...)
	}
	left("lyceum.db")
}
