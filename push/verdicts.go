package push

import (
	"hash/maphash"
)

// A gateway that many users share may be slow for one user only, who made it so. So its last verdicts are counted by user, with one for
// each. Verdicts of pushers that are suspect themselves do not count. Users who are slow on purpose are few among the others.

const (
	maxVerdicts      = 32      // users of a gateway whose last verdict is kept
	minSlowUsers     = 4       // with fewer users for whom it is slow, one user for whom it is prompt is enough
	maxPromptPushers = 100_000 // pushers that are remembered as prompt
)

// gatewayVerdicts are how prompt a gateway was for the users who were sent to last, in the order in which the users came.
type gatewayVerdicts struct {
	prompt bool // it answered promptly, and was not suspect since
	last   []verdict
	oldest int // index of the oldest verdict, when there are maxVerdicts
}

type verdict struct {
	user uint64
	slow bool
}

// record notes a verdict.
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

// isSlow reports whether the gateway is slow for most users. A gateway without verdicts is.
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

// isPrompt reports whether a gateway answered promptly, and was not suspect since; the caller holds mu.
func (s *sendSlots) isPrompt(gateway string) bool {
	t := s.gateways[gateway]
	return t != nil && t.prompt
}

func (s *sendSlots) hash(name string) uint64 { return maphash.String(s.seed, name) }

// isPromptPusher reports whether the last send of a pusher is remembered as prompt; the caller holds mu.
func (s *sendSlots) isPromptPusher(p *slot) bool { return s.promptPushers[s.hash(p.pusher)] }

// setPromptPusher notes that a send of a pusher was prompt; the caller holds mu.
func (s *sendSlots) setPromptPusher(p *slot) {
	if h := s.hash(p.pusher); !s.promptPushers[h] {
		evictOne(s.promptPushers, maxPromptPushers)
		s.promptPushers[h] = true
	}
}

// evictOne deletes any one key when there are as many as there may be.
func evictOne[K comparable, V any](m map[K]V, most int) {
	if len(m) < most {
		return
	}
	for k := range m {
		delete(m, k)
		return
	}
}
