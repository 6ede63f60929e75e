package push

import (
	"context"
	"strings"

	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// Facts are what the conditions of rules need of a room and a user besides the event.
type Facts struct {
	DisplayName string // of the user in the room, in lower case
	Members     int    // joined members of the room
	Power       *auth.Power
}

type roomFacts struct {
	generation int64 // how often something changed; what was read before a change may be stale
	members    int   // -1 when not known
	power      *auth.Power
}

// roomState is the state of a room after the event at a position. The zero value means that it is not known.
type roomState struct {
	pos     int64
	root    state.ID
	version event.Version
}

// advanceTo replaces the state by a newer one.
func (s *roomState) advanceTo(other roomState) {
	if other.pos > s.pos {
		*s = other
	}
}

// newestState returns a state of the room that is not older than an event, nor than what the log had when the caller looked. Facts of an
// older state would stay wrong: the subscription has brought the changes after it already, or never will, as they are not above
// completeAbove.
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

// factsFor returns what the rules of a user need of the room as it is now, from memory or from its newest state. at is an event of the
// room.
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

// roomFacts returns the facts of a room that are the same for all users.
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
