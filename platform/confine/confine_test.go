package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inside are what helpers do. Each runs as a process of its own, which confines itself and returns what is wrong.
var inside = map[string]func(dir string, parent int) error{
	"compute": compute, "paths": paths, "memory": memory, "file size": fileSize, "many files": manyFiles, "cpu": spin, "time": wait,
	"namespaces": nobody,
}

// TestMain plays a helper when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && inside[os.Args[1]] != nil {
		if err := inside[os.Args[1]](os.Args[2], os.Getppid()); err != nil {
			os.Stdout.WriteString(err.Error())
			os.Exit(1)
		}
		os.Stdout.WriteString("all refused")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func helper(t *testing.T, name, dir string) *exec.Cmd {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("confinement is made for Linux")
	}
	return exec.Command(os.Args[0], name, dir)
}

func wantHeld(t *testing.T, name, dir string) {
	t.Helper()
	if out, err := helper(t, name, dir).CombinedOutput(); err != nil || string(out) != "all refused" {
		t.Errorf("%v: %s", err, out)
	}
}

// ends runs a helper that must be ended by its limits.
func ends(t *testing.T, name string) (status *exec.ExitError, out string) {
	t.Helper()
	text, err := helper(t, name, t.TempDir()).CombinedOutput()
	if !errors.As(err, &status) {
		t.Fatalf("expected that the process is ended, found %v: %s", err, text)
	}
	return status, string(text)
}

func confined(l Limits) error {
	if loose := Self(l); len(loose) > 0 {
		return errors.New("loose: " + strings.Join(loose, ", "))
	}
	return nil
}

func TestAComputingHelperReachesNothing(t *testing.T) { wantHeld(t, "compute", t.TempDir()) }

func compute(dir string, parent int) error {
	if err := confined(Limits{Memory: 256 << 20, CPU: 10 * time.Second}); err != nil {
		return err
	}
	if _, err := os.Open("/etc/passwd"); err == nil {
		return errors.New("a file was opened")
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), []byte("x"), 0o600); err == nil {
		return errors.New("a file was made")
	}
	return noOthers(parent)
}

// noOthers tries to reach other processes, of this machine and by the network.
func noOthers(parent int) error {
	if raceDetector { // there the filter of system calls is off
		return nil
	}
	for _, family := range []int{syscall.AF_INET, syscall.AF_INET6, syscall.AF_UNIX} {
		if _, err := syscall.Socket(family, syscall.SOCK_DGRAM, 0); !errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("a socket of the family %d: %w", family, err)
		}
	}
	for name, err := range touchOthers(parent) {
		if !errors.Is(err, syscall.EPERM) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := signalSelf(); err != nil { // the runtime does, to interrupt its threads
		return fmt.Errorf("a signal to itself: %w", err)
	}
	if err := syscall.Exec("/bin/true", []string{"true"}, nil); !errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("exec: %w", err)
	}
	return nil
}

func TestAHelperWithPathsReachesOnlyThem(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"work", "fonts", "secret"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "a"), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"class", "class2"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "secret", "a"), filepath.Join(dir, "work", "link")); err != nil {
		t.Fatal(err)
	}
	wantHeld(t, "paths", dir)
	for _, name := range []string{"secret/a", "fonts/a", "class", "class2"} {
		want := filepath.Base(strings.TrimSuffix(name, "/a"))
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(text) != want {
			t.Errorf("%s was changed: %q, %v", name, text, err)
		}
	}
}

