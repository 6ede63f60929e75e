package fleettest_test

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lyceum/fleettest"
	"lyceum/ops/bench"
)

// burden is a small load of everything that is checked: senders, clients that wait, and somebody who reads
// elsewhere what was just written.
type burden struct {
	t             *testing.T
	sending, wait *load
	trust         func()
}

// burdened begins a burden for a duration on the processes at the URLs.
func burdened(t *testing.T, d time.Duration, urls []string, trusting *fleettest.Fleet) *burden {
	t.Helper()
	b := &burden{t: t, trust: func() {}}
	list := strings.Join(urls, ",")
	b.wait = loadAt(t, list, func(ctx context.Context, target *bench.Target, out *begin) (*bench.Result, error) {
		return bench.CCU{Clients: 20, RoomSize: 5, Rate: 10, Duration: d}.Run(ctx, target, out)
	})
	b.sending = loadAt(t, list, func(ctx context.Context, target *bench.Target, out *begin) (*bench.Result, error) {
		return bench.Send{Senders: 2, Rooms: 6, Duration: d}.Run(ctx, target, out)
	})
	if trusting != nil {
		b.trust = trust(t, trusting)
	}
	return b
}

// ok ends the burden and holds that nothing was lost or doubled and that every reader got everything.
func (b *burden) ok(what string) {
	b.t.Helper()
	b.sending.ok(b.t, what)
	b.wait.ok(b.t, what+", 20 waiting clients")
	b.trust()
}

// recovered collects how long things took.
type recovered struct {
	mu   sync.Mutex
	list map[string][]time.Duration
}

func (r *recovered) add(what string, d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil {
		r.list = map[string][]time.Duration{}
	}
	r.list[what] = append(r.list[what], d)
}

func (r *recovered) report(t *testing.T) {
	t.Helper()
	for _, what := range slices.Sorted(maps.Keys(r.list)) {
		l := r.list[what]
		slices.Sort(l)
		t.Logf(
			"%s: %d times, work went on after %d ms (median), %d ms (longest)", what, len(l), l[len(l)/2].Milliseconds(),
			l[len(l)-1].Milliseconds(),
		)
	}
}

// TestEveryRoleMayDie kills one process of each role with -9. What only that role can do is done within 5 s.
func TestEveryRoleMayDie(t *testing.T) {
	f := fleettest.Split(t)
	p := newProbe(t, f, f.URL(), "127.0.0.1")
	p.within(time.Minute, "before", everyRole...)
	end := trust(t, f)
	for _, role := range everyRole {
		signal(t, f.Child(t, role+"-1"), syscall.SIGKILL)
		took := p.within(5*time.Second, "kill -9 of "+role+"-1", role)
		t.Logf("kill -9 of %s-1: requests of %s work after %d ms", role, role, took.Milliseconds())
	}
	end()
	f.AwaitHealthy(t)
}

// stateful are the roles whose owners a small fleet has in two kinds of processes.
var stateful = []string{"events", "receipts", "typing", "presence", "todevice", "accountdata", "devicelists"}

func TestKilledAtRandomNothingIsLost(t *testing.T) {
	c := fleettest.Small(t)
	d := 16 * time.Second
	if os.Getenv("LYCEUM_CHAOS") != "" {
		d = time.Minute
	}
	killAtRandom(t, c, d)
}

func killAtRandom(t *testing.T, c *fleettest.Crew, d time.Duration) {
	t.Helper()
	seed := seeded(t)
	random := rand.New(rand.NewPCG(seed, 0))
	p := newProbe(t, c.Fleet, c.URL(), "127.0.0.1")
	b := burdened(t, d, c.URLs(), c.Fleet)
	var r recovered
	for until := time.Now().Add(d); time.Now().Before(until); {
		m := c.Members()[random.IntN(len(c.Members()))]
		if err := m.Signal(syscall.SIGKILL); err != nil {
			t.Logf("%s: %v", m.Name, err) // it has just ended and starts again
		}
		r.add("kill -9 of a random process", p.within(5*time.Second, "kill -9 of "+m.Name, "events", "sync", "accountdata", "media"))
		pause(t, time.Duration(500+random.IntN(1500))*time.Millisecond)
	}
	b.ok("kill -9 at random")
	r.report(t)
	c.AwaitRecovery(t)
}

