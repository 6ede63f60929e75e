package fleet

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lyceum/platform/status"
)

// TestAddressIsOfTheProcessThatServes: while a new process starts, and when it does not come up, a child is at the
// address of the old one.
func TestAddressIsOfTheProcessThatServes(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	u := &Up{Config: &Config{Server: ServerConfig{Data: dir, Name: "here.test"}}, Program: program}
	if err := u.add("client", 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Children()[0].retire(context.Background()); u.wg.Wait() })
	c := u.Children()[0]
	first, old := c.State(), c.current()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	done := make(chan error)
	go func() { done <- u.Restart(ctx, c, "") }()
	for ended := false; !ended; {
		select {
		case err := <-done:
			if err == nil {
				t.Error("a program that does not serve took the place")
			}
			ended = true
		default:
			time.Sleep(time.Millisecond)
		}
		if now := c.State(); now.Address != first.Address || now.PID != first.PID {
			t.Fatalf("%+v became %+v", first, now)
		}
	}
	if c.current() != old || u.Restart(t.Context(), c, filepath.Join(dir, "none")) == nil || c.State().Address != first.Address {
		t.Errorf("%+v became %+v", first, c.State())
	}
}

// script is a program of version 1.0.0 that does what text says with $dir, its data directory.
func script(t *testing.T, name, text string) {
	t.Helper()
	text = "#!/bin/sh\n[ \"$1\" = version ] && echo lyceum 1.0.0 && exit 0\ndir=$3\n" + text
	if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
}

// serves is what a script does that serves and ends with SIGTERM. The last line tells programs apart.
const serves = `echo "{\"pid\":$$,\"version\":\"1.0.0\"}" > "$dir/process.json.$$"; mv "$dir/process.json.$$" "$dir/process.json"; exec sleep 600` + "\n# "

// TestARolloutThatWasTakenBackLeavesTheOldProgram: whatever the version of the new program, and also when it was copied over
// the old one, a process that is killed later is started again with the old one.
func TestARolloutThatWasTakenBackLeavesTheOldProgram(t *testing.T) {
	dir := t.TempDir()
	program, data := filepath.Join(dir, "lyceum"), filepath.Join(dir, "data")
	script(t, program, serves+"old")
	u := &Up{Config: &Config{Server: ServerConfig{Data: data, Name: "here.test", Listen: "127.0.0.1:0"}}, Program: program}
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := u.keepProgram(); err != nil {
		t.Fatal(err)
	}
	for n := range 2 {
		if err := u.add("client", n+1); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, c := range u.Children() {
			c.retire(context.Background())
		}
		u.wg.Wait()
	})
	for _, c := range u.Children() {
		if err := u.WaitHealthy(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	end, err := u.Supervise(func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	s, err := FindSupervisor(data)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	r := &Rollout{
		Supervisor: s, Program: program, Keep: data, Watch: time.Millisecond, Out: &out,
		ask:   func(context.Context) (*status.Fleet, error) { return &status.Fleet{}, nil },
		store: func(context.Context, status.Rollout) error { return nil },
	}
	text := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	// runs holds that all processes, and those that are started again, are of a program.
	runs := func(word string) {
		t.Helper()
		now, err := s.Program(t.Context(), "")
		if err != nil || !strings.HasSuffix(text(now), "# "+word) {
			t.Errorf("new processes are made of %s, %v, expected the %s program", now, err, word)
		}
		kept, err := filepath.Glob(filepath.Join(data, "programs", "*"))
		if err != nil || !slices.Equal(kept, []string{now}) {
			t.Errorf("kept are %v, %v, expected what is in use, %s", kept, err, now)
		}
		for _, c := range u.Children() {
			before := c.State()
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
			for began := time.Now(); c.State().PID == before.PID || c.State().State != "serving"; {
				if time.Since(began) > time.Minute {
					t.Fatal("the process does not serve again")
				}
				time.Sleep(10 * time.Millisecond)
			}
			if program := c.current().program; program != now {
				t.Errorf("%s was started again with %s, expected %s", c.Name, program, now)
			}
		}
	}
	runs("old")
	script(t, program, "exit 3\n# broken")
	if err := r.begin(t.Context()); err == nil || !strings.Contains(err.Error(), "taken back") {
		t.Errorf("a broken program: %v", err)
	}
	runs("old")
	// One that serves and is not well after the second process.
	script(t, program, serves+"sick")
	r.ask = func(context.Context) (*status.Fleet, error) {
		f := &status.Fleet{}
		if strings.Contains(out.String(), "1 of 2") {
			f.Processes = []status.Sample{{Error: "sick"}}
		}
		return f, nil
	}
	out.Reset()
	r.Program, r.settle = program, time.Millisecond
	if err := r.begin(t.Context()); err == nil || !strings.Contains(out.String(), "taken back: ") {
		t.Errorf("a sick program: %v\n%s", err, out.String())
	}
	runs("old")
	script(t, program, serves+"new")
	out.Reset()
	r.ask = func(context.Context) (*status.Fleet, error) { return &status.Fleet{}, nil }
	r.Program, r.Out = program, io.Discard
	if err := r.begin(t.Context()); err != nil {
		t.Error(err)
	}
	runs("new")
}
