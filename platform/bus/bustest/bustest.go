package bustest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/bus"
)

// Open returns two members of one new fleet, closed by the caller's cleanup. An engine without a
// network returns the same bus twice.
type Open func(t testing.TB) (a, b bus.Bus)

// Run tests the promises of bus.Bus. rounds is how often the randomized parts repeat.
func Run(t *testing.T, rounds int, open Open) {
	t.Run("Order", func(t *testing.T) { order(t, open) })
	t.Run("Topics", func(t *testing.T) { topics(t, open) })
	t.Run("Barrier", func(t *testing.T) { barrier(t, open, rounds) })
	t.Run("BarrierCallersTogether", func(t *testing.T) { barrierTogether(t, open, rounds/4) })
	t.Run("SubscriptionsComeAndGo", func(t *testing.T) { churn(t, open, rounds/4) })
	t.Run("CancelInside", func(t *testing.T) { cancelInside(t, open) })
	t.Run("Large", func(t *testing.T) { large(t, open) })
	t.Run("Contexts", func(t *testing.T) { contexts(t, open) })
	t.Run("Closed", func(t *testing.T) { closed(t, open) })
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// order: several publishers in both members; each receiver sees each publisher's numbers rise without a gap.
func order(t *testing.T, open Open) {
	a, b := open(t)
	const publishers, each, batch = 6, 300, 7
	type receiver struct {
		next [publishers]uint64
		bad  atomic.Int64
	}
	receivers := [2]*receiver{{}, {}}
	for i, member := range []bus.Bus{a, b} {
		r := receivers[i]
		member.Subscribe("order", func(m bus.Message) {
			p, n := m.Data[0], binary.BigEndian.Uint64(m.Data[1:])
			if r.next[p] != n {
				r.bad.Add(1)
			}
			r.next[p] = n + 1
		})
	}
	var wg sync.WaitGroup
	for p := range publishers {
		member := []bus.Bus{a, b}[p%2]
		wg.Go(func() {
			for n := uint64(0); n < each; {
				var msgs []bus.Message
				for range 1 + n%batch {
					msgs = append(msgs, bus.Message{Topic: "order", Data: append([]byte{byte(p)}, number(n)...)})
					n++
				}
				if err := member.Publish(t.Context(), msgs...); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	must(t, a.Barrier(t.Context()))
	must(t, b.Barrier(t.Context()))
	for i, r := range receivers {
		if r.bad.Load() > 0 {
			t.Errorf("member %d: %d messages out of order", i, r.bad.Load())
		}
		for p, next := range r.next {
			if next < each {
				t.Errorf("member %d has %d messages of publisher %d, expected at least %d", i, next, p, each)
			}
		}
	}
}

// topics: a subscriber gets its topic alone; a message without subscribers is no error.
func topics(t *testing.T, open Open) {
	a, b := open(t)
	var mu sync.Mutex
	got := map[string][]string{}
	for _, topic := range []string{"one", "two", "one/more", "{odd} name", "ünï\ncode"} {
		b.Subscribe(topic, func(m bus.Message) {
			mu.Lock()
			defer mu.Unlock()
			got[topic] = append(got[topic], m.Topic+"="+string(m.Data))
		})
	}
	must(t, a.Publish(t.Context()))
	must(t, a.Publish(t.Context(),
		bus.Message{Topic: "one", Data: []byte("1")}, bus.Message{Topic: "nobody", Data: []byte("x")},
		bus.Message{Topic: "two"}, bus.Message{Topic: "one/more", Data: []byte{0, 255}},
		bus.Message{Topic: "{odd} name", Data: []byte("o")}, bus.Message{Topic: "ünï\ncode", Data: []byte("u")}))
	must(t, b.Barrier(t.Context()))
	mu.Lock()
	defer mu.Unlock()
	want := map[string]string{
		"one": "one=1", "two": "two=", "one/more": "one/more=\x00\xff", "{odd} name": "{odd} name=o", "ünï\ncode": "ünï\ncode=u",
	}
	for topic, message := range want {
		if len(got[topic]) != 1 || got[topic][0] != message {
			t.Errorf("topic %q got %q, expected %q once", topic, got[topic], message)
		}
	}
}

// barrier: what was published anywhere before Barrier has arrived when it returns.
func barrier(t *testing.T, open Open, rounds int) {
	a, b := open(t)
	members := []bus.Bus{a, b}
	var seen [2]atomic.Uint64
	for i, member := range members {
		member.Subscribe("barrier", func(m bus.Message) { seen[i].Store(binary.BigEndian.Uint64(m.Data)) })
	}
	for round := range uint64(rounds) {
		from, to := rand.IntN(2), rand.IntN(2)
		var noise []bus.Message
		for range rand.IntN(20) {
			noise = append(noise, bus.Message{Topic: "noise", Data: make([]byte, rand.IntN(2000))})
		}
		must(t, members[from].Publish(t.Context(), append(noise, bus.Message{Topic: "barrier", Data: number(round)})...))
		must(t, members[to].Barrier(t.Context()))
		if got := seen[to].Load(); got != round {
			t.Fatalf("round %d: after Barrier the subscriber has seen %d", round, got)
		}
	}
}

// barrierTogether: each of many callers at once is served by what it published itself before.
func barrierTogether(t *testing.T, open Open, rounds int) {
	a, b := open(t)
	const callers = 16
	var seen [callers]atomic.Uint64
	b.Subscribe("together", func(m bus.Message) {
		seen[m.Data[0]].Store(binary.BigEndian.Uint64(m.Data[1:]))
	})
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for round := range uint64(rounds) {
				if err := a.Publish(t.Context(), bus.Message{Topic: "together", Data: append([]byte{byte(c)}, number(round)...)}); err != nil {
					t.Error(err)
					return
				}
				if err := b.Barrier(t.Context()); err != nil {
					t.Error(err)
					return
				}
				if got := seen[c].Load(); got != round {
					t.Errorf("caller %d, round %d: after Barrier the subscriber has seen %d", c, round, got)
					return
				}
			}
		})
	}
	wg.Wait()
}

// churn: subscriptions made and cancelled while messages flow; one that stays loses nothing.
func churn(t *testing.T, open Open, rounds int) {
	a, b := open(t)
	var steady atomic.Uint64
	b.Subscribe("steady", func(bus.Message) { steady.Add(1) })
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for round := range rounds {
				topic := fmt.Sprintf("churn%d", (w+round)%6)
				var got atomic.Int64
				cancel := b.Subscribe(topic, func(bus.Message) { got.Add(1) })
				err := a.Publish(t.Context(), bus.Message{Topic: topic}, bus.Message{Topic: "steady"})
				if err == nil {
					err = b.Barrier(t.Context())
				}
				if err != nil {
					t.Error(err)
					return
				}
				if got.Load() == 0 {
					t.Errorf("a message published after Subscribe to %s did not arrive", topic)
					return
				}
				cancel()
				cancel()
			}
		})
	}
	wg.Wait()
	must(t, b.Barrier(t.Context()))
	if got, want := steady.Load(), uint64(4*rounds); got != want && !t.Failed() {
		t.Errorf("the steady subscriber got %d messages of %d", got, want)
	}
}

