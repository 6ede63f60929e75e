package push

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"lyceum/matrix"
)

const (
	maxRules   = 1000      // of a user
	maxRuleID  = 512       // bytes
	maxStored  = 256 << 10 // bytes of all that a user changed
	maxActions = 20
)

// The actions that are names. Those of old versions are still understood: dont_notify is no notification, coalesce is one.
const (
	actionNotify     = "notify"
	actionCoalesce   = "coalesce"
	actionDontNotify = "dont_notify"
)

// The kinds of ruleChange.
const (
	changePut     = "put"
	changeDelete  = "delete"
	changeEnabled = "enabled"
	changeActions = "actions"
)

// ruleChange is what the owner of the user's account data does.
type ruleChange struct {
	Op      string          `json:"op"`
	Kind    string          `json:"kind"`
	Rule    ruleJSON        `json:"rule"` // rule_id always; the rest as Op needs it
	Before  string          `json:"before,omitempty"`
	After   string          `json:"after,omitempty"`
	Enabled bool            `json:"enabled,omitempty"`
	Actions json.RawMessage `json:"actions,omitempty"`
}

func noRule() error { return matrix.NotFound("The push rule was not found") }

// changeAtOwner changes the rules of a user. It runs on the owner of the user's shard of account data, so it reads the newest rules, and
// its write is refused when the shard has another owner.
func (p *Push) changeAtOwner(ctx context.Context, userID string, c ruleChange) (struct{}, error) {
	return struct{}{}, p.Accounts.ChangeAccountData(ctx, userID, "", typeRules, func(raw json.RawMessage) (json.RawMessage, error) {
		var s stored
		if len(raw) > 0 && json.Unmarshal(raw, &s) != nil {
			s = stored{}
		}
		if err := s.apply(userID, c); err != nil {
			return nil, err
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(s); err != nil {
			return nil, err
		}
		content := bytes.TrimSpace(b.Bytes())
		if len(content) > maxStored {
			return nil, matrix.TooLarge("The push rules together are too large")
		}
		return content, nil
	})
}

func (s *stored) apply(userID string, c ruleChange) error {
	if s.Rules == nil {
		s.Rules = map[string][]ruleJSON{}
	}
	if s.Changed == nil {
		s.Changed = map[string]changed{}
	}
	at := slices.IndexFunc(s.Rules[c.Kind], func(r ruleJSON) bool { return r.ID == c.Rule.ID })
	if c.Op == changePut {
		return s.put(c, at)
	}
	if at >= 0 {
		own := s.Rules[c.Kind]
		switch c.Op {
		case changeDelete:
			s.Rules[c.Kind] = slices.Delete(own, at, at+1)
		case changeEnabled:
			own[at].Enabled = c.Enabled
		case changeActions:
			own[at].Actions = c.Actions
		}
		return nil
	}
	if !slices.ContainsFunc(defaultsFor(userID, c.Kind), func(r rule) bool { return r.ID == c.Rule.ID }) {
		return noRule()
	}
	d := s.Changed[c.Rule.ID]
	switch c.Op {
	case changeDelete:
		return matrix.InvalidParam("Default rules can not be deleted; they can be disabled")
	case changeEnabled:
		d.Enabled = &c.Enabled
	case changeActions:
		d.Actions = c.Actions
	}
	s.Changed[c.Rule.ID] = d
	return nil
}

// put adds a rule, or replaces the rule at the index at. Without before and after, a rule that is replaced keeps its position, and a new
// rule is the first of its kind.
func (s *stored) put(c ruleChange, at int) error {
	own := s.Rules[c.Kind]
	c.Rule.Enabled = true
	if at >= 0 {
		c.Rule.Enabled = own[at].Enabled
		if c.Before == "" && c.After == "" {
			own[at] = c.Rule
			return nil
		}
		own = slices.Delete(slices.Clone(own), at, at+1)
	}
	to := 0
	find := func(id string) int { return slices.IndexFunc(own, func(r ruleJSON) bool { return r.ID == id }) }
	switch {
	case c.Before != "":
		if to = find(c.Before); to < 0 {
			return matrix.NewError(400, matrix.CodeUnknown, "before/after rule not found: "+c.Before)
		}
	case c.After != "":
		if to = find(c.After) + 1; to == 0 {
			return matrix.NewError(400, matrix.CodeUnknown, "before/after rule not found: "+c.After)
		}
	}
	total := 0
	for _, rules := range s.Rules {
		total += len(rules)
	}
	if total >= maxRules && at < 0 {
		return matrix.TooLarge("You have too many push rules")
	}
	s.Rules[c.Kind] = slices.Insert(own, to, c.Rule)
	return nil
}

// checkActions refuses anything but a list of actions. A list is kept as it was given, also with actions of old versions of the
// specification (dont_notify, coalesce), as clients compare the actions of a rule with those that they set.
func checkActions(raw json.RawMessage) (json.RawMessage, error) {
	var list []json.RawMessage
	if len(raw) == 0 || json.Unmarshal(raw, &list) != nil || list == nil {
		return nil, matrix.InvalidParam("actions: expected a list")
	}
	out := []json.RawMessage{}
	for _, a := range list {
		var name string
		if json.Unmarshal(a, &name) == nil {
			switch name {
			case actionNotify, actionCoalesce, actionDontNotify:
				out = append(out, a)
			default:
				return nil, matrix.InvalidParam("actions: expected notify or set_tweak, found " + name)
			}
			continue
		}
		var tweak struct {
			Name string `json:"set_tweak"`
		}
		if json.Unmarshal(a, &tweak) != nil || tweak.Name == "" {
			return nil, matrix.InvalidParam("actions: expected notify or an object with set_tweak")
		}
		out = append(out, a)
	}
	if len(out) > maxActions {
		return nil, matrix.InvalidParam("actions: too many")
	}
	return json.Marshal(out)
}

// checkConditions refuses anything but a list of objects with a kind. An unknown kind is kept: it matches nothing.
func checkConditions(raw json.RawMessage) error {
	if len(raw) == 0 {
		return nil
	}
	var list []struct {
		Kind string `json:"kind"`
	}
	if json.Unmarshal(raw, &list) != nil || list == nil {
		return matrix.InvalidParam("conditions: expected a list of objects")
	}
	for _, c := range list {
		if c.Kind == "" {
			return matrix.InvalidParam("conditions: expected a kind in each")
		}
	}
	return nil
}

// checkID refuses ids that no rule of a user may have. A room rule whose id is no room id, such as an alias, is kept:
// it matches nothing.
func checkID(id string) error {
	switch {
	case id == "" || len(id) > maxRuleID || strings.ContainsAny(id, `/\`):
		return matrix.InvalidParam("The id of a push rule has 1 to 512 bytes, without slashes")
	case id[0] == '.':
		return matrix.InvalidParam("The ids of rules that start with a dot belong to the server")
	}
	return nil
}
