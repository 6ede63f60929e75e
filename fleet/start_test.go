package fleet_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/url"
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

	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"lyceum/ops/opstest"
	"lyceum/ops/up"
	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
)

// TestServeThatFailsMakesNothing: neither a database nor a secret, and nothing in what belongs to others.
func TestServeThatFailsMakesNothing(t *testing.T) {
	s := opstest.NewSite(t, "sqlite")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s.MustFail(t, []string{"server.listen"}, "serve", "--listen", taken.Addr().String())
	opstest.NotCreated(t, s.Data)
	s.MustFail(t, []string{"server.listen"}, "serve", "--listen", "nonsense")
	opstest.NotCreated(t, s.Data)

	if err := os.Mkdir(s.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	left := func(want string) {
		t.Helper()
		var names []string
		found, err := os.ReadDir(s.Data)
		for _, f := range found {
			if f.Name() != "lock" {
				names = append(names, f.Name())
			}
		}
		if got := strings.Join(names, " "); got != want || err != nil {
			t.Errorf("the directory holds %s, %v, expected %s", got, err, want)
		}
	}
	access := filepath.Join(s.Data, "fleet.yaml")
	if err := os.WriteFile(access, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.MustFail(t, []string{"lyceum up --data " + s.Data}, "serve")
	left("fleet.yaml")
	if err := os.Rename(access, filepath.Join(s.Data, "programs")); err != nil { // a fleet that never came up
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"serve"},
		{"user", "add", "a"},
		{"user", "token", "a"},
		{"status"},
		{"doctor"},
		{"backup", t.TempDir() + "/b"},
	} {
		s.MustFail(t, []string{"lyceum up --data " + s.Data}, args...)
	}
	left("programs")
	if err := os.Remove(filepath.Join(s.Data, "programs")); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", filepath.Join(s.Data, "lyceum.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Exec("CREATE TABLE users (name TEXT)"); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve"}, {"user", "add", "a"}, {"status"}, {"restore", s.Data, "--replace"}} {
		s.MustFail(t, []string{"belongs to another program", "users"}, args...)
	}
	left("lyceum.db")
}

