package up

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lyceum/fleet"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/platform/status"
)

// Rollout upgrades a fleet that lyceum up runs: owners of shards first, one process at a time. Before the next one, the
// fleet must be well. On trouble the processes that were upgraded go back.
type Rollout struct {
	Supervisor *Client
	Program    string        // the new binary
	Keep       string        // directory that keeps a copy of it, so that a file that is replaced later does no harm
	Watch      time.Duration // how long a fleet is watched after each process
	MaxBehind  int64         // rows that a process may be behind
	MaxErrors  float64       // share of requests that may fail with 5xx
	Out        io.Writer     // takes the progress

	settle time.Duration // how long a fleet may take to be well after a process was replaced; 0 is settleTime

	ask   func(context.Context) (*status.Fleet, error)
	store func(context.Context, status.Rollout) error
}

// settleTime is how long a fleet may take to be well again after a process was replaced.
const settleTime = 30 * time.Second

// Run upgrades the fleet that the configuration describes. It waits for a database that is away, as the processes do.
func (r *Rollout) Run(ctx context.Context, c *fleet.Config) error {
	for deadline, waits := obs.Now().Add(cmp.Or(r.settle, startTime)), false; ; waits = true {
		begun, err := r.runAsMember(ctx, c)
		if begun || !db.IsUnavailable(err) {
			return err
		}
		if _, gone := r.Supervisor.Children(ctx); gone != nil {
			return gone
		}
		if obs.Now().After(deadline) {
			return fmt.Errorf("the database does not answer, so nothing was changed: try again when lyceum ps and lyceum status show that it "+
				"serves: %w", err)
		}
		if !waits {
			fmt.Fprintln(r.Out, "waiting for the database, which does not answer")
		}
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// runAsMember upgrades the fleet as a process of it, and tells whether it became one.
func (r *Rollout) runAsMember(ctx context.Context, c *fleet.Config) (begun bool, err error) {
	err = fleet.AsMember(ctx, c, fleet.MustExist, func(p *fleet.Process) error {
		begun = true
		r.ask, r.store = p.CurrentStatus, p.StoreRollout
		return r.start(ctx)
	})
	return begun, err
}

// start keeps the new binary beside the old one, upgrades, and forgets the one that was not taken.
func (r *Rollout) start(ctx context.Context) error {
	program, err := filepath.Abs(r.Program)
	if err != nil {
		return err
	}
	to, err := versionOf(ctx, program)
	if err != nil {
		return err
	}
	if r.Program, err = keepProgram(r.Keep, program); err != nil {
		return err
	}
	if err = r.upgrade(ctx, to); errors.Is(err, errStopped) {
		return err // the next lyceum up forgets them
	}
	return errors.Join(err, r.forget(context.WithoutCancel(ctx)))
}

// forget removes the programs of which no process is made any more.
func (r *Rollout) forget(ctx context.Context) error {
	used, err := r.Supervisor.Program(ctx, "")
	if err != nil {
		return err
	}
	children, err := r.Supervisor.Children(ctx)
	if err != nil {
		return err
	}
	keep := []string{used}
	for _, c := range children {
		if c.Program == "" { // the lyceum up of an older version does not tell
			return nil
		}
		keep = append(keep, c.Program)
	}
	return forgetPrograms(r.Keep, keep)
}

// versionOf asks a binary for its version.
func versionOf(ctx context.Context, program string) (obs.SemVer, error) {
	step, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(step, program, "version").Output()
	if err != nil {
		return obs.SemVer{}, fmt.Errorf("%s version: %w", program, err)
	}
	v, err := obs.ParseVersion(strings.TrimSpace(strings.TrimPrefix(string(out), "lyceum ")))
	if err != nil {
		err = fmt.Errorf("%s is not lyceum: %w", program, err)
	}
	return v, err
}

func (r *Rollout) upgrade(ctx context.Context, to obs.SemVer) error {
	if err := r.Supervisor.Idle(ctx); err != nil {
		return err
	}
	before, err := r.ask(ctx)
	if err != nil {
		return err
	}
	children, err := r.Supervisor.Children(ctx)
	if err != nil {
		return err
	}
	old, err := r.Supervisor.Program(ctx, "")
	if err != nil {
		return err
	}
	state := status.Rollout{From: oldest(before, to), To: to.String(), State: "running", Of: len(children), Started: obs.Now()}
	if err := checkStep(state.From, to); err != nil {
		return err
	}
	sortForUpgrade(children, state.From, to)
	fmt.Fprintf(r.Out, "from %s to %s: %d processes, %s first\n", state.From, state.To, len(children), children[0].Name)
	fmt.Fprintln(r.Out, advice(state.From, to))
	if err := r.checkHealth(before, before); err != nil {
		if busy := r.Supervisor.Idle(ctx); busy != nil { // by a restart of several processes
			return busy
		}
		return fmt.Errorf("the fleet is not well before the rollout, so nothing was changed: %w", err)
	}
	var done []ChildState
	for _, child := range children {
		state.Now, state.Changed = child.Name, obs.Now()
		if err := r.store(ctx, state); err != nil {
			if ctx.Err() != nil {
				err = errInterrupted
			}
			return r.rollBack(ctx, state, done, old, err)
		}
		if child.Version == state.To && state.From != state.To { // an earlier rollout came so far
			state.Done++
			continue
		}
		began := obs.Now()
		now, err := r.restart(ctx, child.Name)
		if err != nil {
			return r.rollBack(ctx, state, done, old, err)
		}
		done = append(done, child)
		if err := r.awaitHealth(ctx); err != nil {
			return r.rollBack(ctx, state, done, old, fmt.Errorf("after %s: %w", child.Name, err))
		}
		state.Done++
		fmt.Fprintf(r.Out, "%d of %d: %s is %s, machine %d, after %s\n", state.Done, state.Of, child.Name, now.Version, now.Machine,
			obs.Now().Sub(began).Round(time.Millisecond))
	}
	ctx = context.WithoutCancel(ctx) // it is done
	if _, err := r.Supervisor.Program(ctx, r.Program); err != nil {
		return err
	}
	state.State, state.Now, state.Changed = "done", "", obs.Now()
	fmt.Fprintf(r.Out, "all %d processes run %s after %s\n", state.Of, state.To, obs.Now().Sub(state.Started).Round(time.Millisecond))
	return r.store(ctx, state)
}

// sortForUpgrade sorts processes as they are replaced. An owner of shards does all that processes of an older version ask for, not of a
// newer one: so owners are upgraded first, and are the last to become older.
func sortForUpgrade(children []ChildState, from string, to obs.SemVer) {
	direction := -1
	if v, err := obs.ParseVersion(from); err == nil && v.Compare(to) > 0 {
		direction = 1
	}
	step := func(c ChildState) int { return direction * stopOrder(strings.Split(c.Group, "+")) }
	slices.SortFunc(children, func(a, b ChildState) int {
		return cmp.Or(cmp.Compare(step(a), step(b)), cmp.Compare(a.Machine, b.Machine))
	})
}

// restart replaces a process by one of the new program, to the end: lyceum up does not leave it half done either.
func (r *Rollout) restart(ctx context.Context, name string) (now ChildState, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		now, err = r.Supervisor.Restart(context.WithoutCancel(ctx), name, r.Program)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		fmt.Fprintf(r.Out, "interrupted: %s is still replaced, then all go back; another ctrl-c leaves them as they are\n", name)
		<-done
	}
	return now, err
}

// oldest is the oldest version in the fleet, or fallback when no process is there.
func oldest(f *status.Fleet, fallback obs.SemVer) string {
	found := fallback
	for i, p := range f.Processes {
		if v, err := obs.ParseVersion(p.Version); err == nil && (i == 0 || v.Compare(found) < 0) {
			found = v
		}
	}
	return found.String()
}

// checkStep refuses steps that a running fleet can not make.
func checkStep(from string, to obs.SemVer) error {
	v, err := obs.ParseVersion(from)
	if err != nil {
		return err
	}
	if v.X != to.X {
		return fmt.Errorf("%s to %s: the first number says that versions can not work together: make a backup, stop the fleet (lyceum stop), "+
			"read the notes of the release, and start it with the new binary", from, to)
	}
	return nil
}

// advice explains what the numbers of a version mean for the time that versions are mixed.
func advice(from string, to obs.SemVer) string {
	v, _ := obs.ParseVersion(from)
	switch {
	case v.Compare(to) > 0:
		return "an older version: it works with the newer schema, which only grew"
	case v.Y != to.Y:
		return "the second number differs: large and compatible; upgrade all processes soon, nothing goes offline"
	case v.Z != to.Z:
		return "the third number differs: small and compatible; the fleet may be mixed for as long as you like"
	}
	return "the same version: processes are replaced one by one"
}

// awaitHealth waits until the fleet is healthy and stays so for the time Watch.
func (r *Rollout) awaitHealth(ctx context.Context) error {
	before, err := r.ask(ctx)
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		if _, gone := r.Supervisor.Children(ctx); gone != nil {
			return gone
		}
		return err
	}
	watched := obs.Now()
	for deadline := obs.Now().Add(cmp.Or(r.settle, settleTime)); ; {
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-time.After(min(500*time.Millisecond, r.Watch)):
		}
		now, err := r.ask(ctx)
		if err == nil {
			err = r.checkHealth(before, now)
		}
		if err != nil {
			if _, gone := r.Supervisor.Children(ctx); gone != nil && ctx.Err() == nil {
				return gone
			}
		}
		switch {
		case err == nil && obs.Now().Sub(watched) >= r.Watch:
			return nil
		case err != nil && obs.Now().After(deadline):
			return err
		case err != nil && errors.Is(err, errFailing):
			return err
		}
	}
}

