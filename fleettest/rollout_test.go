package fleettest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lyceum/bench"
	"lyceum/fleet"
)

// buildVersion makes a binary of another version. more are files that only that version has: a schema step, for example.
func buildVersion(t *testing.T, dir, version string, more map[string]string) string {
	t.Helper()
	program := filepath.Join(dir, "lyceum-"+version)
	args := []string{"build", "-o", program, "-ldflags", "-X lyceum/platform/obs.Version=" + version}
	if len(more) > 0 {
		replace := map[string]string{}
		for name, text := range more {
			abs, err := filepath.Abs(filepath.Join("..", name))
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			replace[abs] = file
		}
		text, err := json.Marshal(map[string]any{"Replace": replace})
		if err != nil {
			t.Fatal(err)
		}
		overlay := filepath.Join(dir, "overlay-"+version+".json")
		if err := os.WriteFile(overlay, text, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.Command("go", append(args, "lyceum/cmd/lyceum")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", version, err, out)
	}
	return program
}

// TestARolloutLosesNoRequest upgrades a living fleet from the command line, over another Y and another schema, while
// bench sends and reads back; then a build that can not start is rolled back, and another X is refused.
func TestARolloutLosesNoRequest(t *testing.T) {
	dir, err := os.MkdirTemp("", "lyceum-rollout-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL may run as another user
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	steps, err := filepath.Glob("../accounts/migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	step := fmt.Sprintf("accounts/migrations/%04d_rollout_test.sql", len(steps)+1)
	first := buildVersion(t, dir, "1.4.2", nil)
	second := buildVersion(t, dir, "1.5.0", map[string]string{step: "CREATE TABLE rollout_test (n BIGINT NOT NULL PRIMARY KEY);"})
	third := filepath.Join(dir, "third") // only its version is asked
	if err := os.WriteFile(third, []byte("#!/bin/sh\necho lyceum 2.0.0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	port, err := fleet.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	run := func(program string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, append(args, "--data", data)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(),
			"LYCEUM_ACCOUNTS_REGISTRATION=open", "LYCEUM_HTTP_RATE_LIMITS_OFF=true",
			"LYCEUM_ACCOUNTS_PASSWORD_MEMORY_KIB=64", "LYCEUM_ACCOUNTS_PASSWORD_PASSES=1")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	if out, err := run(first, "up", "--detach", "--listen", fmt.Sprintf("127.0.0.1:%d", port), "--server-name", "rollout.test"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := run(first, "stop"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})

	// The load goes on from before the rollout to after it.
	type outcome struct {
		result *bench.Result
		err    error
	}
	sent := make(chan outcome, 1)
	started := &begin{sending: make(chan struct{})}
	go func() {
		r, err := (bench.Send{Senders: 4, Rooms: 4, Duration: 40 * time.Second}).Run(t.Context(), &bench.Target{URL: url}, started)
		sent <- outcome{r, err}
	}()
	select {
	case <-started.sending:
	case o := <-sent:
		t.Fatal("the load did not start: ", o.err)
	}
	out, err := run(first, "rollout", "--watch", "1s", second)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("the rollout:\n%s", out)
	if ps, err := run(first, "ps"); err != nil || strings.Contains(ps, "1.4.2") || !strings.Contains(ps, "1.5.0") {
		t.Errorf("after the rollout: %v\n%s", err, ps)
	}

	// A binary that can not serve changes nothing.
	broken := filepath.Join(dir, "broken")
	text := "#!/bin/sh\n[ \"$1\" = version ] && echo lyceum 1.6.0 && exit 0\necho broken >&2\nexit 1\n"
	if err := os.WriteFile(broken, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := run(first, "rollout", "--watch", "1s", broken); err == nil || !strings.Contains(out, "taken back") {
		t.Errorf("a broken binary: %v\n%s", err, out)
	}
	if ps, err := run(first, "ps"); err != nil || strings.Contains(ps, "1.6.0") || !strings.Contains(ps, "1.5.0") {
		t.Errorf("after the broken binary: %v\n%s", err, ps)
	}
	if out, err := run(first, "rollout", third); err == nil || !strings.Contains(out, "can not work together") {
		t.Errorf("another X: %v\n%s", err, out)
	}
	// Back to the older Y, over the newer schema.
	if out, err := run(first, "rollout", "--watch", "1s", first); err != nil {
		t.Errorf("back: %v\n%s", err, out)
	}
	o := <-sent
	if o.err != nil {
		t.Fatal(o.err)
	}
	if o.result.Check != "ok" || o.result.Errors > 0 || o.result.Retries > 0 {
		t.Errorf("the load: check %s, %d errors, %d retries", o.result.Check, o.result.Errors, o.result.Retries)
	}
	t.Logf("%d messages while the fleet was upgraded and taken back: errors %d, retries %d, longest pause %.0f ms", o.result.Done, o.result.Errors, o.result.Retries, o.result.Longest)
}
