package bus

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lyceum/platform/conf"
	"lyceum/platform/engines"
	"lyceum/platform/engines/enginestest"
)

func openRedis(t testing.TB, url, prefix string) *Redis {
	t.Helper()
	b, err := NewRedis(t.Context(), Config{
		Addresses: []string{url}, Prefix: prefix,
		StartWait: conf.Duration(20 * time.Second), Timeout: conf.Duration(10 * time.Second),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestLimits(t *testing.T) {
	url := enginestest.TestRedis(t)
	for name, open := range map[string]func(t *testing.T) Limits{
		"Local": func(*testing.T) Limits { return NewLocalLimits() },
		"Redis": func(t *testing.T) Limits { return NewRedisLimits(openRedis(t, url, enginestest.Unique())) },
	} {
		t.Run(name, func(t *testing.T) { limitsSuite(t, open(t)) })
	}
}

func limitsSuite(t *testing.T, l Limits) {
	take := func(key string, perSecond float64, burst int) time.Duration {
		t.Helper()
		wait, err := l.Take(t.Context(), key, perSecond, burst)
		if err != nil {
			t.Fatal(err)
		}
		return wait
	}
	// One per hour: the test is far too quick for a second one to become free.
	const slow = 1.0 / 3600
	for i := range 5 {
		if wait := take("burst", slow, 5); wait != 0 {
			t.Fatalf("use %d of a burst of 5 has to wait %s", i+1, wait)
		}
	}
	for range 3 {
		if wait := take("burst", slow, 5); wait < 59*time.Minute || wait > time.Hour {
			t.Errorf("the use after the burst has to wait %s, expected about an hour: refused uses must not count", wait)
		}
	}
	if wait := take("other", slow, 0); wait != 0 {
		t.Errorf("another key waits %s", wait)
	}
	if wait := take("other", slow, 0); wait == 0 {
		t.Error("a burst of 0 let two through")
	}
	for range 1000 {
		if wait := take("free", 0, 1); wait != 0 {
			t.Fatal("no limit was asked for")
		}
	}
	take("refill", 20, 1)
	wait := take("refill", 20, 1)
	if wait <= 0 || wait > 50*time.Millisecond {
		t.Errorf("wait = %s, expected at most one interval of 50 ms", wait)
	}
	time.Sleep(wait)
	if again := take("refill", 20, 1); again != 0 {
		t.Errorf("after the wait it says to wait %s more", again)
	}
	give := func(key string, uses int) {
		t.Helper()
		if err := l.Refund(t.Context(), key, slow, uses); err != nil {
			t.Fatal(err)
		}
	}
	give("burst", 2)
	for i := range 3 {
		if wait := take("burst", slow, 5); (wait == 0) != (i < 2) {
			t.Errorf("after 2 uses were given back, use %d waits %s", i+1, wait)
		}
	}
	give("burst", 100) // never more than as new
	for i := range 6 {
		if wait := take("burst", slow, 5); (wait == 0) != (i < 5) {
			t.Errorf("after all uses were given back, use %d waits %s", i+1, wait)
		}
	}
	give("nobody", 1)
	if err := l.Refund(t.Context(), "free", 0, 1); err != nil {
		t.Error(err)
	}
	var allowed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if wait, err := l.Take(t.Context(), "many", slow, 30); err == nil && wait == 0 {
					allowed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if allowed.Load() != 30 {
		t.Errorf("%d uses at once were allowed of a burst of 30", allowed.Load())
	}
}

func TestRedisLimitsAreShared(t *testing.T) {
	url, prefix := enginestest.TestRedis(t), enginestest.Unique()
	a, b := NewRedisLimits(openRedis(t, url, prefix)), NewRedisLimits(openRedis(t, url, prefix))
	const slow = 1.0 / 3600
	for i, l := range []Limits{a, b, a, b} {
		wait, err := l.Take(t.Context(), "key", slow, 2)
		if err != nil || (wait == 0) != (i < 2) {
			t.Errorf("use %d of a burst of 2: wait %s, %v", i+1, wait, err)
		}
	}
}

func TestRedisLimitsWithoutRedis(t *testing.T) {
	server, err := engines.StartRedis(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	l := NewRedisLimits(openRedis(t, server.URL(), "p"))
	if wait, err := l.Take(t.Context(), "key", 1, 1); wait != 0 || err != nil {
		t.Fatal(wait, err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	allowed := 0
	for range 10 {
		wait, err := l.Take(t.Context(), "key", 1.0/3600, 3)
		if err != nil {
			t.Fatal(err)
		}
		if wait == 0 {
			allowed++
		}
	}
	if allowed != 3 {
		t.Errorf("%d uses allowed without Redis, expected the local limit of 3", allowed)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.Take(ctx, "key", 1, 1) // must not panic or hang
}

// TestGCRA compares with the definition: in any window of length w at most burst + w·rate uses are allowed.
func TestGCRA(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perSecond := rapid.Float64Range(0.1, 1000).Draw(t, "perSecond")
		burst := rapid.IntRange(1, 20).Draw(t, "burst")
		now := int64(1_700_000_000_000_000_000)
		var state int64
		var allowed []int64
		for _, gap := range rapid.SliceOfN(rapid.Int64Range(0, int64(3*time.Second)), 1, 200).Draw(t, "gaps") {
			now += gap
			next, wait := gcra(now, state, perSecond, burst)
			if wait > 0 {
				if next != state {
					t.Fatal("a refused use changed the state")
				}
				if _, again := gcra(now+int64(wait)+1, state, perSecond, burst); again > 0 {
					t.Fatalf("after waiting %s it has to wait %s more", wait, again)
				}
				continue
			}
			state = next
			allowed = append(allowed, now)
		}
		for i := range allowed {
			for j := i; j < len(allowed); j++ {
				window := float64(allowed[j]-allowed[i]) / 1e9
				if n := j - i + 1; float64(n) > float64(burst)+window*perSecond+1e-3 {
					t.Fatalf("%d uses in %g s, rate %g, burst %d", n, window, perSecond, burst)
				}
			}
		}
	})
}

func TestGCRAExtremes(t *testing.T) {
	now := time.Now().UnixNano()
	next, wait := gcra(now, 0, 1e-300, 1)
	if wait != 0 || next <= now {
		t.Errorf("first use at a tiny rate: next %d, wait %s", next, wait)
	}
	if _, wait = gcra(now, next, 1e-300, 1); wait <= 0 {
		t.Error("second use at a tiny rate was allowed")
	}
	if _, wait = gcra(now, now, 1e300, 1); wait != 0 {
		t.Error("a huge rate refused")
	}
}

func TestLocalLimitsForgetIdleKeys(t *testing.T) {
	now := time.Now()
	l := newLocalLimits(func() time.Time { return now })
	for i := range 200_000 {
		l.Take(t.Context(), fmt.Sprint("key", i), 10, 1)
		if i%1000 == 0 {
			now = now.Add(time.Second)
		}
	}
	kept := 0
	for i := range l.shards {
		kept += len(l.shards[i].idleAt)
	}
	if kept > limitShards*(minSweepSize+64) {
		t.Errorf("%d keys kept of 200,000 that were idle", kept)
	}
}

func BenchmarkLimits(b *testing.B) {
	for name, l := range map[string]Limits{
		"Local": NewLocalLimits(), "Redis": NewRedisLimits(openRedis(b, enginestest.TestRedis(b), "bench")),
	} {
		b.Run(name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := l.Take(b.Context(), fmt.Sprint(i%1000), 1e6, 1000); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
