package fleettest_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lyceum/fleettest"
)

// chosenSeed is the seed given in LYCEUM_CHAOS_SEED, or one of the time.
func chosenSeed() uint64 {
	if seed, err := strconv.ParseUint(os.Getenv("LYCEUM_CHAOS_SEED"), 10, 64); err == nil {
		return seed
	}
	return uint64(time.Now().UnixNano())
}

// fault is one thing that goes wrong for a while.
type fault struct {
	name string
	// begin breaks something and gives what mends it, nil when it mends itself.
	begin func(ctx context.Context, r *rand.Rand) (mend func(context.Context) error, err error)
}

// chaos is a fleet and what may happen to it.
type chaos struct {
	t    *testing.T
	crew *fleettest.Crew
	disk string // of a process whose scratch is small; "" for none
}

func (c *chaos) member(r *rand.Rand) *fleettest.Member {
	all := c.crew.Members()
	return all[r.IntN(len(all))]
}

// ofProcesses are faults of processes and hosts; ofEngines are those of what they stand on. One of each may
// overlap.
func (c *chaos) ofProcesses() []fault {
	list := []fault{
		{"kill -9 of a process", func(_ context.Context, r *rand.Rand) (func(context.Context) error, error) {
			_ = c.member(r).Signal(syscall.SIGKILL) // it may have ended just now
			return nil, nil
		}},
		{"kill -9 of two processes", func(_ context.Context, r *rand.Rand) (func(context.Context) error, error) {
			_, _ = c.member(r).Signal(syscall.SIGKILL), c.member(r).Signal(syscall.SIGKILL)
			return nil, nil
		}},
		{"SIGTERM of a process", func(_ context.Context, r *rand.Rand) (func(context.Context) error, error) {
			_ = c.member(r).Signal(syscall.SIGTERM)
			return nil, nil
		}},
		{"SIGSTOP of a process", func(_ context.Context, r *rand.Rand) (func(context.Context) error, error) {
			m := c.member(r)
			return func(context.Context) error { _ = m.Signal(syscall.SIGCONT); return nil }, m.Signal(syscall.SIGSTOP)
		}},
	}
	if c.crew.Network == nil {
		return list
	}
	for name, networks := range map[string][]string{
		"a host cut from Redis": {"redis"}, "a host cut from PostgreSQL": {"db"}, "a host cut from the other": {"peers"},
		"a host cut from all but its clients": {"db", "redis", "peers"},
	} {
		list = append(list, fault{name, func(_ context.Context, r *rand.Rand) (func(context.Context) error, error) {
			host := c.crew.Network.Hosts[r.IntN(len(c.crew.Network.Hosts))]
			return func(context.Context) error { return host.Heal(networks...) }, host.Cut(networks...)
		}})
	}
	return list
}

func (c *chaos) ofEngines() []fault {
	list := []fault{
		{"FLUSHALL of Redis", func(ctx context.Context, _ *rand.Rand) (func(context.Context) error, error) {
			return nil, c.crew.Redis.Flush(ctx)
		}},
		{"Redis away", func(context.Context, *rand.Rand) (func(context.Context) error, error) {
			return c.crew.Redis.Restart, c.crew.Redis.Kill()
		}},
		{"PostgreSQL crashed and away", func(context.Context, *rand.Rand) (func(context.Context) error, error) {
			return c.crew.Postgres.Restart, c.crew.Postgres.Crash()
		}},
		{"PostgreSQL paused", func(ctx context.Context, r *rand.Rand) (func(context.Context) error, error) {
			return nil, c.crew.Postgres.Pause(ctx, time.Duration(1+r.IntN(5))*time.Second)
		}},
		{"S3 failing every tenth request", func(context.Context, *rand.Rand) (func(context.Context) error, error) {
			c.crew.Store.FailEvery(10)
			return func(context.Context) error { c.crew.Store.FailEvery(0); return nil }, nil
		}},
	}
	if c.disk != "" {
		plug := filepath.Join(c.disk, "plug")
		list = append(list, fault{"a disk for uploads full", func(context.Context, *rand.Rand) (func(context.Context) error, error) {
			fill(c.t, plug)
			return func(context.Context) error { return os.Remove(plug) }, nil
		}})
	}
	return list
}

