package fleet_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lyceum/ops/opstest"
)

func TestMain(m *testing.M) { os.Exit(opstest.Main(m)) }

// TestServerNameIsKept: what the first start was told holds for every later process and command.
func TestServerNameIsKept(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			s := opstest.NewSite(t, engine).Called("")
			s.MustFail(t, []string{"there is no server", "--server-name"}, "user", "add", "--admin", "early")
			for _, args := range [][]string{
				{"user", "token", "a"},
				{"user", "passwd", "a"},
				{"status"},
				{"doctor"},
				{"backup", t.TempDir() + "/b"},
			} {
				s.MustFail(t, []string{"there is no server"}, args...)
			}
			opstest.NotCreated(t, s.Data)

			s.Called("example.org").Start(t)
			if out := s.Called("").MustRun(t, "user", "add", "--admin", "alice"); !strings.Contains(out, "@alice:example.org") {
				t.Errorf("made %s", out)
			}
			wrong := func() {
				t.Helper()
				s.Called("other.org")
				both := []string{"example.org", "other.org", "server.name"}
				for _, args := range [][]string{{"user", "add", "zed"}, {"user", "token", "alice"}, {"status"}, {"backup", t.TempDir() + "/b"}} {
					s.MustFail(t, both, args...)
				}
			}
			wrong()
			s.Stop()
			wrong()
			s.MustFail(t, []string{"example.org", "other.org"}, "serve", "--listen", "127.0.0.1:0")

			s.Called("").Start(t)
			s.MustRun(t, "user", "token", "alice")
			s.MustFail(t, []string{"there is no user"}, "user", "token", "zed")
			s.Stop()
			file := filepath.Join(t.TempDir(), "backup.tar.zst")
			if out := s.MustRun(t, "backup", file); !strings.Contains(out, "example.org") {
				t.Errorf("the backup says %s", out)
			}
			r := opstest.NewSite(t, engine).Called("other.org")
			r.MustFail(t, []string{"example.org", "other.org"}, "restore", file)
			if engine == "sqlite" {
				opstest.NotCreated(t, r.Data)
			}
			r.Called("").MustRun(t, "restore", file)
			r.Start(t)
			r.MustRun(t, "user", "token", "alice")
		})
	}
}

// TestFirstUserBeforeTheFirstStart has the name that the server will have, and takes the first administrator's token
// from nobody else.
func TestFirstUserBeforeTheFirstStart(t *testing.T) {
	s := opstest.NewSite(t, "sqlite").Called("example.org")
	if out := s.MustRun(t, "user", "add", "--admin", "alice"); !strings.Contains(out, "@alice:example.org") ||
		!strings.Contains(out, "one is made") {
		t.Errorf("made %s", out)
	}
	s.Called("other.org").MustFail(t, []string{"example.org", "other.org"}, "serve", "--listen", "127.0.0.1:0")
	s.Called("").Start(t)
	s.MustRun(t, "user", "token", "alice")
}

// TestAFirstStartThatFailsGivesNoName: a typing error in the name is mended together with what else was wrong.
func TestAFirstStartThatFailsGivesNoName(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := opstest.NewSite(t, "postgres")
	good := slices.Clone(s.Environ)
	for want, wrong := range map[string]string{
		"redis.password":   "LYCEUM_REDIS_PASSWORD=wrong",
		"blob":             "LYCEUM_BLOB_S3_BUCKET=is-not-there",
		"fleet.ops_listen": "LYCEUM_FLEET_OPS_LISTEN=" + taken.Addr().String(),
	} {
		s.Environ = append(slices.Clone(good), wrong)
		s.Called("exmaple.org").MustFail(t, []string{want}, "serve", "--listen", "127.0.0.1:0")
	}
	s.Environ = append(good, "LYCEUM_FLEET_SECRET=another secret of sixteen letters") // the key is not sealed with the one before either
	s.Called("example.org").Start(t)
}

// TestTheFirstStartSaysHowToBegin: the address and the token of the first administrator, over each database; in a fleet the process that
// starts first says it, once.
func TestTheFirstStartSaysHowToBegin(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		s := opstest.NewSite(t, engine).Called("example.org")
		s.Process(t, s.Data)
		says := func() bool {
			out := s.Output()
			return strings.Contains(out, "serves example.org at "+s.URL) && strings.Contains(out, "registers with this token: ")
		}
		until := time.Now().Add(time.Minute)
		for !says() && time.Now().Before(until) { // it is said when the process serves
			time.Sleep(20 * time.Millisecond)
		}
		if !says() {
			t.Errorf("%s: the first start says %s", engine, s.Output())
		}
		if engine == "sqlite" {
			continue
		}
		s.Process(t, t.TempDir())
		time.Sleep(time.Second)
		if out := s.Output(); strings.Contains(out, "with this token") {
			t.Errorf("%s: the second process says it again: %s", engine, out)
		}
	}
}
