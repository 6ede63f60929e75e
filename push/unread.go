package push

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/platform/stream"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// Count is how many unread events notify, and how many of those highlight.
type Count struct{ Notify, Highlight int }

// Counts are the unread counts of a user in a room: of the main timeline, and of threads by the event ids
// of their roots. Threads without a count are left out.
type Counts struct {
	Notify, Highlight int
	Threads           map[string]Count
}

const (
	mainThread  = "main"
	maxUnread   = 1000    // events of a room that are looked at, and most that are counted
	unreadBytes = 2 << 20 // of those that are held at once
)

type roomFacts struct {
	generation int64 // how often something changed: what was read before may be stale
	members    int   // -1 when not known
	power      *auth.Power
}

// stand is a state of a room, and the position of the event with which it began; the zero one is not known.
type roomState struct {
	pos     int64
	root    state.ID
	version event.Version
}

// entry is what is known of a user in a room. work is held while events are evaluated; the other fields are
// under the lock of the room.
type userCount struct {
	evaluating  sync.Mutex
	used        bool
	evicted     bool // it was evicted, and is counted no more
	bytes       int64
	loaded      bool
	rules       *userRules
	evaluatedTo int64            // events up to here are evaluated
	read        map[string]int64 // by thread id, "" unthreaded: positions up to which the user has read
	unread      []unreadEvent
	name        string // the display name in lower case
	nameKnown   bool
	nameChanges int64 // how often the user's membership changed
}

// item is an unread event that notifies.
type unreadEvent struct {
	pos       int64
	id        string
	thread    string
	highlight bool
}

// Unread counts what a user has not read in a room. For a user and a room that were asked for lately it
// makes no database statement.
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

// after gives the events that an entry has not seen; not ok when it must be loaded.
func (l *roomLog) after(e *userCount, rules *userRules) ([]*rooms.Event, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !e.loaded || e.rules != rules || e.evaluatedTo < l.completeAbove {
		return nil, false
	}
	i, _ := slices.BinarySearchFunc(l.events, e.evaluatedTo+1, func(ev *rooms.Event, pos int64) int { return cmp.Compare(ev.Pos, pos) })
	return slices.Clip(l.events[i:]), true // what stands there is never changed
}

