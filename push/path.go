package push

import (
	"strings"

	"lyceum/matrix"
)

// path names a property of an event (appendices, "Dot-separated property paths"). Those that the default
// rules use are well known, and read once for each event.
type path struct {
	known knownPath
	parts []string // when not well known
}

type knownPath uint8

const (
	pathNone knownPath = iota
	pathType
	pathSender
	pathRoom
	pathStateKey
	pathBody
	pathMsgtype
	pathMembership
	pathMentions
	pathMentionUsers
	pathMentionRoom
	pathRelType
	pathCount
)

var knownPaths = map[string]knownPath{
	"type": pathType, "sender": pathSender, "room_id": pathRoom, "state_key": pathStateKey,
	"content.body": pathBody, "content.msgtype": pathMsgtype, "content.membership": pathMembership,
	`content.m\.mentions`: pathMentions, `content.m\.mentions.user_ids`: pathMentionUsers,
	`content.m\.mentions.room`: pathMentionRoom, `content.m\.relates_to.rel_type`: pathRelType,
}

func pathOf(key string) path {
	if w, ok := knownPaths[key]; ok {
		return path{known: w}
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
	if p.known == pathNone {
		return s.walk(p.parts)
	}
	if bit := uint16(1) << p.known; s.known&bit == 0 {
		s.known |= bit
		s.values[p.known] = s.read(p.known)
	}
	return s.values[p.known]
}

func (s *Subject) read(w knownPath) []byte {
	e := s.event
	switch w {
	case pathType:
		return matrix.AppendString(nil, e.Type)
	case pathSender:
		return matrix.AppendString(nil, e.Sender)
	case pathRoom:
		return matrix.AppendString(nil, e.RoomID)
	case pathStateKey:
		if e.StateKey != nil {
			return matrix.AppendString(nil, *e.StateKey)
		}
	case pathBody:
		return matrix.Lookup(e.Content, "body")
	case pathMsgtype:
		return matrix.Lookup(e.Content, "msgtype")
	case pathMembership:
		return matrix.Lookup(e.Content, "membership")
	case pathMentions:
		return matrix.Lookup(e.Content, "m.mentions")
	case pathMentionUsers:
		return matrix.Lookup(s.get(&path{known: pathMentions}), "user_ids")
	case pathMentionRoom:
		return matrix.Lookup(s.get(&path{known: pathMentions}), "room")
	case pathRelType:
		return matrix.Lookup(matrix.Lookup(e.Content, "m.relates_to"), "rel_type")
	}
	return nil
}

// text gives the value of a property that is a string.
func (s *Subject) text(p *path) (string, bool) {
	switch e := s.event; p.known {
	case pathType:
		return e.Type, true
	case pathSender:
		return e.Sender, true
	case pathRoom:
		return e.RoomID, true
	case pathStateKey:
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
		return s.get(&path{known: pathRoom})
	}
	at := []byte(s.event.JSON)
	for _, p := range parts {
		if !s.useSteps(len(at)) {
			return nil
		}
		if at = matrix.Lookup(at, p); at == nil {
			return nil
		}
	}
	return at
}