// TestStartSaysWhatIsWrongWithTheDatabase names the key, and what to do.
func TestStartSaysWhatIsWrongWithTheDatabase(t *testing.T) {
	s := opstest.NewSite(t, "postgres")
	address := s.Config(t).Database.URL.Reveal()
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
	good, guest := slices.Clone(s.Environ), "guest_"+name
	do("CREATE ROLE " + guest + " LOGIN PASSWORD 'geheim'")
	do("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	at.User = url.UserPassword(guest, "geheim")
	s.Environ = append(slices.Clone(good), "LYCEUM_DATABASE_URL="+at.String())
	s.MustFail(t, []string{"database.url", "GRANT ALL ON SCHEMA public", "permission denied"}, "serve", "--listen", "127.0.0.1:0")

	s.Environ = append(slices.Clone(good), "LYCEUM_DATABASE_URL=mysql://me:geheim@127.0.0.1/x")
	if out, _ := s.Run(t, "serve"); !strings.Contains(out, "LYCEUM_DATABASE_URL: database.url: "+
		"expected an address that begins with postgres://") || strings.Contains(out, "geheim") {
		t.Errorf("another scheme: %s", out)
	}
	opstest.NotCreated(t, s.Data)

	s.Environ = good
	s.Start(t)
	s.Stop()
	do("ALTER DATABASE " + name + " SET default_transaction_read_only = on")
	for _, args := range [][]string{{"serve", "--listen", "127.0.0.1:0"}, {"status"}} {
		s.MustFail(t, []string{"database.url", "takes no writes"}, args...)
	}
}

// TestTheDataOfAnotherUser: commands name the directory and the cause.
func TestTheDataOfAnotherUser(t *testing.T) {
	s := opstest.NewSite(t, "sqlite")
	s.Data = filepath.Join(enginestest.Dir(t), "data")
	s.Environ = append(s.Environ, "LYCEUM_SERVER_DATA="+s.Data)
	s.MustRun(t, "user", "add", "alice")
	if err := os.Chmod(s.Data, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(s.Data, "up.sock"))
	if err == nil {
		err = os.Chmod(filepath.Join(s.Data, "up.sock"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	name, err := opstest.Program()
	if err == nil {
		err = os.Chmod(filepath.Dir(name), 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	fails := func(want []string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env, cmd.Dir = append(os.Environ(), s.Environ...), "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		for _, word := range want {
			if err == nil || !strings.Contains(string(out), word) {
				t.Errorf("lyceum %v: expected an error with %q, found %v %s", args, word, err, out)
			}
		}
	}
	file := filepath.Join(s.Data, "lyceum.db")
	for range 2 {
		fails([]string{"server.data", file, "permission denied"}, "backup", "/tmp/never")
		fails([]string{s.Data, "up.sock", "permission denied"}, "ps", "--data", s.Data)
		if err := os.Chmod(s.Data, 0o700); err != nil { // now nothing in it can be seen
			t.Fatal(err)
		}
	}
}

// TestAStartWaitsForPostgres that takes connections a moment later, and tells so; and does not wait for one that refuses it.
func TestAStartWaitsForPostgres(t *testing.T) {
	address, err := url.Parse(enginestest.TestPostgres(t))
	if err != nil {
		t.Fatal(err)
	}
	there := address.Host
	port, err := up.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address.Host = fmt.Sprintf("127.0.0.1:%d", port)
	s := opstest.NewUpSite(t, "LYCEUM_DATABASE_URL="+address.String(), "LYCEUM_DATABASE_START_WAIT=0s")
	s.MustFail(t, []string{"database.url", "connection refused"}, "serve", "--listen", "127.0.0.1:0")
	s.Environ[len(s.Environ)-1] = "LYCEUM_DATABASE_START_WAIT=30s"
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	commits := &atomic.Int64{}
	wg.Go(func() {
		time.Sleep(time.Second)
		passOn(ctx, t, address.Host, there, commits)
	})
	s.Process(t, s.Data)
	s.Stop()
	if n := commits.Load(); n < cutCommits {
		t.Errorf("the start made %d commits", n)
	}
	d, err := db.Open(t.Context(), s.Config(t).Database.URL.Reveal(), db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var machines int
	if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM machines").Scan(&machines); err != nil || machines != 2 {
		t.Errorf("the process registered %d times, %v", machines, err)
	}
	address.User = url.UserPassword("postgres", "wrong")
	s.Environ = append(s.Environ, "LYCEUM_DATABASE_URL="+address.String())
	began := time.Now()
	s.MustFail(t, []string{"database.url", "password authentication failed"}, "serve", "--listen", "127.0.0.1:0")
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("a wrong password was tried for %s", took)
	}
}

// cutCommits is how many commits of a start are not confirmed.
const cutCommits = 12

// passOn listens at an address and passes connections on, until ctx ends. The first two end at once, as those of a PostgreSQL that begins.
// Others end at their next COMMIT, while few were sent: before it arrives, or after that. So does the one that first registers a process,
// when its COMMIT arrived.
func passOn(ctx context.Context, t *testing.T, from, to string, commits *atomic.Int64) {
	l, err := net.Listen("tcp", from)
	if err != nil {
		t.Error(err)
		return
	}
	context.AfterFunc(ctx, func() { _ = l.Close() })
	var registered atomic.Bool
	for n := 0; ; n++ {
		in, err := l.Accept()
		if err != nil {
			return
		}
		if n < 2 {
			_ = in.Close()
			continue
		}
		out, err := net.Dial("tcp", to)
		if err != nil {
			t.Error(err)
			return
		}
		var lost atomic.Bool // what comes back
		go func() {
			defer out.Close()
			registers := false
			for data := make([]byte, 1<<16); ; {
				n, err := in.Read(data)
				registers = registers || bytes.Contains(data[:n], []byte("INSERT INTO machines"))
				if bytes.Contains(bytes.ToLower(data[:n]), []byte("commit\x00")) {
					switch n := commits.Add(1); {
					case n <= cutCommits && n%2 == 0:
						_ = in.Close()
						return
					case n <= cutCommits || registers && registered.CompareAndSwap(false, true):
						lost.Store(true)
					}
				}
				if _, e := out.Write(data[:n]); err != nil || e != nil {
					return
				}
			}
		}()
		go func() {
			defer in.Close()
			for data := make([]byte, 1<<16); ; {
				n, err := out.Read(data)
				if err != nil || lost.Load() {
					return
				}
				if _, err := in.Write(data[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// TestOneProcessOverPostgresNeedsItsAddressOnly: files and secret are in its data directory, where another one may not be.
func TestOneProcessOverPostgresNeedsItsAddressOnly(t *testing.T) {
	address := enginestest.TestPostgres(t)
	s := opstest.NewUpSite(t, "LYCEUM_DATABASE_URL="+address)
	s.Process(t, s.Data)
	s.MustRun(t, "user", "add", "alice")
	s.MustFail(t, []string{"another process uses the data directory", "--data"}, "serve", "--listen", "127.0.0.1:0")
	s.MustFail(t, []string{"sealed with the secret"}, "serve", "--listen", "127.0.0.1:0", "--data", filepath.Join(t.TempDir(), "second"))
	secret := filepath.Join(s.Data, "secret")
	text, err := os.ReadFile(secret)
	if info, e := os.Stat(secret); err != nil || e != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret: %v %v", err, e)
	}
	s.Stop()
	s.Process(t, s.Data)
	s.MustRun(t, "user", "token", "alice")
	s.Stop()
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	s.MustFail(t, []string{"fleet.secret", "put that file back", secret}, "serve", "--listen", "127.0.0.1:0")
	if _, err := os.Stat(secret); !os.IsNotExist(err) {
		t.Errorf("another secret was made: %v", err)
	}
	if err := os.WriteFile(secret, text, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Process(t, s.Data)
	s.MustRun(t, "user", "token", "alice")
}
