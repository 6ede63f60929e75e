package push

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"lyceum/matrix/event"
	"lyceum/rooms"
)

// Count is how many unread events notify, and how many of these highlight.
type Count struct{ Notify, Highlight int }

// Counts are the unread counts of a user in a room: of the main timeline, and of threads by the event ids of their roots. Threads in which
// nothing is unread are left out.
type Counts struct {
	Notify, Highlight int
	Threads           map[string]Count
}

const (
	mainThread  = "main"
	maxUnread   = 1000    // events of a room that are read, and that are counted at most
	unreadBytes = 2 << 20 // bytes of events that are held in memory at once
)

// userCount is the unread count of a user in a room. The lock evaluating is held while events are evaluated; the other fields are guarded
// by the lock of the room.
type userCount struct {
	evaluating  sync.Mutex
	used        bool
	evicted     bool // it was evicted, so its bytes do not count any more
	bytes       int64
	loaded      bool
	rules       *userRules
	evaluatedTo int64            // events up to here are evaluated
	read        map[string]int64 // positions up to which the user has read, by thread id; "" for unthreaded receipts
	unread      []unreadEvent
	name        string // the display name in lower case
	nameKnown   bool
	nameChanges int64 // how often the user's membership changed
}

// unreadEvent is an unread event that notifies.
type unreadEvent struct {
	pos       int64
	id        string
	thread    string
	highlight bool
}

