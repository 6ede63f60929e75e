package push

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"

	"lyceum/matrix"
)

func quoted(s string) string { return string(matrix.AppendString(nil, s)) }

func localpart(userID string) string { return matrix.LocalpartOf(userID) }

// Rules are the compiled rules of a user. They are immutable.
type Rules struct {
	list  []*compiledRule // default rules are shared by all users who did not change them, and the list by all users who changed no rule
	owner ruleOwner
}

// ruleOwner is what shared rules need of the user whose rules they are.
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
	kind       conditionKind
	path       path
	literal    string // the value that is expected, or the word that the body must contain; in lower case
	glob       *glob  // used instead of literal when the pattern has wildcards
	value      string // canonical JSON
	comparison string
	count      int
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

// Compile makes rules from the stored content of m.push_rules.
func Compile(userID string, raw json.RawMessage) *Rules {
	lower := strings.ToLower(userID)
	out := &Rules{owner: ruleOwner{lower, localpart(lower), quoted(userID)}}
	shares := out.owner.local != "" && !hasWildcard(userID)
	if len(raw) == 0 && shares {
		out.list = defaultRules()
	} else {
		out.list = merge(userID, raw).compile(shares)
	}
	return out
}

// defaultRules are the rules of a user who changed none.
var defaultRules = sync.OnceValue(func() []*compiledRule { return merge(placeholderUser, nil).compile(true) })

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

// placeholderUser stands for the user while the shared rules are made.
const placeholderUser = "@anyone:any.where"

// sharedRules are the default rules by rule id, for all users who did not change them. Conditions with the user's id take it from the
// ruleOwner.
var sharedRules = sync.OnceValue(func() map[string]*compiledRule {
	out := map[string]*compiledRule{}
	for _, kind := range kinds {
		for _, r := range defaultsFor(placeholderUser, kind) {
			d := compileRule(kind, r)
			for i := range d.conds {
				switch c := &d.conds[i]; {
				case c.kind == condMatch && c.literal == placeholderUser:
					c.kind = condIsSelf
				case c.kind == condContains && c.value == quoted(placeholderUser):
					c.kind = condHasSelf
				case c.kind == condWord && c.literal == localpart(placeholderUser):
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
		return []condition{bodyCondition(r.Pattern)}
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
			return bodyCondition(*c.Pattern)
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
		value, ok := canonicalScalar(c.Value)
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
		return condition{kind: condMembers, comparison: op, count: n}
	case "sender_notification_permission":
		return condition{kind: condPermission, literal: c.Key}
	}
	return condition{} // an unknown condition matches nothing
}

// bodyCondition is the condition that the body contains a word.
func bodyCondition(pattern string) condition {
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

// canonicalScalar returns a string, integer, boolean or null as canonical JSON.
func canonicalScalar(raw json.RawMessage) ([]byte, bool) {
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
		return []byte(quoted(s)), true
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
