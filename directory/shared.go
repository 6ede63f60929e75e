package directory

import (
	"context"
	"sync"

	"lyceum/platform/caller"
)

// sharedRead runs one costly reading at a time for all who ask. A caller that comes during a run waits for the next one, so that the result
// is never older than the call.
type sharedRead[T any] struct {
	mu      sync.Mutex
	running *readRun[T]
	next    *readRun[T]
}

// readRun is one run, and those who wait for it.
type readRun[T any] struct {
	done  chan struct{} // closed at its end
	value T
	err   error
}

// do returns the result of a run of read that began after the call.
func (s *sharedRead[T]) do(ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	s.mu.Lock()
	mine := s.next
	if mine == nil {
		mine = &readRun[T]{done: make(chan struct{})}
		if s.next = mine; s.running == nil {
			s.start(caller.Nobody(context.WithoutCancel(ctx)), read)
		}
	}
	s.mu.Unlock()
	select {
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	case <-mine.done:
		return mine.value, mine.err
	}
}

// start makes the next reading the one that runs. The caller holds mu.
func (s *sharedRead[T]) start(ctx context.Context, read func(context.Context) (T, error)) {
	now := s.next
	s.running, s.next = now, nil
	go func() {
		now.value, now.err = read(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		close(now.done)
		if s.running = nil; s.next != nil {
			s.start(ctx, read)
		}
	}()
}