// TestStoppedOwnersAreLeft stops one owner of every stream for 15 s and wakes it up. Requests go on at the
// other owner, and the one that woke up, who believed that it still owned its shards, writes nothing.
func TestStoppedOwnersAreLeft(t *testing.T) {
	c := fleettest.Small(t)
	p := newProbe(t, c.Fleet, c.URL(), "127.0.0.1")
	var running []string
	var asleep []*fleettest.Member
	for _, m := range c.Members() {
		if m.Roles == "events" || m.Roles == fleettest.Combined {
			if strings.HasSuffix(m.Name, "-2") {
				asleep = append(asleep, m)
				continue
			}
		}
		running = append(running, m.URL)
	}
	b := burdened(t, 19*time.Second, running, nil)
	for _, m := range asleep {
		if err := m.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	took := p.within(5*time.Second, "owners stopped", stateful...)
	t.Logf("SIGSTOP of an owner of every stream: requests of all writers work after %d ms", took.Milliseconds())
	pause(t, 15*time.Second-time.Since(began))
	for _, m := range asleep {
		if err := m.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	woken := p.within(5*time.Second, "an owner woken", stateful...)
	t.Logf("SIGCONT of owners stopped for 15 s: requests of all writers work after %d ms", woken.Milliseconds())
	b.ok("owners stopped for 15 s")
	c.AwaitRecovery(t)
	for _, m := range asleep {
		p.at(m.URL).within(10*time.Second, "asked at the one that was asleep", stateful...)
	}
}

// TestEnginesMayFail empties and restarts Redis, and restarts and pauses PostgreSQL, under one load.
func TestEnginesMayFail(t *testing.T) {
	c := fleettest.Small(t)
	p := newProbe(t, c.Fleet, c.URL(), "127.0.0.1")
	b := burdened(t, 25*time.Second, c.URLs(), c.Fleet)
	all := append([]string{"sync", "media", "push"}, stateful...)
	for _, e := range engineFaults {
		if err := e.fail(t.Context(), c); err != nil {
			t.Fatalf("%s: %v", e.name, err)
		}
		took := p.within(5*time.Second, e.name, all...)
		t.Logf("%s: requests of all roles work after %d ms", e.name, took.Milliseconds())
	}
	b.ok("Redis and PostgreSQL emptied, restarted, paused")
	c.AwaitRecovery(t)
}

type engineFault struct {
	name string
	fail func(ctx context.Context, c *fleettest.Crew) error // returns when the engine works again
}

var engineFaults = []engineFault{
	{"FLUSHALL of Redis", func(ctx context.Context, c *fleettest.Crew) error { return c.Redis.Flush(ctx) }},
	{"Redis killed and started empty", func(ctx context.Context, c *fleettest.Crew) error {
		if err := c.Redis.Kill(); err != nil {
			return err
		}
		return c.Redis.Restart(ctx)
	}},
	{"PostgreSQL ended with an immediate shutdown and started", func(ctx context.Context, c *fleettest.Crew) error {
		if err := c.Postgres.Crash(); err != nil {
			return err
		}
		return c.Postgres.Restart(ctx)
	}},
	{"PostgreSQL paused for 5 s", func(ctx context.Context, c *fleettest.Crew) error {
		return c.Postgres.Pause(ctx, 5*time.Second)
	}},
}

// at is the same probe asking elsewhere.
func (p *probe) at(url string) *probe {
	other := *p
	other.url, other.users, other.devices = url, nil, nil // since is shared: the devices are the same
	for i, u := range p.users {
		other.users, other.devices = append(other.users, u.At(url)), append(other.devices, p.devices[i].At(url))
	}
	return &other
}

// seeded gives the seed of a random test, and prints it.
func seeded(t *testing.T) uint64 {
	t.Helper()
	seed := chosenSeed()
	t.Logf("LYCEUM_CHAOS_SEED=%d", seed)
	return seed
}
