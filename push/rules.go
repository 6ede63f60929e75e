package push

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// The kinds of rules, in the order in which they are checked.
const (
	kindOverride  = "override"
	kindContent   = "content"
	kindRoom      = "room"
	kindSender    = "sender"
	kindUnderride = "underride"
)

// kindPostcontent is a kind of MSC4306, which this server does not implement. Clients ask for its rules nevertheless.
const kindPostcontent = "postcontent"

var kinds = []string{kindOverride, kindContent, kindRoom, kindSender, kindUnderride}

// rule is a push rule (client-server API, "Push Rules").
type rule struct {
	ID         string
	Default    bool
	Enabled    bool
	Conditions json.RawMessage // a list; of override and underride rules
	Pattern    string          // of content rules
	Actions    json.RawMessage // a list
}

// ruleJSON is the form of a rule for clients and for storage.
type ruleJSON struct {
	ID         string          `json:"rule_id"`
	Default    bool            `json:"default"`
	Enabled    bool            `json:"enabled"`
	Conditions json.RawMessage `json:"conditions,omitempty"`
	Pattern    *string         `json:"pattern,omitempty"`
	Actions    json.RawMessage `json:"actions"`
}

func (r rule) encode(kind string) ruleJSON {
	out := ruleJSON{ID: r.ID, Default: r.Default, Enabled: r.Enabled, Actions: list(r.Actions)}
	switch kind {
	case kindOverride, kindUnderride:
		out.Conditions = list(r.Conditions)
	case kindContent:
		out.Pattern = &r.Pattern
	}
	return out
}

func (j ruleJSON) decode() rule {
	r := rule{ID: j.ID, Enabled: j.Enabled, Conditions: j.Conditions, Actions: j.Actions}
	if j.Pattern != nil {
		r.Pattern = *j.Pattern
	}
	return r
}

func list(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 || raw[0] != '[' {
		return json.RawMessage("[]")
	}
	return raw
}

// stored is what account data m.push_rules holds: the user's own rules in the order of their priority, and
// what the user changed of default rules.
type stored struct {
	Rules   map[string][]ruleJSON `json:"rules,omitempty"`
	Changed map[string]changed    `json:"changed,omitempty"` // by rule id
}

type changed struct {
	Enabled *bool           `json:"enabled,omitempty"`
	Actions json.RawMessage `json:"actions,omitempty"`
}

// ruleset is all rules of a user by kind, each kind in the order in which it is checked.
type ruleset map[string][]rule

// merge returns the rules of a user. Stored rules that can not be read count as none.
func merge(userID string, raw json.RawMessage) ruleset {
	var s stored
	if len(raw) > 0 && json.Unmarshal(raw, &s) != nil {
		s = stored{}
	}
	out := ruleset{}
	for _, kind := range kinds {
		var own, rules []rule
		for _, j := range s.Rules[kind] {
			own = append(own, j.decode())
		}
		defaults := defaultsFor(userID, kind)
		for i := range defaults {
			c := s.Changed[defaults[i].ID]
			if c.Enabled != nil {
				defaults[i].Enabled = *c.Enabled
			}
			if c.Actions != nil {
				defaults[i].Actions = c.Actions
			}
		}
		if kind == kindOverride { // the master rule comes before the user's own
			rules, defaults = defaults[:1:1], defaults[1:]
		}
		rules = append(rules, own...)
		out[kind] = append(rules, defaults...)
	}
	return out
}

// find returns a rule of a kind.
func (s ruleset) find(kind, id string) (rule, bool) {
	i := slices.IndexFunc(s[kind], func(r rule) bool { return r.ID == id })
	if i < 0 {
		return rule{}, false
	}
	return s[kind][i], true
}