// entry finds or makes the entry of a user in a room.
func (p *Push) userCount(userID, roomID string) (*roomLog, *userCount) {
	c := &p.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.rooms[roomID]
	if l == nil {
		l = &roomLog{counts: c, completeAbove: p.events.Position(p.events.Shard(roomID)), users: map[string]*userCount{}, facts: roomFacts{members: -1}}
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

// reader is a user in a room, with the rules that count.
type unreadQuery struct {
	user, room string
	log        *roomLog
	entry      *userCount
	rules      *userRules
}

// wasMember tells of a membership event that the user was a member before it.
func wasMember(e *rooms.Event) bool {
	before, _ := matrix.LookupString(e.PrevContent, "membership")
	return before == event.MembershipJoin
}

// advance evaluates events in the order of their positions. The caller holds work of the entry.
func (p *Push) advance(ctx context.Context, u unreadQuery, events []*rooms.Event) error {
	if len(events) == 0 {
		return nil
	}
	l, e := u.log, u.entry
	ignored, err := p.Accounts.Ignored(ctx, u.user)
	if err != nil {
		return err
	}
	facts, err := p.factsFor(ctx, u.user, l, e, events[len(events)-1])
	if err != nil {
		return err
	}
	var add []unreadEvent
	var gone map[string]bool
	var own map[string]int64
	for i, ev := range events {
		if i%16 == 15 && ctx.Err() != nil { // who asked is gone
			return ctx.Err()
		}
		switch {
		case ev.Redacts != "":
			if gone == nil {
				gone = map[string]bool{}
			}
			gone[ev.Redacts] = true
		case ev.Sender == u.user:
			if ev.IsState() { // a new name or avatar says nothing, and what was said while the user was away does not count
				if ev.Type == event.TypeMember && ev.Membership() == event.MembershipJoin && !wasMember(ev) {
					if own == nil {
						own = map[string]int64{}
					}
					own[""] = ev.Pos
				}
			} else { // who writes has read
				thread, err := p.threadOf(ctx, ev)
				if err != nil {
					return err
				}
				if own == nil {
					own = map[string]int64{}
				}
				own[thread] = max(own[thread], ev.Pos)
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
		add = append(add, unreadEvent{ev.Pos, ev.ID, thread, res.Highlight})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for thread, pos := range own {
		e.markRead(thread, pos)
	}
	e.unread = append(e.unread, add...)
	defer l.updateBytes(e)
	e.evaluatedTo = max(e.evaluatedTo, events[len(events)-1].Pos)
	if len(gone) > 0 {
		e.unread = slices.DeleteFunc(e.unread, func(it unreadEvent) bool { return gone[it.id] })
	}
	return nil
}

// markRead notes how far the user has read a thread; the caller holds the room's lock.
func (e *userCount) markRead(thread string, pos int64) {
	if e.read[thread] >= pos {
		return
	}
	if e.read == nil {
		e.read = map[string]int64{}
	}
	e.read[thread] = pos
}

// count drops what was read and counts the rest; the caller holds the room's lock.
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

// threadOf gives the root of the thread that an event is in, or mainThread.
func (p *Push) threadOf(ctx context.Context, e *rooms.Event) (string, error) {
	root, _, err := p.Rooms.ThreadRoot(ctx, e)
	if err != nil {
		return "", err
	}
	return cmp.Or(root, mainThread), nil
}

// newestStand gives a state of the room that is not older than what the caller saw of the log before, nor than an event: what was kept
// of an older one would count for good, as the changes behind it were heard already, or are not above the floor and never are.
func (p *Push) newestState(ctx context.Context, l *roomLog, at *rooms.Event) (roomState, error) {
	l.mu.Lock()
	if l.newest.pos > 0 || at.Pos >= l.completeAbove {
		l.newest.advanceTo(roomState{at.Pos, at.Root, at.Version()})
		defer l.mu.Unlock()
		return l.newest, nil
	}
	l.mu.Unlock()
	h, ok, err := p.Rooms.Head(ctx, at.RoomID)
	if err != nil {
		return roomState{}, err
	}
	found := roomState{at.Pos, at.Root, at.Version()}
	if ok {
		found.advanceTo(roomState{h.Pos, h.Root, h.Version})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest.advanceTo(found)
	return l.newest, nil
}

func (s *roomState) advanceTo(other roomState) {
	if other.pos > s.pos {
		*s = other
	}
}

// factsFor gives what the rules of a user ask of the room, as it is now: from memory, or from its newest state. at is an event of it.
func (p *Push) factsFor(ctx context.Context, userID string, l *roomLog, e *userCount, at *rooms.Event) (Facts, error) {
	room, err := p.roomFacts(ctx, l, at)
	if err != nil {
		return Facts{}, err
	}
	l.mu.Lock()
	name, named, renamed := e.name, e.nameKnown, e.nameChanges
	l.mu.Unlock()
	if !named {
		now, err := p.newestState(ctx, l, at)
		if err != nil {
			return Facts{}, err
		}
		key := state.Key{Type: event.TypeMember, StateKey: userID}
		found, err := p.Rooms.StateEvents(ctx, now.root, key)
		if err != nil {
			return Facts{}, err
		}
		name = ""
		if m := found[key]; m != nil {
			name, _ = m.ContentString("displayname")
			name = strings.ToLower(name)
		}
		l.mu.Lock()
		if e.nameChanges == renamed {
			e.name, e.nameKnown = name, true
		}
		l.mu.Unlock()
	}
	return Facts{DisplayName: name, Members: room.members, Power: room.power}, nil
}

func (p *Push) roomFacts(ctx context.Context, l *roomLog, at *rooms.Event) (roomFacts, error) {
	l.mu.Lock()
	f := l.facts
	l.mu.Unlock()
	if f.members >= 0 && f.power != nil {
		return f, nil
	}
	if f.members < 0 {
		list, err := p.Rooms.Members(ctx, at.RoomID, event.MembershipJoin)
		if err != nil {
			return f, err
		}
		f.members = len(list)
	}
	if f.power == nil {
		now, err := p.newestState(ctx, l, at)
		if err != nil {
			return f, err
		}
		power, err := p.Rooms.PowerAt(ctx, now.version, now.root)
		if err != nil {
			return f, err
		}
		f.power = power
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.facts.generation == f.generation {
		l.facts = f
	}
	return f, nil
}

// manyMembers is from where on a member more or less is counted, not read anew.
const manyMembers = 100

// eventsCame is a tail of the events stream.
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
			continue // package rooms reports it
		}
		if l != nil {
			l.add(e)
		}
		p.sender.eventCame(e)
	}
	p.counts.shrink()
}

// take adds an event to the log of its room.
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
	before, _ := matrix.LookupString(e.PrevContent, "membership")
	was, is := before == event.MembershipJoin, e.Membership() == event.MembershipJoin
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
	if u := l.users[*e.StateKey]; u != nil { // what came before the join does not count
		u.loaded = false
	}
}

// receiptsCame is a tail of the receipts stream.
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
			p.readAll(userID, row.Key)
		}
	}
}
