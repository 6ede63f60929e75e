package fleettest_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lyceum/fleettest"
)

// skewedProgram builds Lyceum upon a standard library whose wall clock jumps by LYCEUM_TEST_CLOCK, when the process has
// run for LYCEUM_TEST_CLOCK_AFTER; both in nanoseconds. Nothing else shifts the clock of one process alone: its
// binary is static, and time namespaces leave the wall clock as it is.
func skewedProgram(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	const before = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(string(text), before) {
		t.Fatalf("time.Now of this Go is made in another way: adapt this test to %s", original)
	}
	skewed := strings.Replace(string(text), before, before+"\tsec += testSkew(mono)\n", 1) + `
var testClock, testClockAfter = testVariable("LYCEUM_TEST_CLOCK"), testVariable("LYCEUM_TEST_CLOCK_AFTER")

func testVariable(name string) int64 {
	text, _ := syscall.Getenv(name)
	d, _ := ParseDuration(text + "ns")
	return int64(d)
}

func testSkew(mono int64) int64 {
	if testClock == 0 || mono-startNano < testClockAfter {
		return 0
	}
	return testClock / int64(Second)
}
`
	if !strings.Contains(skewed, `"syscall"`) {
		skewed = strings.Replace(skewed, "import (\n", "import (\n\t\"syscall\"\n", 1)
	}
	dir := t.TempDir()
	changed, overlay, program := filepath.Join(dir, "time.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "lyceum")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{original: changed}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{changed: []byte(skewed), overlay: replace} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-overlay", overlay, "-o", program, "lyceum/cmd/lyceum")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build lyceum with another clock: %v\n%s", err, out)
	}
	return program
}

// TestAClockMayJump has two processes whose wall clocks jump by an hour, one forward and one back, while they own
// shards. It runs with LYCEUM_CHAOS only, as it compiles everything anew.
func TestAClockMayJump(t *testing.T) {
	if os.Getenv("LYCEUM_CHAOS") == "" {
		t.Skip("it takes a build of everything: set LYCEUM_CHAOS")
	}
	program := skewedProgram(t)
	c := fleettest.Small(t)
	p := newProbe(t, c.Fleet, c.URL(), "127.0.0.1")
	all := append([]string{"client", "sync", "push"}, stateful...)
	after := 20 * time.Second
	var jumping []*fleettest.Member
	for _, by := range []string{"3600000000000", "-3600000000000"} {
		m := c.JoinAs(t, program, "client+sync+events+"+fleettest.Combined, "LYCEUM_TEST_CLOCK="+by, "LYCEUM_TEST_CLOCK_AFTER="+timeNumber(after))
		t.Cleanup(func() { m.Leave(t) })
		jumping = append(jumping, m)
	}
	started := time.Now()
	b := burdened(t, 30*time.Second, c.URLs(), c.Fleet)
	p.within(10*time.Second, "before the clocks jump", all...)
	pause(t, after+500*time.Millisecond-time.Since(started))
	took := p.within(5*time.Second, "after the clocks jumped", all...)
	for _, m := range jumping {
		p.at(m.URL).within(5*time.Second, "at a process with a wrong clock", all...)
	}
	t.Logf("clocks of two owners jumped by an hour: all roles work after %d ms", took.Milliseconds())
	b.ok("clocks jumped by an hour")
	c.AwaitRecovery(t)
}

func timeNumber(d time.Duration) string {
	text, _ := json.Marshal(int64(d))
	return string(text)
}
