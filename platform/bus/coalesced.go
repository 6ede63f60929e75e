package bus

import (
	"context"
	"sync"
)

// Coalesced runs a call once for all who wait for it at the same time. A caller gets the result of a run that began after
// it arrived; at most one run is under way, and one group of callers waits for the next.
type Coalesced[T any] struct {
	Run func() (T, error) // is set before the first Wait

	mu      sync.Mutex
	running bool
	next    *coalescedRun[T]
}

// coalescedRun is one run: result and err are set when done is closed.
type coalescedRun[T any] struct {
	done   chan struct{}
	result T
	err    error
}

// Wait returns the result of a run that began after Wait was called. The error is that of the run, or of ctx when it ends
// first.
func (c *Coalesced[T]) Wait(ctx context.Context) (T, error) {
	c.mu.Lock()
	if c.next == nil {
		c.next = &coalescedRun[T]{done: make(chan struct{})}
	}
	run := c.next
	if !c.running {
		c.running = true
		go c.runAll()
	}
	c.mu.Unlock()
	select {
	case <-run.done:
		return run.result, run.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// runAll runs until nobody waits.
func (c *Coalesced[T]) runAll() {
	for {
		c.mu.Lock()
		run := c.next
		c.next = nil
		c.running = run != nil
		c.mu.Unlock()
		if run == nil {
			return
		}
		run.result, run.err = c.Run()
		close(run.done)
	}
}
