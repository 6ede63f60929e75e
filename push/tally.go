package push

import "hash/maphash"

// A gateway that many share may be slow for one user only, who made it so. So its last verdicts are counted by user, with one for each,
// and those of pushers that are in doubt themselves do not count: users who are slow on purpose are few among those who are not.

const (
	tallyMost  = 32      // users whose last verdict counts for a gateway
	slowFew    = 4       // users for whom it is slow, below which one for whom it is prompt is enough
	promptMost = 100_000 // pushers remembered whose last send was prompt
)

// tally is what a gateway did for the users who were sent to last, in the order in which they came.
type tally struct {
	well bool // it took a send promptly, and was not in doubt since
	last []verdict
	next int // the oldest, when there are tallyMost
}

type verdict struct {
	user uint64
	slow bool
}

// count notes what the gateway did for a user.
func (t *tally) count(v verdict) {
	for i := range t.last {
		if t.last[i].user == v.user {
			t.last[i].slow = v.slow
			return
		}
	}
	if len(t.last) < tallyMost {
		t.last = append(t.last, v)
		return
	}
	t.last[t.next] = v
	t.next = (t.next + 1) % tallyMost
}

// isSlow tells that it is slow in general. What is not known is.
func (t *tally) isSlow() bool {
	if t == nil {
		return true
	}
	slow := 0
	for _, v := range t.last {
		if v.slow {
			slow++
		}
	}
	prompt := len(t.last) - slow
	return slow > prompt && (slow >= slowFew || prompt == 0)
}

// isWell tells that a gateway took a send promptly, and was not in doubt since; the caller holds mu.
func (s *places) isWell(gateway string) bool {
	t := s.known[gateway]
	return t != nil && t.well
}

func (s *places) hash(name string) uint64 { return maphash.String(s.seed, name) }

// wasPrompt tells that the last send of a pusher was prompt, as far as it is remembered; the caller holds mu.
func (s *places) wasPrompt(p *place) bool { return s.prompted[s.hash(p.pusher)] }

// setPrompt notes that a send of a pusher was prompt; the caller holds mu.
func (s *places) setPrompt(p *place) {
	if h := s.hash(p.pusher); !s.prompted[h] {
		makeRoom(s.prompted, promptMost)
		s.prompted[h] = true
	}
}

// makeRoom drops any one when there are as many as may be.
func makeRoom[K comparable, V any](m map[K]V, most int) {
	if len(m) < most {
		return
	}
	for k := range m {
		delete(m, k)
		return
	}
}
