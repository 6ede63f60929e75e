package stream

import "time"

const (
	slowCommit    = 2 * time.Millisecond  // what a commit takes that waits for a network or a disk
	stalledCommit = 20 * time.Millisecond // a commit that takes so long waits for a network or a disk, whatever others took
	pacePeriod    = 50                    // commits
)

// pace decides when a second commit of a lane may run beside the first. When commits wait for a network or a disk,
// they overlap usefully. When they wait for a processor, a second commit only slows the first one down; then the
// fastest commits of a period are fast.
type pace struct {
	fastest, previous time.Duration // of this period and of the one before; 0: none yet
	count             int
}

func (p *pace) add(took time.Duration) {
	if p.count == pacePeriod {
		p.fastest, p.previous, p.count = 0, p.fastest, 0
	}
	if p.count++; p.fastest == 0 || took < p.fastest {
		p.fastest = took
	}
}

// overlapDelay is how long to wait for a commit before another may start beside it.
func (p *pace) overlapDelay() time.Duration {
	fastest := p.fastest
	if p.previous != 0 {
		fastest = min(fastest, p.previous)
	}
	if p.fastest == 0 {
		fastest = p.previous
	}
	if fastest < slowCommit {
		return stalledCommit
	}
	return slowCommit
}
