package push

import (
	"slices"
	"sync"
	"sync/atomic"

	"lyceum/rooms"
)

const (
	logKept          = 400     // newest events of a room in memory
	logBytes         = 1 << 20 // of them; half as much is kept when there is more
	entryBytes       = 300     // of an entry without items
	unreadEventBytes = 120     // of an item
	evictAtOnce      = 64      // rooms that are looked at when there is too much
)

// counts are the rooms that somebody asked for lately.
type counts struct {
	mu       sync.Mutex
	rooms    map[string]*roomLog
	total    int          // entries in all rooms
	bytes    atomic.Int64 // of all rooms
	maxBytes int64        // of bytes
}

// roomLog holds the newest events of a room and the users who asked for counts. mu is held for moments only,
// as the tails take it.
type roomLog struct {
	counts        *counts
	mu            sync.Mutex
	events        []*rooms.Event // by position
	bytes         int64          // of events
	completeAbove int64          // all events above it are in events
	facts         roomFacts
	newest        roomState // of the room, as far as it is known: not older than what was heard of it
	users         map[string]*userCount
	evicted       bool // it was evicted, and is counted no more
}

// evict drops entries of some rooms that were not used since it last looked at them; the caller holds mu and the lock of the room
// keep, which may be nil.
func (c *counts) evict(keep *roomLog) {
	looked := 0
	for id, l := range c.rooms {
		if l == keep {
			continue
		}
		if looked++; looked > evictAtOnce {
			return
		}
		l.mu.Lock()
		for user, e := range l.users {
			if e.used {
				e.used = false
				continue
			}
			delete(l.users, user)
			l.setBytes(e, 0)
			e.evicted = true
			c.total--
		}
		if len(l.users) == 0 {
			l.trim(0)
			delete(c.rooms, id)
			l.evicted = true
		}
		l.mu.Unlock()
	}
}

// shrink drops logs when there are too many bytes, and entries when that does not help. What was not evaluated of a log is read from
// the database when somebody asks; mostly it was.
func (c *counts) shrink() {
	if c.bytes.Load() <= c.maxBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.rooms {
		l.mu.Lock()
		l.trim(0)
		l.mu.Unlock()
		if c.bytes.Load() <= c.maxBytes/4*3 {
			return
		}
	}
	c.evict(nil)
}

func eventBytes(e *rooms.Event) int64 { return int64(700 + 2*len(e.JSON) + len(e.PrevContent)) }

// append adds an event to the log; the caller holds mu, as of all below.
func (l *roomLog) append(e *rooms.Event) {
	if l.evicted {
		return
	}
	l.events = append(l.events, e)
	n := eventBytes(e)
	l.bytes += n
	l.counts.bytes.Add(n)
	switch {
	case l.bytes > logBytes:
		l.trim(len(l.events) / 2)
	case len(l.events) > 2*logKept:
		l.trim(logKept)
	}
}

// trim keeps the newest events only.
func (l *roomLog) trim(keep int) {
	drop := len(l.events) - keep
	if drop <= 0 {
		return
	}
	var n int64
	for _, e := range l.events[:drop] {
		n += eventBytes(e)
	}
	l.bytes -= n
	l.counts.bytes.Add(-n)
	l.completeAbove = l.events[drop-1].Pos
	l.events = slices.Clone(l.events[drop:])
}

// weigh counts what an entry takes.
func (l *roomLog) updateBytes(e *userCount) {
	l.setBytes(e, entryBytes+unreadEventBytes*int64(cap(e.unread)))
}

func (l *roomLog) setBytes(e *userCount, bytes int64) {
	if !e.evicted {
		l.counts.bytes.Add(bytes - e.bytes)
		e.bytes = bytes
	}
}