// errInterrupted is the reason when somebody ended the command.
var errInterrupted = errors.New("it was interrupted")

// errFailing says that requests fail: no time heals that.
var errFailing = errors.New("requests fail")

// checkHealth returns an error unless all processes serve, all shards are owned, nobody is far behind and few requests failed since
// before.
func (r *Rollout) checkHealth(before, now *status.Fleet) error {
	members := map[int]bool{}
	for i := range now.Processes {
		p := &now.Processes[i]
		if p.Draining {
			continue
		}
		if err := r.checkProcess(p); err != nil {
			return err
		}
		members[p.Machine] = true
	}
	if requests, failed := requestsBetween(before, now); requests >= 20 && failed/requests > r.MaxErrors {
		return fmt.Errorf("%w: %.0f of %.0f since the last step", errFailing, failed, requests)
	}
	for _, st := range now.Streams {
		for shard, s := range st.Shards {
			if s.Machine < 0 || !members[s.Machine] {
				return fmt.Errorf("shard %d of %s has no owner", shard, st.Name)
			}
		}
	}
	return nil
}

// checkProcess returns an error unless a process is ready and not far behind.
func (r *Rollout) checkProcess(p *status.Sample) error {
	if p.Error != "" {
		return fmt.Errorf("machine %d (%s): %s", p.Machine, p.Host, p.Error)
	}
	if !p.Ready {
		return fmt.Errorf("machine %d (%s) is not ready", p.Machine, p.Host)
	}
	for _, st := range p.Streams {
		for shard, s := range st.Shards {
			if s.Behind > r.MaxBehind {
				return fmt.Errorf("machine %d is %d rows behind in shard %d of %s", p.Machine, s.Behind, shard, st.Name)
			}
		}
	}
	return nil
}

