package auth

import (
	"errors"
	"fmt"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
)

// ErrDenied is the reason of every event the rules refuse.
var ErrDenied = errors.New("event not allowed")

func deny(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDenied, fmt.Sprintf(format, args...))
}

// Allowed checks e against the authorisation rules of room version v in state
// s (room versions, "Authorisation rules"). Errors wrap ErrDenied and name
// the rule. The rules about e.AuthEvents are CheckAuthEvents; those about
// signatures are event.VerifySignatures.
func Allowed(v event.Version, e *event.Event, s State) error {
	if e.Type == event.TypeCreate {
		return allowedCreate(v, e)
	}
	create := s.Get(event.TypeCreate, "")
	switch {
	case create == nil:
		return deny("create: the room has no m.room.create event")
	case create.RoomID != e.RoomID:
		return deny("create: room %s was made by another m.room.create event than %s", e.RoomID, create.ID)
	case matrix.ServerOf(e.Sender) != matrix.ServerOf(create.Sender) && string(matrix.Lookup(create.Content, "m.federate")) == "false":
		return deny("federate: the room is closed to other servers than %s", matrix.ServerOf(create.Sender))
	}
	if v.AliasesAuth && e.Type == event.TypeAliases {
		if e.StateKey == nil || *e.StateKey != matrix.ServerOf(e.Sender) {
			return deny("aliases: state_key must be the sender's server")
		}
		return nil
	}
	c := checker{v: v, e: e, s: s, create: create}
	if p, ok := s.(PoweredState); ok {
		c.power = p.Power()
	}
	if c.power == nil {
		c.power = NewPower(v, create, s.Get(event.TypePowerLevels, ""))
	}
	if e.Type == event.TypeMember {
		return c.member()
	}
	return c.other()
}

func allowedCreate(v event.Version, e *event.Event) error {
	if len(e.PrevEvents) > 0 {
		return deny("create: has prev_events")
	}
	if v.RoomIDIsCreateHash {
		if e.HasRoomID() {
			return deny("create: has a room_id")
		}
	} else if matrix.ServerOf(e.RoomID) != matrix.ServerOf(e.Sender) {
		return deny("create: the room id is of another server than the sender")
	}
	if raw := matrix.Lookup(e.Content, "room_version"); raw != nil {
		id, ok := matrix.Unquote(raw)
		if ok {
			_, ok = event.VersionByID(id)
		}
		if !ok {
			return deny("create: room_version %.40s is not known", raw)
		}
	}
	if v.CreatorInContent && matrix.Lookup(e.Content, "creator") == nil {
		return deny("create: content has no creator")
	}
	if more := matrix.Lookup(e.Content, "additional_creators"); more != nil && v.PrivilegedCreators {
		if more[0] != '[' {
			return deny("create: additional_creators is no array")
		}
		for i := 1; ; {
			raw, next, ok := matrix.NextElement(more, i)
			if !ok {
				break
			}
			i = next
			if user, ok := matrix.Unquote(raw); !ok || !matrix.ValidUserID(user) {
				return deny("create: additional_creators holds %.40s, which is no user id", raw)
			}
		}
	}
	return nil
}

// checker holds what the rules behind the first ones share.
type checker struct {
	v      event.Version
	e      *event.Event
	s      State
	create *event.Event
	power  *Power
}

// membership gives the current membership of a user, "" when there is none.
func (c *checker) membership(user string) string {
	if m := c.s.Get(event.TypeMember, user); m != nil {
		return m.Membership()
	}
	return ""
}

func (c *checker) joinRule() string {
	if r := c.s.Get(event.TypeJoinRules, ""); r != nil {
		rule, _ := r.ContentString("join_rule")
		return rule
	}
	return "invite"
}

