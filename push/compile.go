package push

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
)

func quote(s string) string { return string(matrix.AppendString(nil, s)) }

func localpart(userID string) string { return matrix.LocalpartOf(userID) }

// Facts are what conditions ask about a room and a user beside the event.
type Facts struct {
	DisplayName string // of the user in the room, in lower case
	Members     int    // joined members of the room
	Power       *auth.Power
}

// Result is what the rules say of an event. Its parts are shared: nobody changes them.
type Result struct {
	RuleID            string // the rule that matched, "" for none
	Notify, Highlight bool
	Actions           json.RawMessage // a list
}

// Rules are the compiled rules of a user. They are immutable.
type Rules struct {
	list  []*compiledRule // those that nobody changed are shared by all users, and the whole list by those who changed none
	owner ruleOwner
}

// self is what shared rules ask about the user whom they are of.
type ruleOwner struct {
	id, local string // in lower case
	quoted    string // the id as JSON
}

type compiledRule struct {
	result Result
	legacy bool
	conds  []condition
}

// condition is one test of an event.
type condition struct {
	kind    conditionKind
	path    path
	literal string // what a value must be, or the word that the body must hold; in lower case
	glob    *glob  // instead of literal, when there are wildcards
	value   string // canonical JSON
	op      string
	count   int
}

type conditionKind uint8

const (
	condNever conditionKind = iota
	condMatch
	condWord
	condIs
	condContains
	condName
	condMembers
	condPermission
	condRoom
	condSender
	condIsSelf   // as condMatch, for the id of the user
	condHasSelf  // as condContains
	condSelfWord // as condWord, for the localpart
)

// Compile makes rules from the content of m.push_rules in storage.
func Compile(userID string, raw json.RawMessage) *Rules {
	lower := strings.ToLower(userID)
	out := &Rules{owner: ruleOwner{lower, localpart(lower), quote(userID)}}
	shares := out.owner.local != "" && !hasWildcard(userID)
	if len(raw) == 0 && shares {
		out.list = defaultRules()
	} else {
		out.list = merge(userID, raw).compile(shares)
	}
	return out
}

// untouched are the rules of a user who changed none.
var defaultRules = sync.OnceValue(func() []*compiledRule { return merge(anyone, nil).compile(true) })

func (s ruleset) compile(shares bool) (out []*compiledRule) {
	for _, kind := range kinds {
		for _, r := range s[kind] {
			if !r.Enabled {
				continue
			}
			if d := sharedRules()[r.ID]; d != nil && shares && r.Default && bytes.Equal(list(r.Actions), d.result.Actions) {
				out = append(out, d)
				continue
			}
			c := compileRule(kind, r)
			if !slices.ContainsFunc(c.conds, func(c condition) bool { return c.kind == condNever }) {
				out = append(out, c)
			}
		}
	}
	return out
}

func compileRule(kind string, r rule) *compiledRule {
	return &compiledRule{result: resultOf(r), legacy: isLegacy(r.ID), conds: conditionsOf(kind, r)}
}

// anyone stands for the user while the shared rules are made.
const anyone = "@anyone:any.where"

// shared are the default rules by rule id, as all users have them who changed none of it. What names the user asks for it.
var sharedRules = sync.OnceValue(func() map[string]*compiledRule {
	out := map[string]*compiledRule{}
	for _, kind := range kinds {
		for _, r := range defaultsFor(anyone, kind) {
			d := compileRule(kind, r)
			for i := range d.conds {
				switch c := &d.conds[i]; {
				case c.kind == condMatch && c.literal == anyone:
					c.kind = condIsSelf
				case c.kind == condContains && c.value == quote(anyone):
					c.kind = condHasSelf
				case c.kind == condWord && c.literal == localpart(anyone):
					c.kind = condSelfWord
				}
			}
			out[r.ID] = d
		}
	}
	return out
})

func conditionsOf(kind string, r rule) []condition {
	switch kind {
	case kindContent:
		return []condition{word(r.Pattern)}
	case kindRoom:
		return []condition{{kind: condRoom, literal: r.ID}}
	case kindSender:
		return []condition{{kind: condSender, literal: r.ID}}
	}
	var raw []json.RawMessage
	if len(r.Conditions) > 0 && json.Unmarshal(r.Conditions, &raw) != nil {
		return []condition{{}}
	}
	out := make([]condition, len(raw))
	for i := range raw {
		out[i] = conditionOf(raw[i])
	}
	return out
}

