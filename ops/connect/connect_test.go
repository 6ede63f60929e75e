package connect_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lyceum/ops/opstest"
)

func TestMain(m *testing.M) { os.Exit(opstest.Main(m)) }

// TestCommandsSpeakToTheFleetOfADirectory: with the data directory of lyceum up a command reaches its fleet, while it runs and, where
// that makes sense, after it; and never makes a second server there.
func TestCommandsSpeakToTheFleetOfADirectory(t *testing.T) {
	s := opstest.NewUpSite(t)
	s.Up(t, "--server-name", "fleet.test", "--set", "accounts.registration=closed")
	if out := s.MustRun(t, "user", "add", "--admin", "alice"); !strings.Contains(out, "made @alice:fleet.test") {
		t.Errorf("made %s", out)
	}
	s.Called("other.test").MustFail(t, []string{"fleet.test", "other.test"}, "user", "add", "zed")
	s.Called("")
	if out := s.MustRun(t, "status"); strings.Count(out, "all") < 2 || !strings.Contains(out, "fleet.test") {
		t.Errorf("the status of two processes:\n%s", out)
	}
	s.MustRun(t, "doctor", "--interval", "1s")
	if out := s.MustRun(t, "ps", "--config", filepath.Join(s.Data, "fleet.yaml")); !strings.Contains(out, "all-2") {
		t.Errorf("processes: %s", out)
	}
	for _, child := range []string{"all-1", "all-2"} { // --set reaches each
		log, err := os.ReadFile(filepath.Join(s.Data, child, "log"))
		if err != nil || !strings.Contains(string(log), "serving") {
			t.Errorf("%s: %v\n%s", child, err, log)
		}
	}
	if text, err := os.ReadFile(filepath.Join(s.Data, "fleet.yaml")); err != nil || !strings.Contains(string(text), "registration: closed") {
		t.Errorf("the configuration of the processes: %v\n%s", err, text)
	}
	s.Stop()
	for _, command := range []string{"status", "doctor"} {
		s.MustFail(t, []string{"is stopped", "lyceum up --data"}, command)
	}
	s.MustRun(t, "user", "token", "alice")
	if out := s.MustRun(t, "user", "add", "bob"); !strings.Contains(out, "made @bob:fleet.test") {
		t.Errorf("made %s", out)
	}
	file := filepath.Join(t.TempDir(), "fleet.tar.zst")
	if out := s.MustRun(t, "backup", file); !strings.Contains(out, "fleet.test") {
		t.Errorf("backup: %s", out)
	}
	if found, err := filepath.Glob(filepath.Join(s.Data, "lyceum.db*")); err != nil || len(found) > 0 {
		t.Errorf("a private server was made: %v, %v", found, err)
	}
	if _, err := os.Stat(filepath.Join(s.Data, "postgres", "data", "postmaster.pid")); !os.IsNotExist(err) {
		t.Errorf("PostgreSQL still runs: %v", err)
	}
	refused := []string{"server.name", "fleet.test", "other.test", "nothing was changed"}
	s.Called("other.test").MustFail(t, refused, "up", "--listen", "127.0.0.1:0")
	if log, err := os.ReadFile(filepath.Join(s.Data, "all-1", "log")); err != nil || strings.Contains(string(log), "other.test") {
		t.Errorf("a process was started under the wrong name: %v", err)
	}
	s.Called("").Up(t)
	s.MustRun(t, "user", "token", "bob")
}

// TestAStoppedServerIsSaidAndNotHeld: status and doctor tell that nobody runs, and a server can start between two looks.
func TestAStoppedServerIsSaidAndNotHeld(t *testing.T) {
	s := opstest.NewUpSite(t).Called("stopped.test")
	s.Process(t, s.Data)
	s.Stop()
	if out := s.MustRun(t, "status"); !strings.Contains(out, "no process of this server runs") || !strings.Contains(out, "nobody:16") {
		t.Errorf("status: %s", out)
	}
	s.MustFail(t, []string{"no process runs"}, "doctor", "--interval", "10ms")
	name, err := opstest.Program()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	shows := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			text, err := os.ReadFile(log.Name())
			if strings.Contains(string(text), what) {
				return
			}
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("expected %q in what status --watch shows, found %v\n%s", what, err, text)
			}
		}
	}
	watch := exec.Command(name, "status", "--watch", "--interval", "1s")
	watch.Env, watch.Dir, watch.Stdout, watch.Stderr = append(os.Environ(), s.Environ...), t.TempDir(), log, log
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	shows("no process of this server runs")
	s.Process(t, s.Data)
	shows("1 processes")
	if err := errors.Join(watch.Process.Signal(syscall.SIGTERM), watch.Wait()); err != nil {
		t.Errorf("status --watch: %v", err)
	}
}