// requestsBetween counts the requests from before until now in the processes that do not drain, and those that failed with 5xx.
func requestsBetween(before, now *status.Fleet) (requests, failed float64) {
	add := func(p *status.Sample, sign float64) {
		for _, route := range p.Routes {
			for code, n := range route.ByCode {
				requests += sign * n
				if code == "5xx" {
					failed += sign * n
				}
			}
		}
	}
	type start struct{ machine, incarnation int64 }
	serves := map[start]bool{}
	for i := range now.Processes {
		if p := &now.Processes[i]; !p.Draining {
			add(p, 1)
			serves[start{int64(p.Machine), p.Incarnation}] = true
		}
	}
	for i := range before.Processes {
		if p := &before.Processes[i]; serves[start{int64(p.Machine), p.Incarnation}] {
			add(p, -1)
		}
	}
	return requests, failed
}

// rollBack gives the processes that were upgraded their old binary again, the last one first.
func (r *Rollout) rollBack(ctx context.Context, state status.Rollout, done []ChildState, program string, why error) error {
	ctx = context.WithoutCancel(ctx) // also when somebody interrupts: half an upgrade is the worst
	if _, gone := r.Supervisor.Children(ctx); gone != nil {
		why = gone
	}
	if errors.Is(why, errStopped) {
		return r.stopped(ctx, state)
	}
	fmt.Fprintf(r.Out, "trouble: %v\n", why)
	state.State, state.Reason, state.Changed = "rolled back", why.Error(), obs.Now()
	errs := []error{fmt.Errorf("the rollout was stopped and taken back: %w", why)}
	for _, child := range slices.Backward(done) {
		now, err := r.Supervisor.Restart(ctx, child.Name, program)
		if errors.Is(err, errStopped) {
			return r.stopped(ctx, state)
		}
		if err != nil {
			state.State = "failed"
			errs = append(errs, fmt.Errorf("%s could not be taken back: %w", child.Name, err))
			continue
		}
		fmt.Fprintf(r.Out, "taken back: %s is %s\n", child.Name, now.Version)
	}
	errs = append(errs, r.store(ctx, state))
	return errors.Join(errs...)
}

// stopped ends a rollout whose fleet is gone, perhaps with its database.
func (r *Rollout) stopped(ctx context.Context, state status.Rollout) error {
	state.State, state.Reason, state.Changed = "failed", errStopped.Error(), obs.Now()
	step, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_ = r.store(step, state) // if the database is still there
	return fmt.Errorf("%w, and the rollout with it: all processes are of the program with which it is started next", errStopped)
}