func paths(dir string, parent int) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	err := confined(Limits{
		Memory: 256 << 20, CPU: 10 * time.Second, FileSize: 1 << 20, Files: 64,
		Paths: []Path{{Name: at("work"), Write: true}, {Name: at("fonts")}, {Name: at("class")}},
	})
	if err != nil || raceDetector {
		return err
	}
	for name, do := range map[string]func() error{
		"read":   func() error { return reads(at("fonts/a"), "fonts") },
		"a file": func() error { return reads(at("class"), "class") },
		"list":   func() error { _, err := os.ReadDir(at("fonts")); return err },
		"write":  func() error { return os.WriteFile(at("work/new"), []byte("x"), 0o600) },
		"again":  func() error { return os.WriteFile(at("work/new"), []byte("y"), 0o600) },
		"folder": func() error { return os.MkdirAll(at("work/deep/er"), 0o700) },
		"move": func() error {
			return errors.Join(os.WriteFile(at("work/one"), nil, 0o600), os.Mkdir(at("work/to"), 0o700),
				os.Rename(at("work/one"), at("work/to/two")))
		},
		"remove": func() error {
			return errors.Join(os.WriteFile(at("work/gone"), nil, 0o600), os.Remove(at("work/gone")))
		},
	} {
		if err := do(); err != nil {
			return fmt.Errorf("%s: expected that it may, found %w", name, err)
		}
	}
	for name, do := range map[string]func() error{
		"read":            func() error { return reads(at("secret/a"), "secret") },
		"another file":    func() error { return reads(at("class2"), "class2") },
		"by a link":       func() error { return reads(at("work/link"), "secret") },
		"by ..":           func() error { return reads(at("work/../secret/a"), "secret") },
		"list":            func() error { _, err := os.ReadDir(at("secret")); return err },
		"the system":      func() error { _, err := os.ReadFile("/etc/passwd"); return err },
		"its memory":      func() error { _, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0); return err },
		"write":           func() error { return os.WriteFile(at("fonts/new"), nil, 0o600) },
		"cut":             func() error { return os.WriteFile(at("fonts/a"), nil, 0o600) },
		"truncate":        func() error { return os.Truncate(at("class"), 0) },
		"remove":          func() error { return os.Remove(at("fonts/a")) },
		"move in":         func() error { return os.Rename(at("secret/a"), at("work/a2")) },
		"move out":        func() error { return os.Rename(at("work/a"), at("secret/b")) },
		"change of mode":  func() error { return os.Chmod(at("secret/a"), 0o777) },
		"link":            func() error { return os.Symlink("/etc", at("work/etc")) },
		"hard link":       func() error { return os.Link(at("secret/a"), at("work/hard")) },
		"pipe":            func() error { return syscall.Mknod(at("work/pipe"), syscall.S_IFIFO|0o600, 0) },
		"in other thread": func() error { return inThreads(func() error { return reads(at("secret/a"), "secret") }) },
	} {
		if err := do(); !errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%s: expected that it may not, found %w", name, err)
		}
	}
	return noOthers(parent)
}

func reads(name, want string) error {
	text, err := os.ReadFile(name)
	if err == nil && string(text) != want {
		return fmt.Errorf("expected %q, found %q", want, text)
	}
	return err
}

// inThreads does something in several threads at once.
func inThreads(do func() error) error {
	out := make(chan error)
	for range 8 {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			out <- do()
		}()
	}
	var errs []error
	for range 8 {
		err := <-out
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func TestMemoryIsBounded(t *testing.T) {
	if raceDetector {
		return // its shadow memory has no bound
	}
	if _, out := ends(t, "memory"); !strings.Contains(out, "out of memory") && !strings.Contains(out, "cannot allocate memory") {
		t.Errorf("expected that memory ends, found %.300s", out)
	}
}

func memory(string, int) error {
	if err := confined(Limits{Memory: 64 << 20, CPU: time.Minute}); err != nil {
		return err
	}
	var all [][]byte
	for range 256 {
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = 1
		}
		all = append(all, block)
	}
	return fmt.Errorf("256 MiB were had: %d", len(all))
}

func TestSizesOfFilesAreBounded(t *testing.T) { wantHeld(t, "file size", t.TempDir()) }

func fileSize(dir string, _ int) error {
	f, err := os.Create(filepath.Join(dir, "open before"))
	if err != nil {
		return err
	}
	if err := confined(Limits{Memory: 256 << 20, CPU: time.Minute, FileSize: 1000}); err != nil {
		return err
	}
	n, err := f.Write(make([]byte, 5000))
	if n != 1000 || err == nil {
		return fmt.Errorf("expected 1,000 bytes and an error, found %d and %w", n, err)
	}
	return nil
}

