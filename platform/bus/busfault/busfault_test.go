package busfault_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"lyceum/platform/bus"
	"lyceum/platform/bus/busfault"
	"lyceum/platform/bus/bustest"
)

func two(t testing.TB) (a, b *busfault.Bus) {
	shared := bus.NewLocal()
	a, b = busfault.New(shared), busfault.New(shared)
	t.Cleanup(func() { _, _, _ = a.Close(), b.Close(), shared.Close() })
	return a, b
}

func TestItKeepsThePromisesOfABus(t *testing.T) {
	bustest.Run(t, 200, func(t testing.TB) (bus.Bus, bus.Bus) { return two(t) })
}

func TestItDelaysRepeatsAndLoses(t *testing.T) {
	a, b := two(t)
	var mu sync.Mutex
	var got []string
	b.Subscribe("x", func(m bus.Message) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(m.Data))
	})
	b.OnReconnect(func() {
		if b.Connected() {
			t.Error("connected before the functions of OnReconnect have run")
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, "again")
	})
	say := func(text string) {
		t.Helper()
		if err := a.Publish(t.Context(), bus.Message{Topic: "x", Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	say("1")
	if err := b.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Duplicate(true)
	say("2")
	b.Duplicate(false)
	if err := b.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Delay(true)
	say("3")
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := b.Barrier(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a barrier does not wait for what is delayed: %v", err)
	}
	b.Disconnect(true)
	b.Delay(false)
	say("4")
	if err := b.Barrier(t.Context()); !errors.Is(err, bus.ErrUnavailable) || b.Connected() {
		t.Errorf("away: %v", err)
	}
	if err := b.Publish(t.Context(), bus.Message{Topic: "x"}); !errors.Is(err, bus.ErrUnavailable) {
		t.Errorf("away: %v", err)
	}
	b.Disconnect(false)
	say("5")
	if err := b.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"1", "2", "2", "again", "5"}; !slices.Equal(got, want) {
		t.Errorf("got %v, expected %v", got, want)
	}
}
