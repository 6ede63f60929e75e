package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff gives the pauses between attempts: First, then twice the one before, at most Max.
type Backoff struct {
	First, Max time.Duration
	Attempts   int // calls that Retry makes at most; 0: no limit

	next time.Duration // 0: First
}

// Next returns the pause before the next attempt.
func (b *Backoff) Next() time.Duration {
	pause := max(b.next, b.First)
	b.next = min(2*pause, b.Max)
	return pause
}

// Reset makes First the next pause: an attempt succeeded.
func (b *Backoff) Reset() { b.next = 0 }

// Wait waits for the next pause. The error is that of ctx, when it ends first.
func (b *Backoff) Wait(ctx context.Context) error { return sleep(ctx, b.Next()) }

// Retry runs call until it succeeds, until its error is not worth another attempt, or until ctx ends, and returns the last
// error of call. again tells whether an error is worth another attempt; nil: all are.
func Retry(ctx context.Context, b Backoff, again func(error) bool, call func() error) error {
	for n := 1; ; n++ {
		err := call()
		if err == nil || n == b.Attempts || again != nil && !again(err) || b.Wait(ctx) != nil {
			return err
		}
	}
}

// Jitter returns a random pause between a half of d and d, so that processes that failed together do not return together.
func Jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2) }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