func TestOpenFilesAreBounded(t *testing.T) { wantHeld(t, "many files", t.TempDir()) }

func manyFiles(dir string, _ int) error {
	if err := confined(Limits{Memory: 256 << 20, CPU: time.Minute, Files: 20, Paths: []Path{{Name: dir, Write: true}}}); err != nil {
		return err
	}
	var open []*os.File
	for len(open) < 100 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(len(open))))
		if err != nil {
			if len(open) > 0 && errors.Is(err, syscall.EMFILE) {
				return nil
			}
			return fmt.Errorf("after %d files: %w", len(open), err)
		}
		open = append(open, f)
	}
	return errors.New("100 files were opened")
}

func TestProcessorTimeIsBounded(t *testing.T) {
	status, out := ends(t, "cpu")
	if !strings.HasPrefix(status.String(), "signal: killed") {
		t.Errorf("expected a kill by the kernel, found %v: %s", status, out)
	}
}

func spin(string, int) error {
	if err := confined(Limits{Memory: 256 << 20, CPU: 300 * time.Millisecond}); err != nil {
		return err
	}
	for i := 0; ; i++ {
		if i == -1 {
			return nil
		}
	}
}

func TestTimeIsBounded(t *testing.T) {
	if status, out := ends(t, "time"); status.ExitCode() != ExitTime {
		t.Errorf("expected the status %d, found %v: %s", ExitTime, status, out)
	}
}

func wait(string, int) error {
	if err := confined(Limits{Memory: 256 << 20, CPU: time.Minute, Time: 50 * time.Millisecond}); err != nil {
		return err
	}
	time.Sleep(time.Hour)
	return nil
}

// TestNamespaces starts a helper as the fleet does: it is nobody, sees no network and has no environment.
func TestNamespaces(t *testing.T) {
	t.Setenv("SECRET", "of the parent")
	dir := t.TempDir()
	var s Starter
	var out strings.Builder
	times := 0
	cmd, missing, err := s.Start(func() *exec.Cmd {
		times++
		c := helper(t, "namespaces", dir)
		c.Stdout = &out
		return c
	})
	if err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if missing != nil { // a container that gives none: that it is said, and once, is what can be seen
		if _, again, _ := s.Start(func() *exec.Cmd { return helper(t, "time", dir) }); again != nil || times != 2 {
			t.Errorf("it was said twice, or tried %d times", times)
		}
		t.Logf("this system gives no namespaces: %v", missing)
		return
	}
	if err != nil || out.String() != "all refused" {
		t.Errorf("%v: %s", err, out.String())
	}
}

func nobody(string, int) error {
	if id := os.Getuid(); id != 65534 {
		return fmt.Errorf("expected to be nobody, found the user %d", id)
	}
	if list := os.Environ(); len(list) > 0 {
		return fmt.Errorf("expected no environment, found %q", list)
	}
	text, err := os.ReadFile("/proc/self/net/dev")
	if n := strings.Count(string(text), ":"); err != nil || n > 1 {
		return fmt.Errorf("expected no network but the loopback, found %s, %w", text, err)
	}
	return nil
}

func TestAProgramThatIsNotThereIsAnError(t *testing.T) {
	var s Starter
	if _, _, err := s.Start(func() *exec.Cmd { return exec.Command("/not/there") }); err == nil || s.open.Load() {
		t.Errorf("expected an error and that namespaces are tried again, found %v", err)
	}
}

// A start that fails once, for want of a process or of memory, does not end the confinement of all helpers behind it.
func TestAStartThatFailsOnceEndsNoConfinement(t *testing.T) {
	var s Starter
	calls := 0
	cmd, _, err := s.Start(func() *exec.Cmd {
		if calls++; calls == 1 {
			return exec.Command("/not/there")
		}
		return exec.Command("/bin/true")
	})
	if err == nil {
		_ = cmd.Wait()
		t.Error("the helper runs without namespaces")
	}
	if s.open.Load() {
		t.Error("all helpers run without namespaces from now on")
	}
}
