package event

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unsafe"

	"lyceum/matrix"
)

// Types of events that the rules of rooms know.
const (
	TypeCreate            = "m.room.create"
	TypeMember            = "m.room.member"
	TypePowerLevels       = "m.room.power_levels"
	TypeJoinRules         = "m.room.join_rules"
	TypeThirdPartyInvite  = "m.room.third_party_invite"
	TypeHistoryVisibility = "m.room.history_visibility"
	TypeRedaction         = "m.room.redaction"
	TypeAliases           = "m.room.aliases"
	TypeCanonicalAlias    = "m.room.canonical_alias"
	TypeName              = "m.room.name"
	TypeTopic             = "m.room.topic"
	TypeAvatar            = "m.room.avatar"
	TypeGuestAccess       = "m.room.guest_access"
	TypeEncryption        = "m.room.encryption"
	TypeEncrypted         = "m.room.encrypted"
	TypeMessage           = "m.room.message"
	TypeTombstone         = "m.room.tombstone"
	TypeServerACL         = "m.room.server_acl"
)

// Memberships of m.room.member.
const (
	MembershipJoin   = "join"
	MembershipInvite = "invite"
	MembershipLeave  = "leave"
	MembershipBan    = "ban"
	MembershipKnock  = "knock"
)

// Limits of the specification (client-server API, "Size limits"; room version
// formats).
const (
	MaxBytes      = 65536 // the whole event as canonical JSON
	MaxFieldBytes = 255   // type, sender, state_key, room_id, event_id
	MaxPrevEvents = 20
	MaxAuthEvents = 10
)

// Event is one immutable room event.
type Event struct {
	ID             string
	RoomID         string
	Type           string
	Sender         string
	StateKey       *string // nil for a message event
	Redacts        string  // "" when it redacts nothing; wherever the version puts it
	OriginServerTS int64   // milliseconds
	Depth          int64
	PrevEvents     []string
	AuthEvents     []string
	Content        json.RawMessage // canonical object
	JSON           []byte          // canonical PDU, without unsigned
	Pruned         bool            // Parse redacted it, because its content hash did not match

	version  *Version
	stateKey string
	hasRoom  bool
}

// Version gives the room version the event was read with.
func (e *Event) Version() Version { return *e.version }

// IsState reports whether e is a state event.
func (e *Event) IsState() bool { return e.StateKey != nil }

// Is reports whether e is the state event of that type and state key.
func (e *Event) Is(typ, stateKey string) bool {
	return e.StateKey != nil && e.Type == typ && *e.StateKey == stateKey
}

// Membership gives content.membership, "" when e is no m.room.member or has
// none.
func (e *Event) Membership() string {
	if e.Type != TypeMember {
		return ""
	}
	raw := matrix.Lookup(e.Content, "membership")
	switch string(raw) {
	case `"join"`:
		return MembershipJoin
	case `"leave"`:
		return MembershipLeave
	case `"invite"`:
		return MembershipInvite
	case `"ban"`:
		return MembershipBan
	case `"knock"`:
		return MembershipKnock
	}
	s, _ := matrix.Unquote(raw)
	return s
}

// HasRoomID reports whether the PDU itself carries a room_id; the create
// event of room version 12 does not.
func (e *Event) HasRoomID() bool { return e.hasRoom }

// ContentString gives a string member of the content; ok is false when it is
// absent or no string.
func (e *Event) ContentString(key string) (s string, ok bool) {
	return matrix.LookupString(e.Content, key)
}

// stringView gives the string value of raw without a copy where it has no escapes.
// The text of an event never changes, which makes this safe.
func stringView(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	in := raw[1 : len(raw)-1]
	if len(in) == 0 {
		return "", true
	}
	if bytes.IndexByte(in, '\\') >= 0 {
		return matrix.Unquote(raw)
	}
	return unsafe.String(&in[0], len(in)), true
}