// encode returns the ruleset in the form for clients: the content of m.push_rules.
func (s ruleset) encode() json.RawMessage {
	global := map[string][]ruleJSON{}
	for _, kind := range kinds {
		global[kind] = []ruleJSON{}
		for _, r := range s[kind] {
			global[kind] = append(global[kind], r.encode(kind))
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(map[string]any{"global": global}); err != nil {
		return json.RawMessage(`{"global":{}}`) // it was checked to be JSON when it was stored
	}
	return bytes.TrimSpace(b.Bytes())
}

// The actions of default rules. Nobody changes them.
var (
	actNone           = json.RawMessage(`[]`)
	actNotify         = json.RawMessage(`["notify"]`)
	actSound          = json.RawMessage(`["notify",{"set_tweak":"sound","value":"default"}]`)
	actRing           = json.RawMessage(`["notify",{"set_tweak":"sound","value":"ring"}]`)
	actHighlight      = json.RawMessage(`["notify",{"set_tweak":"highlight"}]`)
	actSoundHighlight = json.RawMessage(`["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]`)
)

// defaultRule is a server-default rule; USER stands for the user's id, as a JSON string.
type defaultRule struct {
	id, conditions string
	actions        json.RawMessage
}

const (
	oneType = `{"kind":"event_match","key":"type","pattern":"`
	noKey   = `{"kind":"event_match","key":"state_key","pattern":""}`
	two     = `{"kind":"room_member_count","is":"2"}`
)

var defaultOverride = []defaultRule{
	{".m.rule.master", `[]`, actNone},
	{".m.rule.suppress_notices", `[{"kind":"event_match","key":"content.msgtype","pattern":"m.notice"}]`, actNone},
	{
		".m.rule.invite_for_me",
		`[` + oneType + `m.room.member"},{"kind":"event_match","key":"content.membership","pattern":"invite"},{"kind":"event_match",` +
			`"key":"state_key","pattern":USER}]`,
		actSound,
	},
	{".m.rule.member_event", `[` + oneType + `m.room.member"}]`, actNone},
	{".m.rule.is_user_mention", `[{"kind":"event_property_contains","key":"content.m\\.mentions.user_ids","value":USER}]`, actSoundHighlight},
	{legacyName, `[{"kind":"contains_display_name"}]`, actSoundHighlight},
	{
		".m.rule.is_room_mention",
		`[{"kind":"event_property_is","key":"content.m\\.mentions.room","value":true},{"kind":"sender_notification_permission","key":"room"}]`,
		actHighlight,
	},
	{
		legacyRoom,
		`[{"kind":"event_match","key":"content.body","pattern":"@room"},{"kind":"sender_notification_permission","key":"room"}]`,
		actHighlight,
	},
	{".m.rule.tombstone", `[` + oneType + `m.room.tombstone"},` + noKey + `]`, actHighlight},
	{".m.rule.reaction", `[` + oneType + `m.reaction"}]`, actNone},
	{".m.rule.room.server_acl", `[` + oneType + `m.room.server_acl"},` + noKey + `]`, actNone},
	{".m.rule.suppress_edits", `[{"kind":"event_property_is","key":"content.m\\.relates_to.rel_type","value":"m.replace"}]`, actNone},
}

var defaultUnderride = []defaultRule{
	{".m.rule.call", `[` + oneType + `m.call.invite"}]`, actRing},
	{".m.rule.encrypted_room_one_to_one", `[` + two + `,` + oneType + `m.room.encrypted"}]`, actSound},
	{".m.rule.room_one_to_one", `[` + two + `,` + oneType + `m.room.message"}]`, actSound},
	{".m.rule.message", `[` + oneType + `m.room.message"}]`, actNotify},
	{".m.rule.encrypted", `[` + oneType + `m.room.encrypted"}]`, actNotify},
}

// Rules from before intentional mentions. They hold for messages of clients that do not say whom they
// mention, and for no others (client-server API v1.7, "Default Override Rules").
const (
	legacyName = ".m.rule.contains_display_name"
	legacyRoom = ".m.rule.roomnotif"
	legacyUser = ".m.rule.contains_user_name"
)

func isLegacy(id string) bool { return id == legacyName || id == legacyRoom || id == legacyUser }

func defaultsFor(userID, kind string) []rule {
	var from []defaultRule
	switch kind {
	case kindOverride:
		from = defaultOverride
	case kindUnderride:
		from = defaultUnderride
	case kindContent:
		return []rule{{ID: legacyUser, Default: true, Enabled: true, Pattern: localpart(userID), Actions: actSoundHighlight}}
	}
	out := make([]rule, len(from))
	for i, d := range from {
		out[i] = rule{
			ID: d.id, Default: true, Enabled: d.id != ".m.rule.master", Actions: d.actions,
			Conditions: json.RawMessage(strings.ReplaceAll(d.conditions, "USER", quoted(userID))),
		}
	}
	return out
}
