package fleet_test

import (
	"database/sql"
	"errors"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
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
	s.mustFail(t, []string{"lyceum up --data " + s.data}, "serve")
	left("fleet.yaml")
	if err := os.Rename(access, filepath.Join(s.data, "programs")); err != nil { // a fleet that never came up
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve"}, {"user", "add", "a"}, {"user", "token", "a"}, {"status"}, {"doctor"}, {"backup", t.TempDir() + "/b"}} {
		s.mustFail(t, []string{"lyceum up --data " + s.data}, args...)
	}
	left("programs")
	if err := os.Remove(filepath.Join(s.data, "programs")); err != nil {
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
	for _, args := range [][]string{{"serve"}, {"user", "add", "a"}, {"status"}, {"restore", s.data, "--replace"}} {
		s.mustFail(t, []string{"belongs to another program", "users"}, args...)
	}
	left("lyceum.db")
}

// TestStartSaysWhatIsWrongWithTheDatabase names the key, and what to do.
func TestStartSaysWhatIsWrongWithTheDatabase(t *testing.T) {
	s := newSite(t, "postgres")
	address := s.config(t).Database.URL.Reveal()
	d, err := db.Open(t.Context(), address, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var name string
	if err := d.QueryRow(t.Context(), "SELECT current_database()").Scan(&name); err != nil {
		t.Fatal(err)
	}
	do := func(statement string) {
		t.Helper()
		if _, err := d.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	good, guest := slices.Clone(s.environ), "guest_"+name
	do("CREATE ROLE " + guest + " LOGIN PASSWORD 'geheim'")
	do("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	at.User = url.UserPassword(guest, "geheim")
	s.environ = append(slices.Clone(good), "LYCEUM_DATABASE_URL="+at.String())
	s.mustFail(t, []string{"database.url", "GRANT ALL ON SCHEMA public", "permission denied"}, "serve", "--listen", "127.0.0.1:0")

	s.environ = append(slices.Clone(good), "LYCEUM_DATABASE_URL=mysql://me:geheim@127.0.0.1/x")
	if out, _ := s.run(t, "serve"); !strings.Contains(out, "LYCEUM_DATABASE_URL: database.url: expected an address that begins with postgres://") || strings.Contains(out, "geheim") {
		t.Errorf("another scheme: %s", out)
	}
	nothing(t, s.data)

	s.environ = good
	s.start(t)
	s.stop()
	do("ALTER DATABASE " + name + " SET default_transaction_read_only = on")
	for _, command := range []string{"serve", "status"} {
		s.mustFail(t, []string{"database.url", "takes no writes"}, command, "--listen", "127.0.0.1:0")
	}
}

// TestTheDataOfAnotherUser: commands name the directory and the cause.
func TestTheDataOfAnotherUser(t *testing.T) {
	s := newSite(t, "sqlite")
	s.data = filepath.Join(enginestest.Dir(t), "data")
	s.environ = append(s.environ, "LYCEUM_SERVER_DATA="+s.data)
	s.mustRun(t, "user", "add", "alice")
	if err := os.Chmod(s.data, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(s.data, "up.sock"))
	if err == nil {
		err = os.Chmod(filepath.Join(s.data, "up.sock"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	name, err := program()
	if err == nil {
		err = os.Chmod(filepath.Dir(name), 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	fails := func(want []string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env, cmd.Dir = append(os.Environ(), s.environ...), "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		for _, word := range want {
			if err == nil || !strings.Contains(string(out), word) {
				t.Errorf("lyceum %v: expected an error with %q, found %v %s", args, word, err, out)
			}
		}
	}
	file := filepath.Join(s.data, "lyceum.db")
	for range 2 {
		fails([]string{"server.data", file, "permission denied"}, "backup", "/tmp/never")
		fails([]string{s.data, "up.sock", "permission denied"}, "ps", "--data", s.data)
		if err := os.Chmod(s.data, 0o700); err != nil { // now nothing in it can be seen
			t.Fatal(err)
		}
	}
}

// TestCommandsSayWhereAMistakeIs: nothing is said or made before, and only how a command is written has the usage beside it.
func TestCommandsSayWhereAMistakeIs(t *testing.T) {
	for _, c := range []struct{ variable, want, args string }{
		{"MACHINE_ID=abc", "environment MACHINE_ID: fleet.machine_id", "serve"},
		{"MACHINE_ID=3", "lyceum up gives each process an id of its own", "up"},
		{"LYCEUM_FLEET_MACHINE_ID=abc", "environment LYCEUM_FLEET_MACHINE_ID: fleet.machine_id", "up"},
		{"", "lyceum up gives each process an id of its own", "up --machine-id 3"},
		{"", "up.replicas: no process has", "up --set up.replicas=events=1"},
		{"", "up.replicas: no process has", "up --detach --set up.replicas=events=1"},
		{"", "no such file", "rollout no-such-file"},
	} {
		s := newSite(t, "sqlite")
		s.environ = append(s.environ, c.variable)
		out, err := s.run(t, strings.Fields(c.args)...)
		exit, _ := errors.AsType[*exec.ExitError](err)
		if exit == nil || exit.ExitCode() != 1 || !strings.Contains(out, c.want) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s lyceum %s: expected one line with %q, found %v\n%s", c.variable, c.args, c.want, err, out)
		}
		nothing(t, s.data)
	}
}
