package push

import "hash/maphash"

// A gateway that many share may be slow for one user only, who made it so. So its last verdicts are counted by user, with one for each,
// and those of pushers that are in doubt themselves do not count: users who are slow on purpose are few among those who are not.

const (
	maxVerdicts      = 32      // users whose last verdict counts for a gateway
	minSlowUsers     = 4       // users for whom it is slow, below which one for whom it is prompt is enough
	maxPromptPushers = 100_000 // pushers remembered whose last send was prompt
)

// tally is what a gateway did for the users who were sent to last, in the order in which they came.
type gatewayVerdicts struct {
	prompt bool // it took a send promptly, and was not in doubt since
	last   []verdict
	oldest int // the oldest, when there are tallyMost
}

type verdict struct {
	user uint64
	slow bool
}

// count notes what the gateway did for a user.
func (t *gatewayVerdicts) record(v verdict) {
	for i := range t.last {
		if t.last[i].user == v.user {
			t.last[i].slow = v.slow
			return
		}
	}
	if len(t.last) < maxVerdicts {
		t.last = append(t.last, v)
		return
	}
	t.last[t.oldest] = v
	t.oldest = (t.oldest + 1) % maxVerdicts
}

// isSlow tells that it is slow in general. What is not known is.
func (t *gatewayVerdicts) isSlow() bool {
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
	return slow > prompt && (slow >= minSlowUsers || prompt == 0)
}

// isWell tells that a gateway took a send promptly, and was not in doubt since; the caller holds mu.
func (s *sendSlots) isPrompt(gateway string) bool {
	t := s.gateways[gateway]
	return t != nil && t.prompt
}

func (s *sendSlots) hash(name string) uint64 { return maphash.String(s.seed, name) }

// wasPrompt tells that the last send of a pusher was prompt, as far as it is remembered; the caller holds mu.
func (s *sendSlots) isPromptPusher(p *slot) bool { return s.promptPushers[s.hash(p.pusher)] }

// setPrompt notes that a send of a pusher was prompt; the caller holds mu.
func (s *sendSlots) setPromptPusher(p *slot) {
	if h := s.hash(p.pusher); !s.promptPushers[h] {
		evictOne(s.promptPushers, maxPromptPushers)
		s.promptPushers[h] = true
	}
}

// makeRoom drops any one when there are as many as may be.
func evictOne[K comparable, V any](m map[K]V, most int) {
	if len(m) < most {
		return
	}
	for k := range m {
		delete(m, k)
		return
	}
}