func (c *checker) other() error {
	e := c.e
	if m := c.membership(e.Sender); m != event.MembershipJoin {
		return deny("sender: %s is not joined", e.Sender)
	}
	level := c.power.UserLevel(e.Sender)
	if e.Type == event.TypeThirdPartyInvite {
		if level < c.power.Invite {
			return deny("third_party_invite: level %d of the sender is below the invite level %d", level, c.power.Invite)
		}
		return nil
	}
	if need := c.power.EventLevel(e.Type, e.IsState()); level < need {
		return deny("power: level %d of the sender is below %d, the level of %s", level, need, e.Type)
	}
	if e.StateKey != nil && strings.HasPrefix(*e.StateKey, "@") && *e.StateKey != e.Sender {
		return deny("state_key: only %s may send it", *e.StateKey)
	}
	switch {
	case e.Type == event.TypePowerLevels:
		return c.powerLevels()
	case e.Type == event.TypeRedaction && c.v.RedactionAuth:
		if level < c.power.Redact && matrix.ServerOf(e.Redacts) != matrix.ServerOf(e.ID) {
			return deny("redaction: level %d of the sender is below the redact level %d", level, c.power.Redact)
		}
	}
	return nil
}

// powerLevels is the rule about a new m.room.power_levels event.
func (c *checker) powerLevels() error {
	if err := c.levelsAreValid(); err != nil {
		return err
	}
	old := c.s.Get(event.TypePowerLevels, "")
	if old == nil {
		return nil
	}
	sender := c.power.UserLevel(c.e.Sender)
	for _, name := range levelNames {
		was, had := c.level(old.Content, name)
		is, has := c.level(c.e.Content, name)
		if had == has && was == is {
			continue
		}
		if had && was > sender || has && is > sender {
			return deny("power_levels: %s may not change from %d to %d by a sender of level %d", name, was, is, sender)
		}
	}
	for _, name := range [...]string{"events", "notifications", "users"} {
		if name == "notifications" && !c.v.NotificationLevels {
			continue
		}
		if err := c.changes(name, old.Content, sender); err != nil {
			return err
		}
	}
	return nil
}

// levelsAreValid checks the content of a new m.room.power_levels event by itself: levels are integers, and users holds user ids
// other than those of creators.
func (c *checker) levelsAreValid() error {
	content := c.e.Content
	for _, name := range levelNames {
		if raw := matrix.Lookup(content, name); raw != nil {
			if _, err := readLevel(c.v, raw); err != nil {
				return deny("power_levels: %s: %v", name, err)
			}
		}
	}
	for _, name := range [...]string{"events", "notifications", "users"} {
		raw := matrix.Lookup(content, name)
		if raw == nil || name == "notifications" && !c.v.NotificationLevels {
			continue
		}
		levels, err := readLevels(c.v, raw)
		if err != nil {
			return deny("power_levels: %s: %v", name, err)
		}
		if name != "users" {
			continue
		}
		for user := range levels {
			if !matrix.ValidUserID(user) {
				return deny("power_levels: users holds %.80q, which is no user id", user)
			}
			if c.power.IsCreator(user) {
				return deny("power_levels: users holds %s, who created the room", user)
			}
		}
	}
	return nil
}

func (c *checker) level(content []byte, name string) (n int64, ok bool) {
	raw := matrix.Lookup(content, name)
	if raw == nil {
		return 0, false
	}
	n, err := readLevel(c.v, raw)
	return n, err == nil
}

// changes checks each entry that was added, changed or removed in one of the
// objects of levels.
func (c *checker) changes(name string, oldContent []byte, sender int64) error {
	was, _ := readLevels(c.v, matrix.Lookup(oldContent, name))
	is, _ := readLevels(c.v, matrix.Lookup(c.e.Content, name))
	for key, n := range was {
		now, has := is[key]
		if has && now == n {
			continue
		}
		if n > sender || name == "users" && key != c.e.Sender && n >= sender {
			return deny("power_levels: %s: %s has level %d, which a sender of level %d may not change", name, key, n, sender)
		}
	}
	for key, n := range is {
		if before, had := was[key]; had && before == n {
			continue
		}
		if n > sender {
			return deny("power_levels: %s: %s may not get level %d by a sender of level %d", name, key, n, sender)
		}
	}
	return nil
}
