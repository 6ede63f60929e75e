package push

import (
	"encoding/json"
	"strings"
)

// Result is what the rules say of an event. Actions is shared and must not be changed.
type Result struct {
	RuleID            string // the rule that matched, "" for none
	Notify, Highlight bool
	Actions           json.RawMessage // a list
}

// Evaluate finds the first rule that matches. With a Subject that is used again it does not allocate for the default rules. It does not
// know the user's own events, which the caller leaves out.
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

// holds reports whether a condition holds for an event.
func (c *condition) holds(s *Subject, f *Facts) bool {
	switch c.kind {
	case condMatch:
		return c.matches(s)
	case condWord:
		return c.matchesBody(s)
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

// matches reports whether a property is a text that the pattern matches.
func (c *condition) matches(s *Subject) bool {
	text, ok := s.text(&c.path)
	if !ok {
		return false
	}
	if c.glob != nil {
		return s.useSteps(len(text)+c.glob.cost(text)) && c.glob.match(strings.ToLower(text))
	}
	return s.useSteps(min(len(text), len(c.literal))) && equalFold(text, c.literal)
}

// matchesBody reports whether the pattern matches words of the body.
func (c *condition) matchesBody(s *Subject) bool {
	if c.glob != nil {
		_, ok := textOf(s.get(&c.path))
		return ok && s.useSteps(c.glob.cost(s.lowerBody())) && c.glob.match(s.lowerBody())
	}
	return s.bodyHas(c.literal)
}

// compare compares a number of members with that of the condition.
func (c *condition) compare(n int) bool {
	switch c.comparison {
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
