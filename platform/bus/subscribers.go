package bus

import (
	"slices"
	"sync"
	"sync/atomic"
)

// subscriber is one call of Subscribe.
type subscriber struct {
	fn   func(Message)
	gone atomic.Bool
}

// subscribers knows the subscribers of each topic. Lists are copied when they change, so that a delivery reads them
// without a lock and a subscriber may cancel from inside its function.
type subscribers struct {
	mu     sync.RWMutex
	topics map[string][]*subscriber
}

// add returns the function that removes the subscriber again; it reports whether the topic has no one left.
func (s *subscribers) add(topic string, fn func(Message)) (remove func() (last bool)) {
	sub := &subscriber{fn: fn}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics == nil {
		s.topics = map[string][]*subscriber{}
	}
	s.topics[topic] = append(slices.Clip(s.topics[topic]), sub)
	return func() bool {
		if sub.gone.Swap(true) {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		rest := slices.DeleteFunc(slices.Clone(s.topics[topic]), func(other *subscriber) bool { return other == sub })
		if len(rest) == 0 {
			delete(s.topics, topic)
			return true
		}
		s.topics[topic] = rest
		return false
	}
}

func (s *subscribers) deliver(m Message) {
	s.mu.RLock()
	list := s.topics[m.Topic]
	s.mu.RUnlock()
	for _, sub := range list {
		if !sub.gone.Load() {
			sub.fn(m)
		}
	}
}

func (s *subscribers) has(topic string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.topics[topic]) > 0
}

func (s *subscribers) names() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	names := make([]string, 0, len(s.topics))
	for topic := range s.topics {
		names = append(names, topic)
	}
	return names
}

// callbacks is a list of functions that come and go.
type callbacks struct {
	mu  sync.Mutex
	fns map[int]func()
	id  int
}

func (c *callbacks) add(fn func()) (cancel func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fns == nil {
		c.fns = map[int]func(){}
	}
	c.id++
	id := c.id
	c.fns[id] = fn
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.fns, id)
	}
}

func (c *callbacks) run() {
	c.mu.Lock()
	fns := make([]func(), 0, len(c.fns))
	for _, fn := range c.fns {
		fns = append(fns, fn)
	}
	c.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}
