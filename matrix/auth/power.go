package auth

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
)

// Infinite is the power level of room creators since room version 12. No
// level of an event reaches it.
const Infinite = math.MaxInt64

// Default levels (client-server API, m.room.power_levels).
const (
	defaultCreator       = 100 // without power levels event, before room version 12
	defaultState         = 50
	defaultModeration    = 50 // ban, kick, redact
	defaultNotifications = 50
)

// Power is what the create and power levels events of a room say. It is
// immutable and may be kept as long as both events stay the same.
type Power struct {
	Invite, Kick, Ban, Redact                 int64
	UsersDefault, EventsDefault, StateDefault int64

	Users         map[string]int64 // without creators of room version 12
	Events        map[string]int64
	Notifications map[string]int64
	Creators      []string // privileged ones; nil before room version 12
}

// NewPower reads the levels. create and levels may be nil: without levels the
// defaults hold. Values that are no levels in the room version, which the
// rules refuse in new events, are taken as absent.
func NewPower(v event.Version, create, levels *event.Event) *Power {
	p := &Power{
		Kick: defaultModeration, Ban: defaultModeration, Redact: defaultModeration,
		StateDefault: defaultState,
	}
	if v.PrivilegedCreators {
		p.Creators = Creators(v, create)
	}
	if levels == nil {
		if creator := CreatorOf(v, create); creator != "" && !v.PrivilegedCreators {
			p.Users = map[string]int64{creator: defaultCreator}
		}
		return p
	}
	for i := 1; ; {
		m, next, ok := matrix.NextMember(levels.Content, i)
		if !ok {
			return p
		}
		i = next
		switch key := string(m.Key); key {
		case "users":
			p.Users, _ = readLevels(v, m.Value)
		case "events":
			p.Events, _ = readLevels(v, m.Value)
		case "notifications":
			p.Notifications, _ = readLevels(v, m.Value)
		default:
			if dst := p.field(key); dst != nil {
				if n, err := readLevel(v, m.Value); err == nil {
					*dst = n
				}
			}
		}
	}
}

// Names of the single levels, in canonical order.
var levelNames = [...]string{"ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"}

func (p *Power) field(name string) *int64 {
	switch name {
	case "ban":
		return &p.Ban
	case "events_default":
		return &p.EventsDefault
	case "invite":
		return &p.Invite
	case "kick":
		return &p.Kick
	case "redact":
		return &p.Redact
	case "state_default":
		return &p.StateDefault
	case "users_default":
		return &p.UsersDefault
	}
	return nil
}

// IsCreator reports whether user is a privileged creator.
func (p *Power) IsCreator(user string) bool {
	for _, c := range p.Creators {
		if c == user {
			return true
		}
	}
	return false
}

// UserLevel gives the level of a user, Infinite for privileged creators.
func (p *Power) UserLevel(user string) int64 {
	if p.IsCreator(user) {
		return Infinite
	}
	if n, ok := p.Users[user]; ok {
		return n
	}
	return p.UsersDefault
}

// EventLevel gives the level needed to send an event of that type.
func (p *Power) EventLevel(typ string, isState bool) int64 {
	if n, ok := p.Events[typ]; ok {
		return n
	}
	if isState {
		return p.StateDefault
	}
	return p.EventsDefault
}

// NotificationLevel gives the level needed to trigger a notification such as
// "room".
func (p *Power) NotificationLevel(kind string) int64 {
	if n, ok := p.Notifications[kind]; ok {
		return n
	}
	return defaultNotifications
}

// CanSend reports whether the level of user suffices for that type.
func (p *Power) CanSend(user, typ string, isState bool) bool {
	return p.UserLevel(user) >= p.EventLevel(typ, isState)
}