func cancelInside(t *testing.T, open Open) {
	a, b := open(t)
	var calls atomic.Int64
	var cancel func()
	cancel = b.Subscribe("once", func(bus.Message) {
		calls.Add(1)
		cancel()
	})
	for range 3 {
		must(t, a.Publish(t.Context(), bus.Message{Topic: "once"}, bus.Message{Topic: "once"}))
	}
	must(t, b.Barrier(t.Context()))
	if got := calls.Load(); got != 1 {
		t.Errorf("%d calls, expected none after cancel", got)
	}
}

func large(t *testing.T, open Open) {
	a, b := open(t)
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * 31)
	}
	var got atomic.Pointer[[]byte]
	b.Subscribe("large", func(m bus.Message) { got.Store(&m.Data) })
	must(t, a.Publish(t.Context(), bus.Message{Topic: "large", Data: data}))
	must(t, b.Barrier(t.Context()))
	if p := got.Load(); p == nil || string(*p) != string(data) {
		t.Error("a message of 3 MiB arrived changed or not at all")
	}
}

func contexts(t *testing.T, open Open) {
	a, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Publish(ctx, bus.Message{Topic: "x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Publish with an ended context: %v", err)
	}
	if err := a.Barrier(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Barrier with an ended context: %v", err)
	}
	must(t, a.Publish(t.Context(), bus.Message{Topic: "x"}))
	must(t, a.Barrier(t.Context()))
}

func closed(t *testing.T, open Open) {
	a, _ := open(t)
	if !a.Connected() {
		t.Error("not connected after open")
	}
	must(t, a.Close())
	must(t, a.Close())
	if a.Connected() {
		t.Error("connected after Close")
	}
	if err := a.Publish(t.Context(), bus.Message{Topic: "x"}); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("Publish after Close: %v", err)
	}
	if err := a.Barrier(t.Context()); !errors.Is(err, bus.ErrClosed) {
		t.Errorf("Barrier after Close: %v", err)
	}
	a.Subscribe("x", func(bus.Message) {})()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually waits for a condition that another process brings about.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
