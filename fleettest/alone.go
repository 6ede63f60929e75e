package fleettest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"lyceum/ops/up"
)

// Alone is a process that one test has for itself.
type Alone struct {
	*Fleet
	Database string // its URL, for tests that look at what was stored
	PID      int
}

// StartAlone starts a process over SQLite, or over the PostgreSQL database of a URL, with more settings as
// NAME=value. It ends with the test.
func StartAlone(t *testing.T, database string, environ ...string) *Alone {
	t.Helper()
	if suite.program == nil {
		t.Fatal("this package needs func TestMain(m *testing.M) { fleettest.Main(m) }")
	}
	program, err := suite.program()
	if err != nil {
		t.Fatal(err)
	}
	port, err := up.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	a := &Alone{Fleet: &Fleet{dir: dir, url: "http://" + address}, Database: database}
	cmd := exec.Command(program, "serve", "--data", filepath.Join(dir, "data"), "--listen", address, "--server-name", ServerName)
	cmd.Env = append(append(os.Environ(), settings...), environ...)
	if database == "" {
		a.Database = "sqlite:" + filepath.Join(dir, "data", "lyceum.db")
	} else {
		cmd.Env = append(cmd.Env, "LYCEUM_DATABASE_URL="+database, "LYCEUM_BLOB_DIRECTORY="+filepath.Join(dir, "blobs"))
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.PID = cmd.Process.Pid
	t.Cleanup(func() {
		err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait(), log.Close())
		if err != nil || t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("the process ended with %v; the end of its log:\n%s", err, text[max(0, len(text)-4000):])
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), startWait)
	defer cancel()
	if err := awaitHealth(ctx, a.url); err != nil {
		t.Fatal(err)
	}
	return a
}
