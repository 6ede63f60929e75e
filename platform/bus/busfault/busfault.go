package busfault

import (
	"context"
	"sync"

	"lyceum/platform/bus"
)

// Bus is a process's side of a bus. It delivers in order, on a goroutine of its own.
type Bus struct {
	shared bus.Bus

	mu        sync.Mutex
	changed   chan struct{} // closed at each change of what follows
	queue     []delivery
	taken     int // deliveries taken out of the queue, in all
	put       int
	delayed   bool
	twice     bool
	away      bool
	closed    bool
	reconnect map[int]func()
	ids       int
	cancels   []func()
}

type delivery struct {
	fn   func(bus.Message)
	gone *bool // under mu
	m    bus.Message
}

var _ bus.Bus = (*Bus)(nil)

// New gives a side of a bus that several processes share. Close it before the shared one.
func New(shared bus.Bus) *Bus {
	b := &Bus{shared: shared, changed: make(chan struct{}), reconnect: map[int]func(){}}
	go b.run()
	return b
}

func (b *Bus) notify() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *Bus) run() {
	for {
		b.mu.Lock()
		for !b.closed && (b.delayed || len(b.queue) == 0) {
			changed := b.changed
			b.mu.Unlock()
			<-changed
			b.mu.Lock()
		}
		if b.closed {
			b.mu.Unlock()
			return
		}
		d := b.queue[0]
		b.queue = b.queue[1:]
		gone := *d.gone
		b.mu.Unlock()
		if !gone {
			d.fn(d.m)
		}
		b.mu.Lock()
		b.taken++
		b.notify()
		b.mu.Unlock()
	}
}

// Delay keeps messages back from this process until it is called with false.
func (b *Bus) Delay(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delayed = on
	b.notify()
}

// Duplicate delivers each message twice.
func (b *Bus) Duplicate(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.twice = on
}

// Disconnect breaks the connection of this process to the bus, with what is under way to it; false makes a new one.
func (b *Bus) Disconnect(on bool) {
	b.mu.Lock()
	if b.away == on {
		b.mu.Unlock()
		return
	}
	var fns []func()
	if on {
		b.away = true
		b.taken += len(b.queue)
		b.queue = nil
	} else {
		for _, fn := range b.reconnect {
			fns = append(fns, fn)
		}
	}
	b.notify()
	b.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
	if !on {
		b.mu.Lock()
		b.away = false
		b.notify()
		b.mu.Unlock()
	}
}

// Publish implements bus.Bus.
func (b *Bus) Publish(ctx context.Context, msgs ...bus.Message) error {
	if err := b.state(); err != nil {
		return err
	}
	return b.shared.Publish(ctx, msgs...)
}

func (b *Bus) state() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return bus.ErrClosed
	case b.away:
		return bus.ErrUnavailable
	}
	return nil
}

// Subscribe implements bus.Bus.
func (b *Bus) Subscribe(topic string, fn func(bus.Message)) (cancel func()) {
	gone := false
	undo := b.shared.Subscribe(topic, func(m bus.Message) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.away || b.closed {
			return
		}
		n := 1
		if b.twice {
			n = 2
		}
		for range n {
			b.queue = append(b.queue, delivery{fn, &gone, m})
			b.put++
		}
		b.notify()
	})
	cancel = func() {
		undo()
		b.mu.Lock()
		gone = true
		b.mu.Unlock()
	}
	b.mu.Lock()
	b.cancels = append(b.cancels, cancel)
	b.mu.Unlock()
	return cancel
}

// Barrier implements bus.Bus.
func (b *Bus) Barrier(ctx context.Context) error {
	if err := b.state(); err != nil {
		return err
	}
	if err := b.shared.Barrier(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	upto := b.put
	for b.taken < upto {
		if b.closed || b.away {
			b.mu.Unlock()
			return b.state()
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
		b.mu.Lock()
	}
	b.mu.Unlock()
	return b.state()
}

// Connected implements bus.Bus.
func (b *Bus) Connected() bool { return b.state() == nil && b.shared.Connected() }

// Server implements bus.Bus.
func (b *Bus) Server() string { return b.shared.Server() }

// OnReconnect implements bus.Bus.
func (b *Bus) OnReconnect(fn func()) (cancel func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ids++
	id := b.ids
	b.reconnect[id] = fn
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.reconnect, id)
	}
}

// Close ends this side. The shared bus stays.
func (b *Bus) Close() error {
	b.mu.Lock()
	b.closed = true
	cancels := b.cancels
	b.cancels = nil
	b.notify()
	b.mu.Unlock()
	for _, cancel := range cancels {
		cancel()
	}
	return nil
}
