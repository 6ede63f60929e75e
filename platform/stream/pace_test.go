package stream

import (
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	var p pace
	if got := p.patience(); got != stalled {
		t.Errorf("before the first commit: %v", got)
	}
	add := func(n int, took time.Duration) {
		for range n {
			p.add(took)
		}
	}
	add(1, 5*time.Millisecond)
	if got := p.patience(); got != slowCommit {
		t.Errorf("a far database: %v", got)
	}
	add(1, time.Millisecond)
	if got := p.patience(); got != stalled {
		t.Errorf("a near database: %v", got)
	}
	add(paceOver-2, 9*time.Millisecond)
	add(1, 9*time.Millisecond)
	if got := p.patience(); got != stalled {
		t.Errorf("a near database that is busy: %v", got)
	}
	add(paceOver, 9*time.Millisecond)
	if got := p.patience(); got != slowCommit {
		t.Errorf("a database that moved away: %v", got)
	}
}