// Unread returns the unread counts of a user in a room. It makes no statement when they were asked for lately.
func (p *Push) Unread(ctx context.Context, userID, roomID string) (Counts, error) {
	for _, t := range p.subscriptions {
		if err := t.Start(ctx); err != nil {
			return Counts{}, err
		}
	}
	rules, err := p.rulesOf(ctx, userID)
	if err != nil {
		return Counts{}, err
	}
	l, e := p.userCount(userID, roomID)
	u := unreadQuery{userID, roomID, l, e, rules}
	e.evaluating.Lock()
	defer e.evaluating.Unlock()
	fresh, ok := l.after(e, rules)
	for ; !ok; fresh, ok = l.after(e, rules) {
		if err := p.loadCount(ctx, u); err != nil {
			return Counts{}, err
		}
	}
	if err := p.advance(ctx, u, fresh); err != nil {
		return Counts{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.updateBytes(e)
	return e.count(), nil
}

// after returns the events of the log that a count does not have yet; not ok when the count must be loaded.
func (l *roomLog) after(e *userCount, rules *userRules) ([]*rooms.Event, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !e.loaded || e.rules != rules || e.evaluatedTo < l.completeAbove {
		return nil, false
	}
	i, _ := slices.BinarySearchFunc(l.events, e.evaluatedTo+1, func(ev *rooms.Event, pos int64) int { return cmp.Compare(ev.Pos, pos) })
	return slices.Clip(l.events[i:]), true // the events in the log are never changed
}

// userCount finds or makes the count of a user in a room.
func (p *Push) userCount(userID, roomID string) (*roomLog, *userCount) {
	c := &p.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.rooms[roomID]
	if l == nil {
		l = &roomLog{
			counts: c, users: map[string]*userCount{},
			completeAbove: p.events.Position(p.events.Shard(roomID)), facts: roomFacts{members: -1},
		}
		c.rooms[roomID] = l
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.users[userID]
	if e == nil {
		if c.total >= max(p.config.CountCache, 100) || c.bytes.Load() > c.maxBytes {
			c.evict(l)
		}
		e = &userCount{}
		l.users[userID] = e
		l.updateBytes(e)
		c.total++
	}
	e.used = true
	return l, e
}

// unreadQuery is a question for the unread count of a user in a room.
type unreadQuery struct {
	user, room string
	log        *roomLog
	count      *userCount
	rules      *userRules
}

// wasMember reports whether the user of a membership event was a member before it.
func wasMember(e *rooms.Event) bool {
	return e.PrevMembership() == event.MembershipJoin
}

// advance evaluates events in the order of their positions. The caller holds evaluating of the count.
func (p *Push) advance(ctx context.Context, u unreadQuery, events []*rooms.Event) error {
	if len(events) == 0 {
		return nil
	}
	l, e := u.log, u.count
	ignored, err := p.Accounts.Ignored(ctx, u.user)
	if err != nil {
		return err
	}
	facts, err := p.factsFor(ctx, u.user, l, e, events[len(events)-1])
	if err != nil {
		return err
	}
	var found evaluation
	for i, ev := range events {
		if i%16 == 15 && ctx.Err() != nil { // the request has ended
			return ctx.Err()
		}
		switch {
		case ev.Redacts != "":
			found.addRedacted(ev.Redacts)
		case ev.Sender == u.user:
			if err := p.addOwnEvent(ctx, &found, ev); err != nil {
				return err
			}
			continue
		case ev.RedactedBy != "" || ignored[ev.Sender]:
			continue
		}
		subject := Subject{event: ev.Event}
		res := Evaluate(u.rules.compiled, &subject, &facts)
		if !res.Notify {
			continue
		}
		thread, err := p.threadOf(ctx, ev)
		if err != nil {
			return err
		}
		found.unread = append(found.unread, unreadEvent{ev.Pos, ev.ID, thread, res.Highlight})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for thread, pos := range found.read {
		e.markRead(thread, pos)
	}
	e.unread = append(e.unread, found.unread...)
	defer l.updateBytes(e)
	e.evaluatedTo = max(e.evaluatedTo, events[len(events)-1].Pos)
	if len(found.redacted) > 0 {
		e.unread = slices.DeleteFunc(e.unread, func(it unreadEvent) bool { return found.redacted[it.id] })
	}
	return nil
}

// evaluation is what some events change of an unread count.
type evaluation struct {
	unread   []unreadEvent
	redacted map[string]bool  // ids of events that are redacted
	read     map[string]int64 // positions up to which the user has read, by thread
}

func (v *evaluation) addRedacted(id string) {
	if v.redacted == nil {
		v.redacted = map[string]bool{}
	}
	v.redacted[id] = true
}

func (v *evaluation) addRead(thread string, pos int64) {
	if v.read == nil {
		v.read = map[string]int64{}
	}
	v.read[thread] = max(v.read[thread], pos)
}

// addOwnEvent adds an event of the user. A message means that its thread is read, and a join that all older events are. Other state
// events, as a new display name, mean nothing.
func (p *Push) addOwnEvent(ctx context.Context, v *evaluation, e *rooms.Event) error {
	if !e.IsState() {
		thread, err := p.threadOf(ctx, e)
		if err == nil {
			v.addRead(thread, e.Pos)
		}
		return err
	}
	if e.Type == event.TypeMember && e.Membership() == event.MembershipJoin && !wasMember(e) {
		v.addRead("", e.Pos)
	}
	return nil
}

// markRead notes up to which position the user has read a thread; the caller holds the room's lock.
func (e *userCount) markRead(thread string, pos int64) {
	if e.read[thread] >= pos {
		return
	}
	if e.read == nil {
		e.read = map[string]int64{}
	}
	e.read[thread] = pos
}

// count drops the events that were read and counts the others; the caller holds the room's lock.
func (e *userCount) count() Counts {
	all := e.read[""]
	e.unread = slices.DeleteFunc(e.unread, func(it unreadEvent) bool { return it.pos <= all || it.pos <= e.read[it.thread] })
	if len(e.unread) > maxUnread {
		e.unread = slices.Clone(e.unread[len(e.unread)-maxUnread:])
	}
	var out Counts
	for _, it := range e.unread {
		highlight := 0
		if it.highlight {
			highlight = 1
		}
		if it.thread == mainThread {
			out.Notify++
			out.Highlight += highlight
			continue
		}
		if out.Threads == nil {
			out.Threads = map[string]Count{}
		}
		c := out.Threads[it.thread]
		out.Threads[it.thread] = Count{c.Notify + 1, c.Highlight + highlight}
	}
	return out
}

// threadOf returns the root of the thread that an event is in, or mainThread.
func (p *Push) threadOf(ctx context.Context, e *rooms.Event) (string, error) {
	root, _, err := p.Rooms.ThreadRoot(ctx, e)
	if err != nil {
		return "", err
	}
	return cmp.Or(root, mainThread), nil
}

// hasRead reports whether a user has read an event.
func (p *Push) hasRead(ctx context.Context, userID string, e *rooms.Event) (bool, error) {
	if _, err := p.Unread(ctx, userID, e.RoomID); err != nil { // after that the count has the receipts
		return false, err
	}
	thread, err := p.threadOf(ctx, e)
	if err != nil {
		return false, err
	}
	l, entry := p.userCount(userID, e.RoomID)
	l.mu.Lock()
	defer l.mu.Unlock()
	return e.Pos <= entry.read[""] || e.Pos <= entry.read[thread], nil
}
