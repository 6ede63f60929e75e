package stream

import (
	"slices"
	"time"
)

// lane is a queue and the goroutine that writes it. Streams of different lanes do not wait for each other.
type lane struct {
	name     string
	wake     chan struct{}
	queue    []*Ticket // under Streams.mu
	inFlight int       // commits under way, under Streams.mu
	pace     pace      // under Streams.mu
	outcomes chan outcome
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// laneOf finds or makes the lane of a name. Wiring time only.
func (s *Streams) laneOf(name string) *lane {
	i := slices.IndexFunc(s.lanes, func(l *lane) bool { return l.name == name })
	if i < 0 {
		i = len(s.lanes)
		s.lanes = append(s.lanes, &lane{name: name, wake: make(chan struct{}, 1), outcomes: make(chan outcome, 64)})
	}
	return s.lanes[i]
}

// takeBatch takes the tickets for the next commit of a lane: those whose shards are not in another commit. Their
// shards count as being in a commit until endCommit.
func (s *Streams) takeBatch(l *lane) []*Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeCount++
	var batch []*Ticket
	entries, bytes := 0, 0
	rest := l.queue[:0]
	for i, t := range l.queue {
		if len(batch) > 0 && (entries+len(t.entries) > s.opts.Batch || bytes+t.bytes > maxBatchBytes) {
			rest = append(rest, l.queue[i:]...)
			break
		}
		blocked := t.unsealed || slices.ContainsFunc(t.entries, func(e *Entry) bool {
			sh := e.Stream.shards[e.Shard]
			return sh.inCommit || sh.skippedInTake == s.takeCount
		})
		if blocked { // and so are later tickets for the same shards
			for _, e := range t.entries {
				e.Stream.shards[e.Shard].skippedInTake = s.takeCount
			}
			rest = append(rest, t)
			continue
		}
		batch = append(batch, t)
		entries += len(t.entries)
		bytes += t.bytes
	}
	clear(l.queue[len(rest):])
	l.queue = rest
	for _, t := range batch {
		for _, e := range t.entries {
			e.Stream.shards[e.Shard].inCommit = true
		}
	}
	if len(batch) > 0 {
		l.inFlight++
	}
	return batch
}

// freeEntries frees the entries when neither the writer nor the outcome needs them; the caller holds Streams.mu.
func (t *Ticket) freeEntries() {
	if t.written && t.decided {
		t.entries, t.basis = nil, nil
	}
}

// endCommit ends a commit that took the given time.
func (s *Streams) endCommit(l *lane, batch []*Ticket, took time.Duration) {
	s.mu.Lock()
	l.pace.add(took)
	for _, t := range batch {
		for _, e := range t.entries {
			e.Stream.shards[e.Shard].inCommit = false
		}
		t.written = true
		t.freeEntries()
	}
	l.inFlight--
	s.mu.Unlock()
	l.signal()
}

func (s *Streams) isIdle(l *lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(l.queue) == 0 && l.inFlight == 0
}

func (s *Streams) overlapDelay(l *lane) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return l.pace.overlapDelay()
}
