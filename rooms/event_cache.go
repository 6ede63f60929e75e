package rooms

import (
	"context"

	"github.com/maypok86/otter/v2"

	"lyceum/platform/stream"
)

// cachedEvent is how many bytes an event in memory has, about. Those of other sizes count for more or for less.
const cachedEvent = 2048

// text is how many bytes of text an event has, and a client gets of it, about.
func (e *Event) text() int { return len(e.JSON) + len(e.PrevContent) }

// size is how many bytes an event takes in memory when it was read, about.
func (e *Event) size() int { return cachedEvent/2 + e.text() }

// Memory is about how many bytes an event takes in memory with its text for clients.
func (e *Event) Memory() int64 { return int64(2*len(e.JSON)+len(e.PrevContent)) + 700 }

// weight is how many bytes an event counts in the cache. A large event counts its text twice, as the text for clients (ClientJSON) may
// be made later; for a small one the estimate of size covers that text.
func (e *Event) weight() uint32 {
	return uint32(e.size() + max(0, e.text()-cachedEvent/2)) //nolint:gosec // events have at most 64 KiB
}

// newCache makes the cache for about so many events.
func (r *Rooms) newCache(events int) (*otter.Cache[string, *Event], error) {
	return otter.New(&otter.Options[string, *Event]{
		MaximumWeight: uint64(max(events, 1000)) * cachedEvent, Weigher: func(_ string, e *Event) uint32 { return e.weight() },
		OnAtomicDeletion: func(d otter.DeletionEvent[string, *Event]) {
			if d.Cause != otter.CauseReplacement {
				r.dropReplacer(d.Value)
			}
		},
	})
}

// cacheEvents caches events that were read, unless a redaction came since the read began: they may be the
// text before it.
func (r *Rooms) cacheEvents(events []*Event, before int64) {
	r.cacheMu.Lock()
	defer r.cacheMu.Unlock()
	if r.redactions.Load() != before {
		return
	}
	for _, e := range events {
		if e.Replaces == "" {
			r.cache.Set(e.ID, e)
			continue
		}
		// Under the lock of the entry, as dropReplacer: the same event, cached by another reader, may be evicted now.
		r.cache.Compute(e.ID, func(*Event, bool) (*Event, otter.ComputeOp) {
			r.replacersMu.Lock()
			defer r.replacersMu.Unlock()
			r.replacers[e.Replaces] = e.ID
			return e, otter.WriteOp
		})
	}
}

// dropRedacted keeps the cache of events right: a redaction changes an event that was cached. The events themselves are not
// read.
func (r *Rooms) dropRedacted(rows []stream.Row) {
	for _, row := range rows {
		g, ok := RowHeaderOf(row)
		if !ok {
			r.Process.Log.Error("a row of the events stream could not be read", "shard", row.Shard, "position", row.Pos)
			continue
		}
		if len(g.Redacts) > 0 {
			r.cacheMu.Lock()
			r.redactions.Add(1)
			r.cache.Invalidate(string(g.Redacts))
			if id := r.replacer(string(g.Redacts)); id != "" {
				r.cache.Invalidate(id)
			}
			r.cacheMu.Unlock()
		}
	}
}

// replacer is the cached event that replaced another; "" when there is none.
func (r *Rooms) replacer(id string) string {
	r.replacersMu.Lock()
	defer r.replacersMu.Unlock()
	return r.replacers[id]
}

// dropReplacer ends what is known of an event that is cached no more.
func (r *Rooms) dropReplacer(e *Event) {
	if e.Replaces == "" {
		return
	}
	r.replacersMu.Lock()
	defer r.replacersMu.Unlock()
	delete(r.replacers, e.Replaces)
}

// FollowRedactions makes this process hear of redactions, if it does not: only then may it keep what it reads of events.
func (r *Rooms) FollowRedactions(ctx context.Context) error { return r.redactionFeed.Start(ctx) }

// RedactionCount counts the redactions that this process has seen: what was read from a state before one may
// have changed, though the root is the same.
func (r *Rooms) RedactionCount() int64 { return r.redactions.Load() }
