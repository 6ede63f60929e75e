package fleettest_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lyceum/bench"
	"lyceum/fleet"
	"lyceum/fleettest"
)

// load is a run of the load generator beside which things are broken.
type load struct {
	result  *bench.Result
	err     error
	sending chan struct{} // closed when preparations are over
	done    chan struct{}
}

// begin closes sending at the first line of the load generator about a second that passed.
type begin struct {
	once    sync.Once
	sending chan struct{}
}

func (b *begin) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("/s  p50")) {
		b.once.Do(func() { close(b.sending) })
	}
	return len(p), nil
}

func startLoad(t *testing.T, f *fleettest.Fleet, run func(ctx context.Context, target *bench.Target, out *begin) (*bench.Result, error)) *load {
	t.Helper()
	l := &load{sending: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.result, l.err = run(t.Context(), &bench.Target{URL: strings.Join(f.URLs(), ",")}, &begin{sending: l.sending})
	}()
	select {
	case <-l.sending:
	case <-l.done:
		t.Fatalf("the load ended before it began: %v", l.err)
	case <-time.After(90 * time.Second):
		t.Fatal("the load does not begin")
	}
	return l
}

func send(t *testing.T, f *fleettest.Fleet, d time.Duration) *load {
	t.Helper()
	return startLoad(t, f, func(ctx context.Context, target *bench.Target, out *begin) (*bench.Result, error) {
		return bench.Send{Senders: 8, Rooms: 8, Duration: d}.Run(ctx, target, out)
	})
}

// ok waits for the end of a load and holds that nothing was lost, doubled or out of order.
func (l *load) ok(t *testing.T, what string) {
	t.Helper()
	select {
	case <-l.done:
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s: the load does not end", what)
	}
	if l.err != nil {
		t.Fatalf("%s: %v", what, l.err)
	}
	r := l.result
	t.Logf("%s: %d %s in %.1f s, %d retries, longest pause %.0f ms, p50 %.1f ms, p99 %.1f ms, slowest %.0f ms",
		what, r.Done, r.Mode, r.Seconds, r.Retries, r.Longest, r.Latency["p50"], r.Latency["p99"], r.Latency["max"])
	if r.Check != "ok" || r.Errors != 0 {
		t.Errorf("%s: %d errors, check: %s", what, r.Errors, r.Check)
	}
}

// pause lets the load run for a while.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func signal(t *testing.T, c *fleet.Child, s syscall.Signal) {
	t.Helper()
	if err := c.Signal(s); err != nil {
		t.Errorf("%s: %v", c.Name, err)
	}
}

func TestKilledProcessesLoseNothing(t *testing.T) {
	f := fleettest.Split(t)
	l := send(t, f, 12*time.Second)
	for _, name := range []string{"events-1", "router-1", "sync-1", "accountdata-2"} {
		signal(t, f.Child(t, name), syscall.SIGKILL)
		pause(t, 2500*time.Millisecond)
	}
	l.ok(t, "kill -9 of four processes")
	if l.result.Longest >= 5000 {
		t.Errorf("nobody was served for %.0f ms, expected less than 5000", l.result.Longest)
	}
	f.AwaitHealthy(t)
}

func TestAPausedOwnerThatWakesUpCanNotWrite(t *testing.T) {
	f := fleettest.Split(t)
	l := send(t, f, 13*time.Second)
	owner := f.Child(t, "events-2")
	signal(t, owner, syscall.SIGSTOP)
	pause(t, 8*time.Second)
	signal(t, owner, syscall.SIGCONT)
	l.ok(t, "an owner paused for 8 s")
	f.AwaitHealthy(t)
}

func TestRedisMayGoAndComeBack(t *testing.T) {
	f := fleettest.Split(t)
	waiting := startLoad(t, f, func(ctx context.Context, target *bench.Target, out *begin) (*bench.Result, error) {
		return bench.CCU{Clients: 40, RoomSize: 20, Rate: 10, Duration: 20 * time.Second}.Run(ctx, target, out)
	})
	l := send(t, f, 14*time.Second)
	if err := f.Redis.Kill(); err != nil {
		t.Fatal(err)
	}
	pause(t, 10*time.Second)
	if err := f.Redis.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.ok(t, "Redis away for 10 s")
	waiting.ok(t, "40 waiting clients, Redis away for 10 s")
	f.AwaitHealthy(t)
}

func TestPostgresMayRestart(t *testing.T) {
	f := fleettest.Split(t)
	l := send(t, f, 9*time.Second)
	pause(t, time.Second)
	if err := f.Postgres.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.ok(t, "PostgreSQL restarted")
	f.AwaitHealthy(t)
}

func TestAProcessThatStopsAnswersEverybody(t *testing.T) {
	f := fleettest.Split(t)
	l := send(t, f, 8*time.Second)
	for _, name := range []string{"events-1", "sync-1"} {
		child := f.Child(t, name)
		user := f.Register(t, "waiting").At("http://" + child.Address)
		since := user.Sync("", 0).Get("next_batch").String()
		type answer struct {
			status int
			err    error
			took   time.Duration
		}
		answers := make(chan answer, 1)
		go func() {
			began := time.Now()
			status, _, err := user.Try("GET", "/_matrix/client/v3/sync?timeout=30000&since="+since, nil)
			answers <- answer{status, err, time.Since(began)}
		}()
		select {
		case a := <-answers:
			t.Fatalf("a long poll at %s did not wait: %+v", name, a)
		case <-time.After(time.Second):
		}
		signal(t, child, syscall.SIGTERM)
		a := <-answers
		t.Logf("a long poll at %s, which stops, was answered %d after %s", name, a.status, a.took.Round(time.Millisecond))
		if a.err != nil || a.status != 200 || a.took > 20*time.Second {
			t.Errorf("a long poll at %s, which stops: status %d, %v", name, a.status, a.err)
		}
	}
	l.ok(t, "two processes stopped")
	f.AwaitHealthy(t)
}