// MayRedact tells whether a user of this server may ask for a redaction of an event: own events, and with the
// level "redact" those of others (client-server API, PUT /rooms/{roomId}/redact). Without its create event a room
// is no room, without server_acl it is open to servers that were shut out, and without encryption clients would
// talk in the clear: nobody redacts these. Errors wrap ErrDenied.
func (p *Power) MayRedact(user string, original *event.Event) error {
	switch original.Type {
	case event.TypeCreate, event.TypeServerACL, event.TypeEncryption:
		if original.IsState() {
			return deny("redact: %s events are never redacted", original.Type)
		}
	}
	if level := p.UserLevel(user); user != original.Sender && level < p.Redact {
		return deny("redact: level %d of the sender is below the redact level %d, which events of others need", level, p.Redact)
	}
	return nil
}

// RedactionHolds reports whether a redaction that came from another server takes effect: its sender has the
// redact level or is of the same server as the sender of the original (room version 3, "Handling redactions").
// What own users ask for is held to MayRedact. It is for federation.
func (p *Power) RedactionHolds(redactor, originalSender string) bool {
	return p.UserLevel(redactor) >= p.Redact || matrix.ServerOf(redactor) == matrix.ServerOf(originalSender)
}

// CreatorOf gives the creator of a room: content.creator up to room version
// 10, the sender since 11. create may be nil.
func CreatorOf(v event.Version, create *event.Event) string {
	if create == nil {
		return ""
	}
	if v.CreatorInContent {
		creator, _ := create.ContentString("creator")
		return creator
	}
	return create.Sender
}

// Creators lists the creator and, where the room version knows them, the
// additional creators.
func Creators(v event.Version, create *event.Event) []string {
	if create == nil {
		return nil
	}
	list := []string{CreatorOf(v, create)}
	if !v.PrivilegedCreators {
		return list
	}
	more := matrix.Lookup(create.Content, "additional_creators")
	if len(more) == 0 || more[0] != '[' {
		return list
	}
	for i := 1; ; {
		raw, next, ok := matrix.NextElement(more, i)
		if !ok {
			return list
		}
		i = next
		if user, ok := matrix.Unquote(raw); ok {
			list = append(list, user)
		}
	}
}

// readLevel reads one level: an integer, and before room version 10 also an
// integer in a string or, before 6, a float (room version 1, "Deprecated
// event content schemas").
func readLevel(v event.Version, raw []byte) (int64, error) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err == nil {
		return clamp(n), nil
	}
	if v.IntegerPowerLevels {
		return 0, fmt.Errorf("expected an integer, found %.40s", raw)
	}
	if s, ok := matrix.Unquote(raw); ok {
		if n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil {
			return clamp(n), nil
		}
		return 0, fmt.Errorf("expected an integer, found %.40s", raw)
	}
	if f, err := strconv.ParseFloat(string(raw), 64); err == nil && !math.IsInf(f, 0) {
		f = math.Trunc(f)
		return clamp(int64(max(min(f, 1<<62), -(1 << 62)))), nil
	}
	return 0, fmt.Errorf("expected an integer, found %.40s", raw)
}

// clamp keeps Infinite out of reach.
func clamp(n int64) int64 { return min(n, Infinite-1) }

// readLevels reads an object of levels. The map holds what could be read; the
// error names the first that could not.
func readLevels(v event.Version, raw []byte) (map[string]int64, error) {
	if len(raw) == 0 || raw[0] != '{' {
		return nil, fmt.Errorf("expected an object, found %.40s", raw)
	}
	levels := map[string]int64{}
	var first error
	for i := 1; ; {
		m, next, ok := matrix.NextMember(raw, i)
		if !ok {
			return levels, first
		}
		i = next
		n, err := readLevel(v, m.Value)
		if err != nil {
			if first == nil {
				first = fmt.Errorf("%.40s: %w", m.Key, err)
			}
			continue
		}
		key := string(m.Key)
		if strings.IndexByte(key, '\\') >= 0 {
			key, _ = matrix.Unquote(append(append([]byte{'"'}, m.Key...), '"'))
		}
		levels[key] = n
	}
}
