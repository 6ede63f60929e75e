package up

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lyceum/fleet"
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
	u := &Supervisor{Config: &fleet.Config{Server: fleet.ServerConfig{Data: dir, Name: "here.test"}}, Program: program}
	if err := u.add("client", 1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Children()[0].stop(context.Background()); u.wg.Wait() })
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
const serves = tell + "exec sleep 600\n# "

// TestARolloutThatWasTakenBackLeavesTheOldProgram: whatever the version of the new program, and also when it was copied over
// the old one, a process that is killed later is started again with the old one.
func TestARolloutThatWasTakenBackLeavesTheOldProgram(t *testing.T) {
	dir := t.TempDir()
	program, data := filepath.Join(dir, "lyceum"), filepath.Join(dir, "data")
	script(t, program, serves+"old")
	u := &Supervisor{Config: &fleet.Config{Server: fleet.ServerConfig{Data: data, Name: "here.test", Listen: "127.0.0.1:0"}}, Program: program}
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
			c.stop(context.Background())
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
	if err := r.start(t.Context()); err == nil || !strings.Contains(err.Error(), "taken back") {
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
	if err := r.start(t.Context()); err == nil || !strings.Contains(out.String(), "taken back: ") {
		t.Errorf("a sick program: %v\n%s", err, out.String())
	}
	runs("old")
	script(t, program, serves+"new")
	out.Reset()
	r.ask = func(context.Context) (*status.Fleet, error) { return &status.Fleet{}, nil }
	r.Program, r.Out = program, io.Discard
	if err := r.start(t.Context()); err != nil {
		t.Error(err)
	}
	runs("new")
}

// crew is a Supervisor of scripts. Each process writes its id to a list, so that one is found that nobody keeps.
type crew struct {
	*Supervisor
	t    *testing.T
	list string
}

// The scripts of a crew begin with listed. late serves after a while, stuck never, and broken ends after a while; lingers
// and lingersLong serve and take a while to end, the latter unless it is asked twice, and tooLate serves only in that while.
const (
	listed      = `echo $$ >> "$CREW_LIST"` + "\n"
	late        = listed + "sleep 0.3\n" + serves
	stuck       = listed + "exec sleep 600\n"
	broken      = listed + "sleep 0.3; exit 3\n"
	tell        = `echo "{\"pid\":$$,\"version\":\"1.0.0\"}" > "$dir/process.json.$$"; mv "$dir/process.json.$$" "$dir/process.json"` + "\n"
	lingers     = listed + "trap 'sleep 0.5; exit 0' TERM\n" + tell + loop
	lingersLong = listed + "trap 'trap - TERM; touch \"$CREW_LIST.ending\"; sleep 3; touch \"$CREW_LIST.orderly\"; exit 0' TERM\n" + tell +
		loop
	tooLate = "trap told TERM\ntold() {\n" + tell + "sleep 0.5; exit 0\n}\n" + listed + loop
	loop    = "while :; do sleep 0.05; done\n"
)

// startCrew starts some processes of the role client.
func startCrew(t *testing.T, text string, n int) *crew {
	t.Helper()
	return startGroups(t, text, map[string]int{"client": n})
}

// startGroups starts some processes of each group.
func startGroups(t *testing.T, text string, groups map[string]int) *crew {
	t.Helper()
	dir := t.TempDir()
	list := filepath.Join(dir, "list")
	u := &Supervisor{
		Config:  &fleet.Config{Server: fleet.ServerConfig{Data: filepath.Join(dir, "data"), Name: "here.test"}},
		Environ: []string{"CREW_LIST=" + list},
	}
	w := &crew{u, t, list}
	u.Program = w.program("first", text)
	t.Cleanup(w.stop)
	for group, n := range groups {
		for number := range n {
			if err := u.add(group, number+1); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range u.Children() {
		if err := u.WaitHealthy(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *crew) program(name, text string) string {
	w.t.Helper()
	path := filepath.Join(filepath.Dir(w.list), name)
	script(w.t, path, text)
	return path
}

// started are the ids of all processes that there were.
func (w *crew) started() []string {
	text, err := os.ReadFile(w.list)
	if err != nil && !os.IsNotExist(err) { // it is not there before the first
		w.t.Error(err)
	}
	return strings.Fields(string(text))
}

// alive are the ids of the processes that live; one of somebody else that got such an id has another environment.
func (w *crew) alive() (pids []int) {
	for _, word := range w.started() {
		text, _ := os.ReadFile("/proc/" + word + "/environ") // of one that ended it is empty or not there
		if pid, err := strconv.Atoi(word); err == nil && strings.Contains(string(text), "CREW_LIST="+w.list) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

func (w *crew) await(what string, ok func() bool) {
	w.t.Helper()
	for began := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			w.t.Fatalf("in vain: %s; alive are %v, children %+v", what, w.alive(), states(w.Children()))
		}
	}
}

// kept holds that the children serve and that no other process lives, also not a while later.
func (w *crew) kept() {
	w.t.Helper()
	seen := time.Now()
	w.await("each process is one that a child shows and keeps", func() bool {
		var shown []int
		for _, s := range states(w.Children()) {
			if s.State == "serving" {
				shown = append(shown, s.PID)
			}
		}
		slices.Sort(shown)
		if len(shown) < len(w.Children()) || !slices.Equal(shown, w.alive()) {
			seen = time.Now()
		}
		return time.Since(seen) > 2*firstPause
	})
}

// within holds that something ends soon.
func (w *crew) within(what string, fn func()) {
	w.t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		w.t.Errorf("%s does not end", what)
	}
}

// stop holds that Stop ends, and that then no process is left.
func (w *crew) stop() {
	w.t.Helper()
	w.within("Stop", func() {
		if err := w.Stop(context.Background()); err != nil {
			w.t.Error(err)
		}
	})
	for _, pid := range w.alive() {
		w.t.Errorf("process %d lives after Stop", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may end by itself
	}
}

// TestAProcessThatEndsWhileItIsReplaced: one that ends before or during a restart has one process in its place, and
// the end of that one is noticed.
func TestAProcessThatEndsWhileItIsReplaced(t *testing.T) {
	for name, text := range map[string]string{"before": late, "during": late, "and the next one does not come up": broken} {
		t.Run(name, func(t *testing.T) {
			w := startCrew(t, listed+serves, 1)
			c := w.Children()[0]
			first := c.PID()
			end := func() {
				if err := c.Signal(syscall.SIGTERM); err != nil {
					t.Error(err)
				}
			}
			if name == "before" {
				end()
				w.await("it ends", func() bool { return c.PID() == 0 })
			}
			program, restarted := w.program("second", text), make(chan error, 1)
			go func() { restarted <- w.Restart(context.Background(), c, program) }()
			w.await("the next one starts", func() bool { return len(w.started()) == 2 })
			if name != "before" {
				end()
			}
			if err := <-restarted; (err != nil) != (text == broken) {
				t.Error(err)
			}
			if n := len(w.started()); name == "during" && n != 2 {
				t.Errorf("%d processes were started, expected one in the place of the first", n)
			}
			w.kept()
			if now := c.State(); now.PID == first || (now.Program == program) != (text == late) {
				t.Errorf("found %+v, before it was process %d", now, first)
			}
			before := c.PID()
			if err := c.Kill(); err != nil {
				t.Error(err)
			}
			w.await("another process is there", func() bool { now := c.PID(); return now != before && now != 0 })
			w.kept()
		})
	}
}

// TestAProcessThatEndsWhileTheOneBeforeEnds: it is started again at once, however long that takes.
func TestAProcessThatEndsWhileTheOneBeforeEnds(t *testing.T) {
	w := startCrew(t, lingersLong, 1)
	c := w.Children()[0]
	first, restarted := c.PID(), make(chan error, 1)
	program := w.program("second", listed+serves)
	go func() { restarted <- w.Restart(context.Background(), c, program) }()
	w.await("the next one has the place", func() bool { return c.PID() != first })
	second := c.PID()
	if err := c.Kill(); err != nil {
		t.Error(err)
	}
	w.await("another process is there", func() bool { now := c.PID(); return now != second && now != 0 })
	if !slices.Contains(w.alive(), first) {
		t.Error("not before the first has ended")
	}
	if err := <-restarted; err != nil {
		t.Error(err)
	}
	w.kept()
}

// TestAChildIsStoppedWhileItIsReplaced: neither the next process nor the old one is left, and the restart ends.
func TestAChildIsStoppedWhileItIsReplaced(t *testing.T) {
	for name, text := range map[string]string{
		"stop": stuck, "Stop": stuck, "stop one that serves then": tooLate, "Stop while the old one ends": listed + serves,
	} {
		t.Run(name, func(t *testing.T) {
			replaced, before := name == "Stop while the old one ends", lingers
			if replaced {
				before = lingersLong
			}
			w := startCrew(t, before, 1)
			c := w.Children()[0]
			first, program, restarted := c.State(), w.program("second", text), make(chan error, 1)
			go func() { restarted <- w.Restart(context.Background(), c, program) }()
			w.await("the next one starts", func() bool { return len(w.started()) == 2 })
			if replaced {
				w.await("the old one is asked to end", func() bool { _, err := os.Stat(w.list + ".ending"); return err == nil })
			} else if now := c.State(); now != first {
				t.Errorf("%+v became %+v", first, now)
			}
			if err := w.Restart(t.Context(), c, ""); err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("a second restart: %v", err)
			}
			if strings.HasPrefix(name, "stop") {
				w.within("stop", func() { c.stop(context.Background()) })
			} else {
				w.stop()
			}
			if alive := w.alive(); len(alive) > 0 {
				t.Errorf("%v live", alive)
			}
			if _, err := os.Stat(w.list + ".orderly"); replaced && err != nil {
				t.Errorf("the old one was not given the time to end: %v", err)
			}
			w.within("the restart", func() {
				if err := <-restarted; !replaced && (err == nil || !strings.Contains(err.Error(), "was stopped")) {
					t.Errorf("the restart: %v", err)
				}
			})
			if err := w.Restart(t.Context(), c, ""); err == nil || !strings.Contains(err.Error(), "was stopped") {
				t.Errorf("a restart of one that was stopped: %v", err)
			}
			w.within("WaitHealthy", func() {
				if w.WaitHealthy(context.Background(), c) == nil {
					t.Error("one that was stopped serves")
				}
			})
			if c.State().State != "stopped" {
				t.Errorf("found %+v", c.State())
			}
		})
	}
}

// TestStopEndsOwnersLast: who takes requests ends before who tells of news, and owners of shards end when nobody needs them any
// more.
func TestStopEndsOwnersLast(t *testing.T) {
	notes := `note() { echo "$1 ${dir##*/}" >> "$CREW_LIST.notes"; }` + "\ntrap 'note begins; sleep 0.3; note ends; exit 0' TERM\n"
	w := startGroups(t, listed+notes+tell+loop, map[string]int{"media+client": 1, "sync+push": 1, "events": 2, "typing+client": 1})
	w.stop()
	text, err := os.ReadFile(w.list + ".notes")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if want := []string{"begins media+client-1", "ends media+client-1", "begins sync+push-1", "ends sync+push-1"}; len(lines) != 10 ||
		!slices.Equal(lines[:4], want) {
		t.Fatalf("found %q, expected %q first", lines, want)
	}
	for i, line := range lines[4:] { // owners end together
		if (i < 3) != strings.HasPrefix(line, "begins ") {
			t.Errorf("found %q", lines[4:])
		}
	}
}

// TestCommandsHaveAChangedConfiguration: when processes are started with another configuration, commands have it as soon as one
// serves, and not before.
func TestCommandsHaveAChangedConfiguration(t *testing.T) {
	w := startCrew(t, listed+serves, 1)
	c := w.Children()[0]
	w.File = filepath.Join(filepath.Dir(w.list), "lyceum.yaml")
	revise := func(revision string) {
		if err := os.WriteFile(w.File, []byte("fleet: {config_revision: "+revision+"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	has := func(revision string) bool {
		text, _ := os.ReadFile(w.AccessFile())
		return strings.Contains(string(text), "config_revision: "+revision+"\n")
	}
	revise("1")
	if err := w.Restart(t.Context(), c, w.program("broken", broken)); err == nil || has("1") {
		t.Errorf("commands have the configuration of a process that does not serve, %v", err)
	}
	if err := w.Restart(t.Context(), c, w.program("second", listed+serves)); err != nil || !has("1") {
		t.Errorf("commands do not have the new configuration: %v", err)
	}
	revise("2")
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	w.await("commands have the configuration of the process that was started again", func() bool { return has("2") })
}

// TestARolloutThatDoesNotComeToItsEnd says why: the fleet was stopped, somebody interrupted it, something else is under way, or the
// new program ends.
func TestARolloutThatDoesNotComeToItsEnd(t *testing.T) {
	for name, want := range map[string]string{
		"stopped": "lyceum up was stopped, and the rollout with it", "interrupted": "taken back: after client-1: it was interrupted",
		"busy": errOtherChange.Error(), "broken": "does not serve (exit status 3), so the old one stays; its log ends with:\nof the new one",
	} {
		t.Run(name, func(t *testing.T) {
			old := strings.Replace(listed+serves, "exec sleep 600", "echo time=now machine=0 of=old; (while sleep 0.01 && kill -0 $$; "+
				"do echo time=now machine=0 of=old; done) 2>/dev/null & exec sleep 600", 1)
			if name != "broken" {
				old = lingers
			}
			w := startCrew(t, old, 2)
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			end, err := w.Supervise(func() {})
			if err != nil {
				t.Fatal(err)
			}
			defer end()
			s, err := FindSupervisor(w.Config.Server.Data)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			r := &Rollout{
				Supervisor: s, Program: w.program("second", late), Keep: w.Config.Server.Data, Watch: time.Millisecond, Out: &out,
				ask:   func(context.Context) (*status.Fleet, error) { return &status.Fleet{}, nil },
				store: func(context.Context, status.Rollout) error { return nil },
			}
			done := make(chan error, 1)
			second := func() bool { return len(w.started()) == 3 }
			switch name {
			case "broken":
				r.Program = w.program("second", "sleep 0.2; echo of the new one; exit 3\n")
			case "busy":
				go func() { _, _ = s.Restart(context.Background(), "client-1", w.program("late", late)) }()
				w.await("a restart begins", second)
			}
			go func() { done <- r.start(ctx) }()
			switch name {
			case "stopped":
				w.await("the first one is replaced", second)
				w.stop()
			case "interrupted":
				w.await("the first one is replaced", second)
				interrupt()
			}
			err = <-done
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("found %v, expected %q\n%s", err, want, out.String())
			}
			if name == "interrupted" {
				for _, c := range w.Children() {
					if c.State().Program != w.Program {
						t.Errorf("%s is of the new program", c.Name)
					}
				}
				if !strings.Contains(out.String(), "then all go back") || strings.Contains(err.Error(), "canceled") {
					t.Errorf("it says %v\n%s", err, out.String())
				}
			}
			if strings.Contains(err.Error(), "of=old") || strings.Contains(err.Error(), "http://up") {
				t.Errorf("found %v", err)
			}
		})
	}
}

// TestStateWhileANextProcessFails: the one that stays serves, although the file of the directory tells of the one that ended.
func TestStateWhileANextProcessFails(t *testing.T) {
	ended := strings.Replace(serves, "exec sleep 600", "exit 3", 1)
	for range 20 {
		w := startCrew(t, listed+serves, 1)
		c := w.Children()[0]
		c.mu.Lock()
		c.run.file = fleet.ProcessFile{} // as if nobody had looked
		c.mu.Unlock()
		if err := w.Restart(t.Context(), c, w.program("second", listed+ended)); err == nil {
			continue // it was seen in the moment in which it served
		}
		if s := c.State(); s.State != "serving" || s.PID != w.alive()[0] {
			t.Errorf("found %+v", s)
		}
		return
	}
	t.Error("the next process was taken each time, though it ends at once")
}

// TestScaleWhileStop: Stop returns, and nothing that was added is left.
func TestScaleWhileStop(t *testing.T) {
	w := startCrew(t, listed+serves, 1)
	scaled := make(chan error, 1)
	go func() {
		_, err := w.Scale(context.Background(), "client", maxReplicas)
		scaled <- err
	}()
	w.await("some are added", func() bool { return len(w.Children()) > 1 })
	w.stop()
	w.within("Scale", func() {
		if err := <-scaled; err == nil && len(w.started()) < maxReplicas {
			t.Errorf("it says that all were added, though %d processes were started", len(w.started()))
		}
	})
	w.stop() // of one that was added since
}

// TestScaleTakesBackWhatDoesNotServe, and ends those that do not serve first.
func TestScaleTakesBackWhatDoesNotServe(t *testing.T) {
	w := startCrew(t, listed+serves, 2)
	first := w.Children()
	w.Program = w.program("second", listed+"exit 1\n")
	_, err := w.Scale(t.Context(), "client", 4)
	if err == nil || !strings.Contains(err.Error(), "taken back, as they did not serve: client-3, client-4") {
		t.Errorf("found %v", err)
	}
	if have := w.Children(); !slices.Equal(have, first) {
		t.Errorf("%d processes, expected 2", len(have))
	}
	if err := w.add("client", 3); err != nil {
		t.Fatal(err)
	}
	w.Program = w.program("third", listed+serves)
	if err := w.add("client", 4); err != nil {
		t.Fatal(err)
	}
	if err := w.WaitHealthy(t.Context(), w.Children()[3]); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Scale(t.Context(), "client", 3); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range w.Children() {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"client-1", "client-2", "client-4"}) {
		t.Errorf("%v stay", names)
	}
}

// TestNoProcessIsLost: whatever is killed, restarted and scaled at whatever moment, each process is one that a child keeps,
// and none is left after Stop.
func TestNoProcessIsLost(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			w := startCrew(t, listed+serves, 2)
			programs := []string{w.Program, w.program("late", late), w.program("lingers", lingers), w.program("broken", broken)}
			r := rand.New(rand.NewPCG(seed, 0))
			random := func() *Child { all := w.Children(); return all[r.IntN(len(all))] }
			var under sync.WaitGroup
			for began := time.Now(); time.Since(began) < 1500*time.Millisecond; time.Sleep(time.Duration(r.IntN(80)) * time.Millisecond) {
				switch n := r.IntN(10); {
				case n < 3:
					_ = random().Kill() // it may have ended
				case n < 4:
					_ = random().Signal(syscall.SIGTERM)
				case n < 8:
					c, program := random(), programs[r.IntN(len(programs))]
					under.Go(func() { _ = w.Restart(context.Background(), c, program) }) // refused and failing ones too
				default:
					n := 1 + r.IntN(4)
					under.Go(func() { _, _ = w.Scale(context.Background(), "client", n) })
				}
			}
			if seed%2 == 0 { // otherwise Stop comes while changes are under way
				under.Wait()
				w.kept()
			}
			w.stop()
			w.within("what was under way", under.Wait)
			w.stop()
			t.Logf("%d processes", len(w.started()))
		})
	}
}
