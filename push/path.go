package push

import (
	"strings"

	"lyceum/matrix"
)

// path names a property of an event (appendices, "Dot-separated property paths"). Those that the default
// rules use are well known, and read once for each event.
type path struct {
	well  well
	parts []string // when not well known
}

type well uint8

const (
	wellNone well = iota
	wellType
	wellSender
	wellRoom
	wellStateKey
	wellBody
	wellMsgtype
	wellMembership
	wellMentions
	wellMentionUsers
	wellMentionRoom
	wellRelType
	wellCount
)

var wellKnown = map[string]well{
	"type": wellType, "sender": wellSender, "room_id": wellRoom, "state_key": wellStateKey,
	"content.body": wellBody, "content.msgtype": wellMsgtype, "content.membership": wellMembership,
	`content.m\.mentions`: wellMentions, `content.m\.mentions.user_ids`: wellMentionUsers,
	`content.m\.mentions.room`: wellMentionRoom, `content.m\.relates_to.rel_type`: wellRelType,
}

func pathOf(key string) path {
	if w, ok := wellKnown[key]; ok {
		return path{well: w}
	}
	var parts []string
	var b strings.Builder
	end := func() { // keys are compared as they stand in canonical JSON
		quoted := matrix.AppendString(nil, b.String())
		parts = append(parts, string(quoted[1:len(quoted)-1]))
		b.Reset()
	}
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			b.WriteByte(key[i])
		case c == '.':
			end()
		default:
			b.WriteByte(c)
		}
	}
	end()
	return path{parts: parts}
}

// get gives the JSON value of a property, nil when it is absent.
func (s *Subject) get(p *path) []byte {
	if p.well == wellNone {
		return s.walk(p.parts)
	}
	if bit := uint16(1) << p.well; s.known&bit == 0 {
		s.known |= bit
		s.values[p.well] = s.read(p.well)
	}
	return s.values[p.well]
}

func (s *Subject) read(w well) []byte {
	e := s.event
	switch w {
	case wellType:
		return matrix.AppendString(nil, e.Type)
	case wellSender:
		return matrix.AppendString(nil, e.Sender)
	case wellRoom:
		return matrix.AppendString(nil, e.RoomID)
	case wellStateKey:
		if e.StateKey != nil {
			return matrix.AppendString(nil, *e.StateKey)
		}
	case wellBody:
		return matrix.Lookup(e.Content, "body")
	case wellMsgtype:
		return matrix.Lookup(e.Content, "msgtype")
	case wellMembership:
		return matrix.Lookup(e.Content, "membership")
	case wellMentions:
		return matrix.Lookup(e.Content, "m.mentions")
	case wellMentionUsers:
		return matrix.Lookup(s.get(&path{well: wellMentions}), "user_ids")
	case wellMentionRoom:
		return matrix.Lookup(s.get(&path{well: wellMentions}), "room")
	case wellRelType:
		return matrix.Lookup(matrix.Lookup(e.Content, "m.relates_to"), "rel_type")
	}
	return nil
}

// text gives the value of a property that is a string.
func (s *Subject) text(p *path) (string, bool) {
	switch e := s.event; p.well {
	case wellType:
		return e.Type, true
	case wellSender:
		return e.Sender, true
	case wellRoom:
		return e.RoomID, true
	case wellStateKey:
		if e.StateKey == nil {
			return "", false
		}
		return *e.StateKey, true
	}
	return textOf(s.get(p))
}

func (s *Subject) walk(parts []string) []byte {
	switch {
	case len(parts) == 1 && parts[0] == "event_id":
		return matrix.AppendString(nil, s.event.ID)
	case len(parts) == 1 && parts[0] == "room_id":
		return s.get(&path{well: wellRoom})
	}
	at := []byte(s.event.JSON)
	for _, p := range parts {
		if !s.spend(len(at)) {
			return nil
		}
		if at = matrix.Lookup(at, p); at == nil {
			return nil
		}
	}
	return at
}