func conditionOf(raw json.RawMessage) condition {
	var c struct {
		Kind    string          `json:"kind"`
		Key     string          `json:"key"`
		Pattern *string         `json:"pattern"`
		Value   json.RawMessage `json:"value"`
		Is      string          `json:"is"`
	}
	if json.Unmarshal(raw, &c) != nil {
		return condition{}
	}
	switch c.Kind {
	case "event_match":
		switch {
		case c.Pattern == nil:
			return condition{}
		case c.Key == "content.body":
			return word(*c.Pattern)
		}
		out := condition{kind: condMatch, path: pathOf(c.Key), literal: strings.ToLower(*c.Pattern)}
		if hasWildcard(*c.Pattern) {
			out.glob = compileGlob(*c.Pattern, false)
			if out.glob == nil {
				return condition{}
			}
		}
		return out
	case "event_property_is", "event_property_contains":
		value, ok := scalar(c.Value)
		if !ok {
			return condition{}
		}
		out := condition{kind: condIs, path: pathOf(c.Key), value: string(value)}
		if c.Kind == "event_property_contains" {
			out.kind = condContains
		}
		return out
	case "contains_display_name":
		return condition{kind: condName, path: path{known: pathBody}}
	case "room_member_count":
		number := strings.TrimLeft(c.Is, "=<>")
		op := c.Is[:len(c.Is)-len(number)]
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || number[0] == '+' || !slices.Contains([]string{"", "==", "<", ">", "<=", ">="}, op) {
			return condition{}
		}
		return condition{kind: condMembers, op: op, count: n}
	case "sender_notification_permission":
		return condition{kind: condPermission, literal: c.Key}
	}
	return condition{} // what is not known matches nothing
}

// word is the condition on words of the body.
func word(pattern string) condition {
	c := condition{kind: condWord, path: path{known: pathBody}, literal: strings.ToLower(pattern)}
	if pattern == "" {
		return condition{}
	}
	if hasWildcard(pattern) {
		if c.glob = compileGlob(pattern, true); c.glob == nil {
			return condition{}
		}
	}
	return c
}

// scalar gives a string, integer, boolean or null as canonical JSON.
func scalar(raw json.RawMessage) ([]byte, bool) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return nil, false
	}
	switch raw[0] {
	case '"':
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return nil, false
		}
		return []byte(quote(s)), true
	case '{', '[':
		return nil, false
	case 't', 'f', 'n':
		return raw, true
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	return strconv.AppendInt(nil, n, 10), err == nil
}

func resultOf(r rule) Result {
	out := Result{RuleID: r.ID, Actions: list(r.Actions)}
	var actions []json.RawMessage
	_ = json.Unmarshal(out.Actions, &actions) // it was checked when it was stored
	muted := false
	for _, a := range actions {
		var name string
		if json.Unmarshal(a, &name) == nil {
			muted = muted || name == actionDontNotify
			out.Notify = out.Notify || name == actionNotify || name == actionCoalesce
			continue
		}
		var tweak struct {
			Name  string `json:"set_tweak"`
			Value any    `json:"value"`
		}
		if json.Unmarshal(a, &tweak) == nil && tweak.Name == "highlight" && tweak.Value != false {
			out.Highlight = true
		}
	}
	out.Notify = out.Notify && !muted
	out.Highlight = out.Highlight && out.Notify
	return out
}

// Subject is an event prepared for many evaluations by one goroutine.
type Subject struct {
	event     *event.Event
	known     uint16 // bit set of well
	values    [pathCount][]byte
	lower     string // the body in lower case
	lowered   bool
	stepsLeft int // steps that an evaluation may still take
	owner     *ruleOwner
}

// maxWork is how many steps one evaluation takes at most, a few milliseconds: rules come from users, and so do the
// texts that they look at. All of maxRules patterns are looked for in messages of two hundred bytes, a hundred in
// those of two thousand, and a few in the longest.
const maxSteps = 1 << 20

