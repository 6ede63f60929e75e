package push

import (
	"bytes"
	"strings"
	"unsafe"

	"lyceum/matrix"
	"lyceum/matrix/event"
)

// Subject is an event prepared for many evaluations by one goroutine.
type Subject struct {
	event     *event.Event
	known     uint16 // the bits of the knownPaths whose values are read
	values    [pathCount][]byte
	lower     string // the body in lower case
	lowered   bool
	stepsLeft int // steps that an evaluation may still take
	owner     *ruleOwner
}

// useSteps takes steps. It returns false when there are none left: then a condition does not hold.
func (s *Subject) useSteps(steps int) bool {
	s.stepsLeft -= steps
	return s.stepsLeft >= 0
}

// contains reports whether a list contains a value, which is canonical JSON.
func (s *Subject) contains(p *path, value string) bool {
	list := s.get(p)
	if len(list) == 0 || list[0] != '[' || !s.useSteps(len(list)) {
		return false
	}
	for i := 1; ; {
		v, next, ok := matrix.NextElement(list, i)
		if !ok {
			return false
		}
		if string(v) == value {
			return true
		}
		i = next
	}
}

func (s *Subject) lowerBody() string {
	if !s.lowered {
		body, _ := textOf(s.get(&path{known: pathBody}))
		s.lower, s.lowered = strings.ToLower(body), true
	}
	return s.lower
}

// bodyHas reports whether the body contains a word between word boundaries.
func (s *Subject) bodyHas(word string) bool {
	text := s.lowerBody()
	for at := 0; word != "" && s.stepsLeft > 0; {
		i := strings.Index(text[at:], word)
		if i < 0 {
			s.useSteps(searchCost(len(text)-at, len(word)))
			return false
		}
		if !s.useSteps(searchCost(i, len(word))) { // the search for "aaa" in a long word of a's succeeds at each letter
			return false
		}
		i += at
		end := i + len(word)
		if (i == 0 || !isWord(text[i-1])) && (end == len(text) || !isWord(text[end])) {
			return true
		}
		at = i + 1
	}
	return false
}

// get returns the JSON value of a property, nil when it is absent.
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

// text returns the value of a property that is a string.
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

// maxSteps is how many steps one evaluation takes at most, a few milliseconds. Rules come from users, and so do the texts that they are
// matched with. The limit allows maxRules patterns for messages of two hundred bytes, a hundred patterns for messages of two thousand
// bytes, and a few for the longest messages.
const maxSteps = 1 << 20

// NewSubject prepares an event.
func NewSubject(e *event.Event) *Subject { return &Subject{event: e, stepsLeft: maxSteps} }

// searchCost returns about how many steps the search for a word takes in so many bytes of text. strings.Index compares many bytes at once,
// except for long words.
func searchCost(text, word int) int {
	if word > 63 {
		return text + word
	}
	return (text+word)/4 + 1
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// textOf decodes a JSON string. It makes no copy of one without escapes, which is safe because the text of an event never changes.
func textOf(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	if in := raw[1 : len(raw)-1]; len(in) > 0 && bytes.IndexByte(in, '\\') < 0 {
		return unsafe.String(&in[0], len(in)), true
	}
	return matrix.Unquote(raw)
}

func equalFold(a, lower string) bool { return a == lower || strings.EqualFold(a, lower) }
