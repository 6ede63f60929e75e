package bus

import (
	"context"
	"sync"
)

// Local is the bus inside one process. Publish calls the subscribers itself, so Barrier has nothing to wait for
// but the deliveries that run.
type Local struct {
	subs subscribers

	mu     sync.Mutex // held while messages are delivered: fn never runs twice at once
	closed bool
}

var _ Bus = (*Local)(nil)

// NewLocal returns a bus for the subscribers of this process.
func NewLocal() *Local { return &Local{} }

// Publish hands the messages to the subscribers before it returns.
func (l *Local) Publish(ctx context.Context, msgs ...Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	for _, m := range msgs {
		l.subs.deliver(m)
	}
	return nil
}

// Subscribe implements Bus.
func (l *Local) Subscribe(topic string, fn func(Message)) (cancel func()) {
	remove := l.subs.add(topic, fn)
	return func() { remove() }
}

// Barrier implements Bus.
func (l *Local) Barrier(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	return nil
}

// Connected is true until Close.
func (l *Local) Connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed
}

// Server is "": there is one.
func (l *Local) Server() string { return "" }

// OnReconnect never runs fn: a process does not lose the connection to itself.
func (l *Local) OnReconnect(func()) (cancel func()) { return func() {} }

// Close implements Bus.
func (l *Local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return nil
}