// spend takes steps; without any left a condition does not hold.
func (s *Subject) useSteps(steps int) bool {
	s.stepsLeft -= steps
	return s.stepsLeft >= 0
}

// NewSubject prepares an event.
func NewSubject(e *event.Event) *Subject { return &Subject{event: e, stepsLeft: maxSteps} }

// Evaluate finds the first rule that matches. With a Subject that is used again it does not allocate for
// the default rules. A user's own events are for the caller to leave out.
func Evaluate(rules *Rules, s *Subject, f *Facts) Result {
	s.stepsLeft, s.owner = maxSteps, &rules.owner
next:
	for _, c := range rules.list {
		if c.legacy && s.get(&path{known: pathMentions}) != nil {
			continue
		}
		for j := range c.conds {
			if !c.conds[j].holds(s, f) {
				continue next
			}
		}
		return c.result
	}
	return Result{}
}

func (c *condition) holds(s *Subject, f *Facts) bool {
	switch c.kind {
	case condMatch:
		text, ok := s.text(&c.path)
		if !ok {
			return false
		}
		if c.glob != nil {
			return s.useSteps(len(text)+c.glob.cost(text)) && c.glob.match(strings.ToLower(text))
		}
		return s.useSteps(min(len(text), len(c.literal))) && equalFold(text, c.literal)
	case condWord:
		if c.glob != nil {
			_, ok := textOf(s.get(&c.path))
			return ok && s.useSteps(c.glob.cost(s.lowerBody())) && c.glob.match(s.lowerBody())
		}
		return s.bodyHas(c.literal)
	case condIs:
		return string(s.get(&c.path)) == c.value
	case condContains:
		return s.contains(&c.path, c.value)
	case condHasSelf:
		return s.contains(&c.path, s.owner.quoted)
	case condIsSelf:
		text, ok := s.text(&c.path)
		return ok && s.useSteps(min(len(text), len(s.owner.id))) && equalFold(text, s.owner.id)
	case condSelfWord:
		return s.bodyHas(s.owner.local)
	case condName:
		return s.bodyHas(f.DisplayName)
	case condRoom:
		return s.event.RoomID == c.literal
	case condSender:
		return s.event.Sender == c.literal
	case condMembers:
		return c.compare(f.Members)
	case condPermission:
		return f.Power != nil && f.Power.UserLevel(s.event.Sender) >= f.Power.NotificationLevel(c.literal)
	}
	return false
}

func (c *condition) compare(n int) bool {
	switch c.op {
	case "<":
		return n < c.count
	case ">":
		return n > c.count
	case "<=":
		return n <= c.count
	case ">=":
		return n >= c.count
	}
	return n == c.count
}

// contains tells whether a list holds a value of canonical JSON.
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

func equalFold(a, lower string) bool { return a == lower || strings.EqualFold(a, lower) }

// textOf gives a JSON string without a copy where it has no escapes. The text of an event never changes,
// which makes this safe.
func textOf(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	if in := raw[1 : len(raw)-1]; len(in) > 0 && bytes.IndexByte(in, '\\') < 0 {
		return unsafe.String(&in[0], len(in)), true
	}
	return matrix.Unquote(raw)
}

func (s *Subject) lowerBody() string {
	if !s.lowered {
		body, _ := textOf(s.get(&path{known: pathBody}))
		s.lower, s.lowered = strings.ToLower(body), true
	}
	return s.lower
}

// bodyHas tells whether the body holds a word between word boundaries.
func (s *Subject) bodyHas(word string) bool {
	text := s.lowerBody()
	for at := 0; word != "" && s.stepsLeft > 0; {
		i := strings.Index(text[at:], word)
		if i < 0 {
			s.useSteps(searchCost(len(text)-at, len(word)))
			return false
		}
		if !s.useSteps(searchCost(i, len(word))) { // "aaa…" is found again and again in a word of a's
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

// lookCost is about what it costs to look through so much text for a word. The library looks at many bytes at once,
// but for long words.
func searchCost(text, word int) int {
	if word > 63 {
		return text + word
	}
	return (text+word)/4 + 1
}

func isWord(c byte) bool {
	return c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
