package auth

import (
	"lyceum/matrix"
	"lyceum/matrix/event"
)

// Key names one entry of a room state.
type Key struct{ Type, StateKey string }

// KeyOf gives the key of a state event; e must be one.
func KeyOf(e *event.Event) Key { return Key{e.Type, *e.StateKey} }

// State is the part of a room state the rules look at.
type State interface {
	// Get gives the state event under that key, nil when there is none.
	Get(typ, stateKey string) *event.Event
}

// PoweredState is a State that keeps the parsed power levels, so that a busy
// room parses them once per change. Power must fit the m.room.create and
// m.room.power_levels events of the same state.
type PoweredState interface {
	State
	Power() *Power
}

// Map is a State in a map.
type Map map[Key]*event.Event

// Get gives the state event under that key, nil when there is none.
func (m Map) Get(typ, stateKey string) *event.Event { return m[Key{typ, stateKey}] }

// AuthTypes lists the keys of the state events that an event made of p must
// name in auth_events, where the room has them (server-server API, "Auth
// events selection"). Content that is no JSON names no one.
func AuthTypes(v event.Version, p *event.Proto) []Key {
	if p.Type == event.TypeCreate {
		return nil
	}
	keys := make([]Key, 0, 7)
	if v.CreateInAuthEvents {
		keys = append(keys, Key{event.TypeCreate, ""})
	}
	keys = append(keys, Key{event.TypePowerLevels, ""}, Key{event.TypeMember, p.Sender})
	if p.Type != event.TypeMember || p.StateKey == nil {
		return keys
	}
	member := func(user string) {
		for _, k := range keys {
			if k.Type == event.TypeMember && k.StateKey == user {
				return
			}
		}
		keys = append(keys, Key{event.TypeMember, user})
	}
	member(*p.StateKey)
	content, err := v.Canonical(p.Content)
	if err != nil {
		return keys
	}
	membership, _ := matrix.LookupString(content, "membership")
	switch membership {
	case event.MembershipJoin, event.MembershipInvite, event.MembershipKnock:
		keys = append(keys, Key{event.TypeJoinRules, ""})
	}
	switch membership {
	case event.MembershipInvite:
		signed := matrix.Lookup(matrix.Lookup(content, "third_party_invite"), "signed")
		if token, ok := matrix.LookupString(signed, "token"); ok {
			keys = append(keys, Key{event.TypeThirdPartyInvite, token})
		}
	case event.MembershipJoin:
		if user, ok := matrix.LookupString(content, "join_authorised_via_users_server"); ok && v.Restricted {
			member(user)
		}
	}
	return keys
}

// AuthTypesOf is AuthTypes of an event that exists.
func AuthTypesOf(e *event.Event) []Key {
	return AuthTypes(e.Version(), &event.Proto{Type: e.Type, Sender: e.Sender, StateKey: e.StateKey, Content: e.Content})
}

// CheckAuthEvents holds the rules about the auth_events of e itself: no
// doubles, nothing the selection does not name, none rejected, a create event
// where the version wants it, and all of the same room. auth are the events
// e.AuthEvents names; rejected may be nil. It is for federation.
func CheckAuthEvents(v event.Version, e *event.Event, auth []*event.Event, rejected func(id string) bool) error {
	if e.Type == event.TypeCreate {
		return nil
	}
	wanted := AuthTypesOf(e)
	seen := make(map[Key]bool, len(auth))
	for _, a := range auth {
		if a.StateKey == nil {
			return deny("auth_events: %s is no state event", a.ID)
		}
		k := KeyOf(a)
		if seen[k] {
			return deny("auth_events: two entries of %s %q", k.Type, k.StateKey)
		}
		seen[k] = true
		found := false
		for _, w := range wanted {
			found = found || w == k
		}
		switch {
		case !found:
			return deny("auth_events: %s %q is not selected for this event", k.Type, k.StateKey)
		case rejected != nil && rejected(a.ID):
			return deny("auth_events: %s was rejected", a.ID)
		case a.RoomID != e.RoomID:
			return deny("auth_events: %s belongs to another room", a.ID)
		}
	}
	if v.CreateInAuthEvents && !seen[Key{event.TypeCreate, ""}] {
		return deny("auth_events: no m.room.create event")
	}
	return nil
}
