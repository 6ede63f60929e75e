package push

import (
	"slices"
	"sync"
	"sync/atomic"

	"lyceum/matrix/event"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

const (
	logKept          = 400     // newest events of a room in memory
	logBytes         = 1 << 20 // bytes of these; the older half is dropped when there are more
	userCountBytes   = 300     // about the bytes of a userCount without unread events
	unreadEventBytes = 120     // about the bytes of an unreadEvent
	evictAtOnce      = 64      // rooms that one call of evict looks at
)

// counts are the unread counts that were asked for lately, by room. They are not an otter cache, as logs and counts grow in place and an
// evicted one is marked under its room's lock, so that a request that evaluates it charges nothing more to the budget.
type counts struct {
	mu       sync.Mutex
	rooms    map[string]*roomLog
	total    int          // userCounts in all rooms
	bytes    atomic.Int64 // of all rooms
	maxBytes int64        // the budget for bytes
}

// roomLog has the newest events of a room and the counts of its users. mu is held for short times only, as subscriptions take it.
type roomLog struct {
	counts        *counts
	mu            sync.Mutex
	events        []*rooms.Event // by position
	bytes         int64          // of events
	completeAbove int64          // all events above it are in events
	facts         roomFacts
	newest        roomState // the newest known state; not older than the events that the subscription brought
	users         map[string]*userCount
	evicted       bool // it was evicted, so its bytes do not count any more
}

// evict removes the counts of some rooms that were not used since evict looked at them before. The caller holds mu, and the lock of the
// room keep, which is left out and may be nil.
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

// shrink drops the events of logs when there are too many bytes, and evicts counts when that does not help. Events that were not evaluated
// yet are read from the database when somebody asks; most were.
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

// append adds an event to the log; the caller holds mu, as for the functions below.
func (l *roomLog) append(e *rooms.Event) {
	if l.evicted {
		return
	}
	l.events = append(l.events, e)
	n := e.Memory()
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
		n += e.Memory()
	}
	l.bytes -= n
	l.counts.bytes.Add(-n)
	l.completeAbove = l.events[drop-1].Pos
	l.events = slices.Clone(l.events[drop:])
}

// updateBytes sets the bytes of a count to what it takes now.
func (l *roomLog) updateBytes(e *userCount) {
	l.setBytes(e, userCountBytes+unreadEventBytes*int64(cap(e.unread)))
}

func (l *roomLog) setBytes(e *userCount, bytes int64) {
	if !e.evicted {
		l.counts.bytes.Add(bytes - e.bytes)
		e.bytes = bytes
	}
}

// eventsCame is called with the rows of the stream events.
func (p *Push) eventsCame(rows []stream.Row) {
	for i := range rows {
		row := &rows[i]
		p.counts.mu.Lock()
		l := p.counts.rooms[row.Key]
		p.counts.mu.Unlock()
		if l == nil && !p.sends {
			continue
		}
		e, err := p.Rooms.FromRowCached(row)
		if err != nil {
			continue // package rooms logs it
		}
		if l != nil {
			l.add(e)
		}
		p.sender.eventCame(e)
	}
	p.counts.shrink()
}

// add adds an event to the log of its room, and drops the facts that it changes.
func (l *roomLog) add(e *rooms.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Pos <= l.completeAbove || len(l.events) > 0 && l.events[len(l.events)-1].Pos >= e.Pos {
		return
	}
	l.append(e)
	l.newest.advanceTo(roomState{e.Pos, e.Root, e.Version()})
	if !e.IsState() {
		return
	}
	switch e.Type {
	case event.TypeMember:
		l.memberChanged(e)
	case event.TypePowerLevels, event.TypeCreate:
		l.facts.generation++
		l.facts.power = nil
	}
}

func (l *roomLog) memberChanged(e *rooms.Event) {
	if u := l.users[*e.StateKey]; u != nil {
		u.nameChanges++
		u.nameKnown = false
	}
	was, is := e.PrevMembership() == event.MembershipJoin, e.Membership() == event.MembershipJoin
	if was == is {
		return
	}
	l.facts.generation++
	switch {
	case l.facts.members < manyMembers:
		l.facts.members = -1
	case is:
		l.facts.members++
	default:
		l.facts.members--
	}
	if u := l.users[*e.StateKey]; u != nil { // events before the join do not count
		u.loaded = false
	}
}

// manyMembers: in a room with so many members, each change is counted; in a smaller one the members are read again.
const manyMembers = 100

// receiptsCame is called with the rows of the stream receipts.
func (p *Push) receiptsCame(rows []stream.Row) {
	for _, row := range rows {
		p.counts.mu.Lock()
		l := p.counts.rooms[row.Key]
		p.counts.mu.Unlock()
		if l == nil {
			continue
		}
		_, userID, thread, pos, ok := p.Receipts.ReadRow(row)
		if !ok {
			continue
		}
		l.mu.Lock()
		cleared := false
		if e := l.users[userID]; e != nil {
			e.markRead(thread, pos)
			if len(e.unread) > 0 {
				e.count()
				cleared = len(e.unread) == 0
			}
		}
		l.mu.Unlock()
		if cleared {
			p.roomRead(userID, row.Key)
		}
	}
}
