package backoff_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"lyceum/platform/backoff"
)

func TestPausesDoubleUpToTheMaximum(t *testing.T) {
	b := backoff.Backoff{First: 10, Max: 35}
	got := []time.Duration{b.Next(), b.Next(), b.Next(), b.Next()}
	b.Reset()
	got = append(got, b.Next())
	if want := []time.Duration{10, 20, 35, 35, 10}; !slices.Equal(got, want) {
		t.Errorf("expected %v, found %v", want, got)
	}
}

func TestRetry(t *testing.T) {
	transient, final := errors.New("transient"), errors.New("final")
	synctest.Test(t, func(t *testing.T) {
		began, calls := time.Now(), 0
		err := backoff.Retry(t.Context(), backoff.Backoff{First: time.Second, Max: 2 * time.Second},
			func(err error) bool { return err == transient },
			func() error {
				if calls++; calls < 4 {
					return transient
				}
				return final
			})
		if err != final || calls != 4 || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %d calls and %v", err, calls, time.Since(began))
		}
	})
}

func TestRetryGivesUpAfterItsAttempts(t *testing.T) {
	calls, failed := 0, errors.New("failed")
	err := backoff.Retry(t.Context(), backoff.Backoff{First: 1, Max: 1, Attempts: 3}, nil, func() error { calls++; return failed })
	if err != failed || calls != 3 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestRetryEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	calls, failed := 0, errors.New("failed")
	err := backoff.Retry(ctx, backoff.Backoff{First: time.Hour, Max: time.Hour}, nil, func() error { calls++; return failed })
	if err != failed || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestJitter(t *testing.T) {
	for range 100 {
		if d := backoff.Jitter(time.Second); d < time.Second/2 || d >= time.Second {
			t.Fatalf("a pause of %v", d)
		}
	}
}
