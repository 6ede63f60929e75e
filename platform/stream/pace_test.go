package stream

import (
	"testing"
	"time"
)

func TestOverlapDelay(t *testing.T) {
	var p pace
	if got := p.overlapDelay(); got != stalledCommit {
		t.Errorf("before the first commit: %v", got)
	}
	add := func(n int, took time.Duration) {
		for range n {
			p.add(took)
		}
	}
	add(1, 5*time.Millisecond)
	if got := p.overlapDelay(); got != slowCommit {
		t.Errorf("a far database: %v", got)
	}
	add(1, time.Millisecond)
	if got := p.overlapDelay(); got != stalledCommit {
		t.Errorf("a near database: %v", got)
	}
	add(pacePeriod-2, 9*time.Millisecond)
	add(1, 9*time.Millisecond)
	if got := p.overlapDelay(); got != stalledCommit {
		t.Errorf("a near database that is busy: %v", got)
	}
	add(pacePeriod, 9*time.Millisecond)
	if got := p.overlapDelay(); got != slowCommit {
		t.Errorf("a database that moved away: %v", got)
	}
}
