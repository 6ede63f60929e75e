package push

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/web"
)

func (p *Push) getRules(r *web.Request) (any, error) {
	return p.Ruleset(r.Context(), r.UserID())
}

func (p *Push) getGlobal(r *web.Request) (any, error) {
	all, err := p.global(r)
	return all, err
}

func (p *Push) global(r *web.Request) (map[string]json.RawMessage, error) {
	whole, err := p.Ruleset(r.Context(), r.UserID())
	if err != nil {
		return nil, err
	}
	var v struct {
		Global map[string]json.RawMessage `json:"global"`
	}
	if err := json.Unmarshal(whole, &v); err != nil {
		return nil, err
	}
	return v.Global, nil
}

// noSuchRules is the error for scopes, kinds and attributes that do not exist. It is not 404, which says that a rule was not found.
func noSuchRules() error {
	return matrix.NewError(http.StatusBadRequest, matrix.CodeUnrecognized,
		"Expected the scope global, a kind of rules, the id of a rule and nothing, enabled or actions after it")
}

// getPart answers requests that have no route of their own: for the scope without a slash, the rules of a kind, an attribute of a rule.
func (p *Push) getPart(r *web.Request) (any, error) {
	parts := strings.Split(r.Path("part"), "/")
	if parts[0] != "global" {
		return nil, noSuchRules()
	}
	all, err := p.global(r)
	if err != nil || len(parts) == 1 {
		return all, err
	}
	rules, ok := all[parts[1]]
	switch {
	case !ok:
		return nil, noSuchRules()
	case len(parts) == 2, len(parts) == 3 && parts[2] == "":
		return rules, nil
	case len(parts) != 4:
		return nil, noSuchRules()
	}
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(rules, &list); err != nil {
		return nil, err
	}
	for _, rule := range list {
		if id, _ := matrix.Unquote(rule["rule_id"]); id != parts[2] {
			continue
		}
		if value, ok := rule[parts[3]]; ok {
			return map[string]json.RawMessage{parts[3]: value}, nil
		}
		return nil, noSuchRules()
	}
	return nil, noRule()
}

// changePart refuses changes of anything but a rule or one of the attributes that have a route.
func (p *Push) changePart(*web.Request) (any, error) { return nil, noSuchRules() }

// ruleOf returns the rule that the path names.
func (p *Push) ruleOf(r *web.Request) (ruleJSON, error) {
	switch kind := r.Path("kind"); {
	case kind == kindPostcontent:
		return ruleJSON{}, noRule()
	case !slices.Contains(kinds, kind):
		return ruleJSON{}, noSuchRules()
	}
	raw, err := p.Accounts.AccountData(r.Context(), r.UserID(), "", typeRules)
	if err != nil {
		return ruleJSON{}, err
	}
	found, ok := merge(r.UserID(), raw).find(r.Path("kind"), r.Path("ruleID"))
	if !ok {
		return ruleJSON{}, noRule()
	}
	return found.encode(r.Path("kind")), nil
}

func (p *Push) getRule(r *web.Request) (any, error) { return orNil(p.ruleOf(r)) }

func (p *Push) getEnabled(r *web.Request) (any, error) {
	rule, err := p.ruleOf(r)
	return map[string]bool{"enabled": rule.Enabled}, err
}

func (p *Push) getActions(r *web.Request) (any, error) {
	rule, err := p.ruleOf(r)
	return map[string]json.RawMessage{"actions": rule.Actions}, err
}

func orNil(v ruleJSON, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

type ruleBody struct {
	Actions    json.RawMessage `json:"actions"`
	Conditions json.RawMessage `json:"conditions"`
	Pattern    *string         `json:"pattern"`
}

func (p *Push) putRule(r *web.Request, body *ruleBody) (any, error) {
	kind, id := r.Path("kind"), r.Path("ruleID")
	if !slices.Contains(kinds, kind) {
		return nil, matrix.InvalidParam("The kind of a push rule is override, content, room, sender or underride")
	}
	if err := checkID(id); err != nil {
		return nil, err
	}
	rule := ruleJSON{ID: id}
	var err error
	if rule.Actions, err = checkActions(body.Actions); err != nil {
		return nil, err
	}
	switch kind {
	case kindOverride, kindUnderride:
		if err := checkConditions(body.Conditions); err != nil {
			return nil, err
		}
		rule.Conditions = list(body.Conditions)
	case kindContent:
		if body.Pattern == nil || *body.Pattern == "" {
			return nil, matrix.MissingParam("pattern: content rules need one")
		}
		rule.Pattern = body.Pattern
	}
	c := ruleChange{Op: changePut, Kind: kind, Rule: rule, Before: r.QueryParam("before"), After: r.QueryParam("after")}
	return p.changed(r, c)
}

func (p *Push) deleteRule(r *web.Request) (any, error) {
	return p.changed(r, ruleChange{Op: changeDelete})
}

type enabledBody struct {
	Enabled *bool `json:"enabled"`
}

func (p *Push) putEnabled(r *web.Request, body *enabledBody) (any, error) {
	if body.Enabled == nil {
		return nil, matrix.MissingParam("enabled: expected true or false")
	}
	return p.changed(r, ruleChange{Op: changeEnabled, Enabled: *body.Enabled})
}

type actionsBody struct {
	Actions json.RawMessage `json:"actions"`
}

func (p *Push) putActions(r *web.Request, body *actionsBody) (any, error) {
	actions, err := checkActions(body.Actions)
	if err != nil {
		return nil, err
	}
	return p.changed(r, ruleChange{Op: changeActions, Actions: actions})
}

func (p *Push) changed(r *web.Request, c ruleChange) (any, error) {
	if !slices.Contains(kinds, r.Path("kind")) {
		return nil, noSuchRules()
	}
	c.Kind, c.Rule.ID = r.Path("kind"), r.Path("ruleID")
	_, err := p.change(r.Context(), r.UserID(), c)
	return nil, err
}

func (p *Push) getAsAccountData(r *web.Request) (any, error) {
	if r.Path("userID") != r.UserID() {
		return nil, matrix.Forbidden("You may only read your own account data")
	}
	return p.Ruleset(r.Context(), r.UserID())
}