func errTooLong() error {
	return matrix.TooLarge("The event is longer than " + strconv.Itoa(MaxBytes) + " bytes")
}

func bad(why string) error { return matrix.BadJSON("Invalid event: " + why) }

func readInt(raw []byte) (int64, bool) {
	if len(raw) == 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(unsafe.String(&raw[0], len(raw)), 10, 64)
	return n, err == nil
}

// What readMembers found on the top of the object.
const (
	hasType = 1 << iota
	hasSender
	hasRoomID
	hasContent
	hasTS
	hasDepth
	hasPrev
	hasAuth
	hasHashes
	hasSignatures
	hasEventID

	needed = hasType | hasSender | hasContent | hasTS | hasDepth | hasPrev | hasAuth | hasHashes | hasSignatures
)

// readMembers fills e from the canonical object e.JSON in one pass. It checks types
// of members, not their values.
func (e *Event) readMembers() (found int, err error) {
	obj := e.JSON
	if len(obj) == 0 || obj[0] != '{' {
		return 0, bad("expected an object")
	}
	var topRedacts []byte
	refs := make([]string, 0, 8)
	auth := 0
	for i := 1; ; {
		m, next, ok := matrix.NextMember(obj, i)
		if !ok {
			break
		}
		i = next
		ok = true
		switch string(m.Key) {
		case "type":
			e.Type, ok = stringView(m.Value)
			found |= hasType
		case "sender":
			e.Sender, ok = stringView(m.Value)
			found |= hasSender
		case "room_id":
			e.RoomID, ok = stringView(m.Value)
			e.hasRoom = true
			found |= hasRoomID
		case "state_key":
			e.stateKey, ok = stringView(m.Value)
			e.StateKey = &e.stateKey
		case "event_id":
			if e.version.IDFormat == IDField {
				e.ID, ok = stringView(m.Value)
				found |= hasEventID
			}
		case "content":
			ok = m.Value[0] == '{'
			e.Content = json.RawMessage(m.Value)
			found |= hasContent
		case "origin_server_ts":
			e.OriginServerTS, ok = readInt(m.Value)
			found |= hasTS
		case "depth":
			e.Depth, ok = readInt(m.Value)
			found |= hasDepth
		case "auth_events":
			refs, ok = e.readRefs(refs, m.Value)
			auth = len(refs)
			found |= hasAuth
		case "prev_events":
			// Canonical order puts auth_events first.
			refs, ok = e.readRefs(refs, m.Value)
			found |= hasPrev
		case "hashes":
			ok = m.Value[0] == '{'
			found |= hasHashes
		case "signatures":
			ok = m.Value[0] == '{'
			found |= hasSignatures
		case "redacts":
			topRedacts = m.Value
		}
		if !ok {
			return 0, bad("wrong type of " + string(m.Key))
		}
	}
	e.AuthEvents, e.PrevEvents = refs[:auth:auth], refs[auth:len(refs):len(refs)]
	e.setRedacts(topRedacts)
	return found, nil
}

// setRedacts reads what a redaction redacts. top is the member redacts of the PDU, where older room versions have it.
func (e *Event) setRedacts(top []byte) {
	if e.version.RedactsInContent {
		top = nil
		if e.Type == TypeRedaction {
			top = matrix.Lookup(e.Content, "redacts")
		}
	}
	e.Redacts, _ = stringView(top)
}

// readRefs reads event ids: plain since room version 3, pairs of id and
// hashes before.
func (e *Event) readRefs(refs []string, raw []byte) ([]string, bool) {
	if raw[0] != '[' {
		return refs, false
	}
	for i := 1; ; {
		v, next, ok := matrix.NextElement(raw, i)
		if !ok {
			return refs, true
		}
		i = next
		if e.version.ReferencesWithHashes && v[0] == '[' {
			v, _, _ = matrix.NextElement(v, 1)
		}
		id, ok := stringView(v)
		if !ok {
			return refs, false
		}
		refs = append(refs, id)
	}
}