// TestChaos breaks everything at random, one thing after the other or two at once, under a load that checks
// that nothing is lost, doubled or stuck. LYCEUM_CHAOS says for how long, LYCEUM_CHAOS_SEED repeats a run.
func TestChaos(t *testing.T) {
	d := 25 * time.Second
	if text := os.Getenv("LYCEUM_CHAOS"); text != "" {
		var err error
		if d, err = time.ParseDuration(text); err != nil {
			t.Fatalf("LYCEUM_CHAOS: %v", err)
		}
	}
	seed := seeded(t)
	r := rand.New(rand.NewPCG(seed, 1))
	c := &chaos{t: t}
	gateway := "127.0.0.1"
	if err := fleettest.CanNetwork(); err == nil {
		c.crew = fleettest.TwoHosts(t)
		gateway = c.crew.Network.Address("front")
	} else {
		t.Logf("without cuts of hosts: %v", err)
		c.crew = fleettest.Small(t)
	}
	c.smallDisk()
	probes := []*probe{newProbe(t, c.crew.Fleet, c.crew.URL(), gateway)}
	if c.crew.Network != nil {
		probes = append(probes, probes[0].at(hostURLs(c.crew, 1)[0]))
	}
	b := burdened(t, d, c.crew.URLs(), nil)
	var r1 recovered
	processes, engines := c.ofProcesses(), c.ofEngines()
	for until := time.Now().Add(d - 3*time.Second); time.Now().Before(until) && !t.Failed(); {
		list := []fault{processes[r.IntN(len(processes))], engines[r.IntN(len(engines))]}
		if which := r.IntN(3); which < 2 {
			list = list[which : which+1]
		}
		hold := time.Duration(500+r.IntN(5000)) * time.Millisecond
		c.round(list, hold, probes, &r1, r)
		pause(t, time.Duration(r.IntN(1500))*time.Millisecond)
	}
	b.ok("chaos")
	r1.report(t)
	c.crew.AwaitRecovery(t)
}

// round breaks things, mends them and measures how long it takes until every role works everywhere again.
func (c *chaos) round(list []fault, hold time.Duration, probes []*probe, found *recovered, r *rand.Rand) {
	c.t.Helper()
	var names []string
	var mends []func(context.Context) error
	for _, f := range list {
		mend, err := f.begin(c.t.Context(), r)
		if mend != nil {
			mends = append(mends, mend)
		}
		if err != nil {
			c.t.Errorf("%s: %v", f.name, err)
		}
		names = append(names, f.name)
	}
	if len(mends) > 0 {
		pause(c.t, hold)
	}
	var errs []error
	for _, mend := range mends {
		errs = append(errs, mend(context.WithoutCancel(c.t.Context())))
	}
	if err := errors.Join(errs...); err != nil {
		c.t.Errorf("%s: %v", strings.Join(names, ", "), err)
	}
	name := names[0]
	if len(names) > 1 {
		name = "two faults at once"
	}
	began := time.Now()
	for _, p := range probes {
		p.within(20*time.Second, strings.Join(names, " and "), append([]string{"client", "sync", "media", "push"}, stateful...)...)
	}
	took := time.Since(began)
	found.add(name, took)
	c.t.Logf("%s, for %.1f s: all roles work after %d ms", strings.Join(names, " and "), hold.Seconds(), took.Milliseconds())
}

// smallDisk adds a process that takes files, with a scratch of 8 MiB where this machine lets us have one.
func (c *chaos) smallDisk() {
	if os.Geteuid() != 0 {
		return
	}
	disk := c.t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		c.t.Logf("without a small disk: %v", err)
		return
	}
	c.t.Cleanup(func() { _ = syscall.Unmount(disk, 0) })
	var host *fleettest.Host
	if c.crew.Network != nil {
		host = c.crew.Network.Hosts[1]
	}
	m := c.crew.Join(c.t, "media", host, disk)
	c.t.Cleanup(func() { m.Leave(c.t) })
	c.disk = disk
}
