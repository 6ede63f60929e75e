package dbfault

import (
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Fault is what becomes of a group commit.
type Fault int

// The faults. After those that cut, the client does not know what became of its transaction.
const (
	Pass      Fault = iota // it goes on
	Before                 // the connection breaks, the commit does not arrive: nothing is stored
	After                  // the commit is done, the answer is lost
	Late                   // the connection breaks at once, the commit arrives later; a pipelined batch is late in whole, by LateBatch
	LateEnd                // like Late, but of a pipelined batch only the end is late, by LateAfter: it holds its locks meanwhile
	Refuse                 // the server answers with an error that is for good: no room on the disk
	Again                  // the server answers that the transaction must be run again
	Slow                   // it goes on after SlowBy
	numFaults              // how many there are
)

var names = [...]string{"pass", "before", "after", "late", "late-end", "refuse", "again", "slow"}

func (f Fault) String() string { return names[f] }

// Faults are all of them.
func Faults() []Fault {
	out := make([]Fault, numFaults)
	for i := range out {
		out[i] = Fault(i)
	}
	return out
}

// How late a commit arrives, and how slow a slow one is.
const (
	LateAfter = 150 * time.Millisecond
	LateBatch = 400 * time.Millisecond // without locks: others go on meanwhile
	SlowBy    = 30 * time.Millisecond
)

// fence is the statement that moves the positions of leases.
var fence = regexp.MustCompile(`(?is)\bupdate\s+leases\b.*?\bset\s+pos\b`)

// Held is a group commit that waits for its fate.
type Held struct {
	gate   *Gate
	decide chan Fault
}

// Decide lets the commit end so. Only the first call counts.
func (h *Held) Decide(f Fault) {
	if h.gate.drop(h) {
		h.decide <- f
	}
}

// Gate holds the group commits of one process while it is shut, and by Also others.
type Gate struct {
	active  atomic.Int64 // statements that the engine works on
	counter atomic.Int64 // of what went through

	mu   sync.Mutex
	also *regexp.Regexp
	shut bool
	over bool // nothing is stored any more
	held []*Held
}

// Shut makes group commits wait from now on.
func (g *Gate) Shut() {
	g.mu.Lock()
	g.shut = true
	g.mu.Unlock()
}

// Also makes the gate hold, besides group commits, those of transactions with a statement that matches.
func (g *Gate) Also(pattern *regexp.Regexp) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.also = pattern
}

// guards tells that the commit of a transaction with the statement is held.
func (g *Gate) guards(query string) bool {
	if fence.MatchString(query) {
		return true
	}
	g.mu.Lock()
	also := g.also
	g.mu.Unlock()
	return also != nil && also.MatchString(query)
}

// Open lets what waits, and all that comes, pass.
func (g *Gate) Open() {
	g.mu.Lock()
	g.shut = false
	held := slices.Clone(g.held)
	g.mu.Unlock()
	for _, h := range held {
		h.Decide(Pass)
	}
}

// End breaks what waits, and all that comes: the process is dead.
func (g *Gate) End() {
	g.mu.Lock()
	g.shut, g.over = true, true
	held := slices.Clone(g.held)
	g.mu.Unlock()
	for _, h := range held {
		h.Decide(Before)
	}
}

// Held are the commits that wait, the oldest first.
func (g *Gate) Held() []*Held {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.held)
}

// Traffic tells how many statements the engine works on now, and how much went through so far.
func (g *Gate) Traffic() (active, counter int64) { return g.active.Load(), g.counter.Load() }

// hold makes a commit wait; nil when it need not.
func (g *Gate) hold() *Held {
	g.counter.Add(1)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shut {
		return nil
	}
	h := &Held{gate: g, decide: make(chan Fault, 1)}
	if g.over {
		h.decide <- Before
		return h
	}
	g.held = append(g.held, h)
	return h
}

// drop takes a commit out, and tells whether it was waiting.
func (g *Gate) drop(h *Held) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.held, h)
	if i < 0 {
		return false
	}
	g.held = slices.Delete(g.held, i, i+1)
	return true
}
