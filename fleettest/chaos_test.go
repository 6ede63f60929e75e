package fleettest_test

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lyceum/fleettest"
	"lyceum/ops/bench"
	"lyceum/ops/up"
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

func startLoad(
	t *testing.T,
	f *fleettest.Fleet,
	run func(ctx context.Context, target *bench.Target, out *begin) (*bench.Result, error),
) *load {
	t.Helper()
	return loadAt(t, strings.Join(f.URLs(), ","), run)
}

// loadAt is a load upon the processes at some URLs.
func loadAt(t *testing.T, urls string, run func(ctx context.Context, target *bench.Target, out *begin) (*bench.Result, error)) *load {
	t.Helper()
	l := &load{sending: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.result, l.err = run(t.Context(), &bench.Target{URL: urls}, &begin{sending: l.sending})
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

// trust writes and reads at another process with every request while things are broken, and holds that no
// answer is older than what was acknowledged. The returned function ends it.
func trust(t *testing.T, f *fleettest.Fleet) (end func()) {
	t.Helper()
	alice, bob := f.Register(t, "alice").Everywhere(), f.Register(t, "bob").Everywhere()
	c := &checker{
		alice:      alice,
		bob:        bob,
		room:       alice.Room(bob),
		sinceAlice: alice.Sync("", 0).Get("next_batch").String(),
		sinceBob:   bob.Sync("", 0).Get("next_batch").String(),
	}
	quit, done := make(chan struct{}), make(chan struct{})
	rounds := 0
	go func() {
		defer close(done)
		for ; ; rounds++ {
			select {
			case <-quit:
				return
			default:
			}
			if err := c.round(rounds); err != nil {
				t.Errorf("round %d of writing and reading: %v", rounds, err)
				return
			}
		}
	}()
	var once sync.Once
	end = func() {
		once.Do(func() {
			close(quit)
			<-done
			t.Logf("%d rounds of writing and reading at other processes, none saw the past", rounds)
		})
	}
	t.Cleanup(end)
	return end
}

type checker struct {
	alice, bob           *fleettest.User
	room                 string
	sinceAlice, sinceBob string
}

// round does a write of several kinds and looks for each at once.
func (c *checker) round(n int) error {
	text := fmt.Sprint("value ", n)
	sent, err := c.alice.Insist(
		"PUT",
		fleettest.RoomPath(c.room, "send", "m.room.message", text),
		map[string]string{"msgtype": "m.text", "body": text},
	)
	if err != nil {
		return err
	}
	id := sent.Get("event_id").String()
	page, err := c.bob.Insist("GET", fleettest.RoomPath(c.room, "messages")+"?dir=b&limit=1", nil)
	if err != nil {
		return err
	}
	if got := page.Get("chunk.0.event_id").String(); got != id {
		return fmt.Errorf("/messages ends with %s, expected %s", got, id)
	}
	path := "/_matrix/client/v3/sendToDevice/test.secret/" + url.PathEscape(text)
	if _, err := c.alice.Insist("PUT", path,
		map[string]any{"messages": map[string]any{c.bob.ID: map[string]any{"*": map[string]string{"v": text}}}}); err != nil {
		return err
	}
	data := c.alice.UserPath("account_data", "test.data")
	if _, err := c.alice.Insist("PUT", data, map[string]string{"v": text}); err != nil {
		return err
	}
	if page, err = c.alice.Insist("GET", data, nil); err != nil {
		return err
	}
	if got := page.Get("v").String(); got != text {
		return fmt.Errorf("account data: found %q, expected %q", got, text)
	}
	if page, err = c.bob.Insist("GET", "/_matrix/client/v3/sync?timeout=0&since="+url.QueryEscape(c.sinceBob), nil); err != nil {
		return err
	}
	c.sinceBob = page.Get("next_batch").String()
	if events := fleettest.Joined(page, c.room).Get("timeline.events").Array(); len(events) != 1 || events[0].Get("event_id").String() != id {
		return fmt.Errorf("another user's /sync has not exactly %s: %s", id, page.Raw)
	}
	if events := page.Get("to_device.events").Array(); len(events) != 1 || events[0].Get("content.v").String() != text {
		return fmt.Errorf("/sync has not exactly the message to the device: %s", page.Raw)
	}
	if page, err = c.alice.Insist("GET", "/_matrix/client/v3/sync?timeout=0&since="+url.QueryEscape(c.sinceAlice), nil); err != nil {
		return err
	}
	c.sinceAlice = page.Get("next_batch").String()
	if events := page.Get("account_data.events").Array(); len(events) != 1 || events[0].Get("content.v").String() != text {
		return fmt.Errorf("/sync has not exactly the account data: %s", page.Raw)
	}
	return nil
}

// pause lets the load run for a while.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func signal(t *testing.T, c *up.Child, s syscall.Signal) {
	t.Helper()
	if err := c.Signal(s); err != nil {
		t.Errorf("%s: %v", c.Name, err)
	}
}

func TestRedisMayGoAndComeBack(t *testing.T) {
	f := fleettest.Split(t)
	waiting := startLoad(t, f, func(ctx context.Context, target *bench.Target, out *begin) (*bench.Result, error) {
		return bench.CCU{Clients: 40, RoomSize: 20, Rate: 10, Duration: 20 * time.Second}.Run(ctx, target, out)
	})
	end := trust(t, f)
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
	end()
	f.AwaitHealthy(t)
}

// noPresence keeps a user's own coming online from ending the wait.
var noPresence = url.QueryEscape(`{"presence":{"types":[]}}`)

func TestAProcessThatStopsAnswersEverybody(t *testing.T) {
	f := fleettest.Split(t)
	end := trust(t, f)
	l := send(t, f, 8*time.Second)
	for _, name := range []string{"events-1", "sync-1"} {
		child := f.Child(t, name)
		user := f.Register(t, "waiting").At("http://" + child.Address())
		since := user.Sync("", 0).Get("next_batch").String()
		type answer struct {
			status int
			err    error
			took   time.Duration
			text   string
		}
		answers := make(chan answer, 1)
		go func() {
			began := time.Now()
			status, page, err := user.Try("GET", "/_matrix/client/v3/sync?timeout=30000&filter="+noPresence+"&since="+url.QueryEscape(since), nil)
			answers <- answer{status, err, time.Since(began), page.Raw}
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
	end()
	f.AwaitHealthy(t)
}
