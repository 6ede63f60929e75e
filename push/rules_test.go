package push

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"lyceum/matrix/auth"
	"lyceum/matrix/event"
)

const me = "@me:here.test"

// eventOf makes an event of the properties that conditions look at.
func eventOf(t testing.TB, typ, sender string, stateKey *string, content string) *event.Event {
	t.Helper()
	text := map[string]any{
		"type": typ, "sender": sender, "room_id": "!r:here.test", "content": json.RawMessage(content), "origin_server_ts": 1,
		"depth": 1, "auth_events": []string{}, "prev_events": []string{}, "hashes": obj{}, "signatures": obj{},
	}
	if stateKey != nil {
		text["state_key"] = *stateKey
	}
	raw, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := event.VersionByID("11")
	e, err := event.ParseTrusted(v, raw, "$e")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func message(t testing.TB, content string) *event.Event {
	return eventOf(t, "m.room.message", "@you:here.test", nil, content)
}

func TestDefaultRules(t *testing.T) {
	rules := Compile(me, nil)
	empty, meKey := "", me
	group := &Facts{DisplayName: "me myself", Members: 5, Power: &auth.Power{}}
	pair := &Facts{Members: 2, Power: &auth.Power{}}
	strong := &Facts{Members: 5, Power: &auth.Power{Users: map[string]int64{"@you:here.test": 50}}}
	for _, c := range []struct {
		e                 *event.Event
		f                 *Facts
		rule              string
		notify, highlight bool
	}{
		{message(t, `{"body":"hi","msgtype":"m.text"}`), group, ".m.rule.message", true, false},
		{message(t, `{"body":"hi","msgtype":"m.text"}`), pair, ".m.rule.room_one_to_one", true, false},
		{message(t, `{"body":"hi","msgtype":"m.notice"}`), group, ".m.rule.suppress_notices", false, false},
		{message(t, `{"body":"hi","m.mentions":{"user_ids":["@x:y","@me:here.test"]}}`), group, ".m.rule.is_user_mention", true, true},
		{message(t, `{"body":"hi","m.mentions":{"user_ids":["@me:here.tes"]}}`), group, ".m.rule.message", true, false},
		{message(t, `{"body":"hi @room","m.mentions":{"room":true}}`), group, ".m.rule.message", true, false},
		{message(t, `{"body":"hi @room","m.mentions":{"room":true}}`), strong, ".m.rule.is_room_mention", true, true},
		{message(t, `{"body":"hi @room","m.mentions":{}}`), strong, ".m.rule.message", true, false},
		{message(t, `{"body":"hi @room"}`), strong, legacyRoom, true, true},
		{message(t, `{"body":"hi ME MySelf!"}`), group, legacyName, true, true},
		{message(t, `{"body":"hi me myselfie"}`), group, legacyUser, true, true},
		{message(t, `{"body":"hi ME MySelf!","m.mentions":{}}`), group, ".m.rule.message", true, false},
		{message(t, `{"body":"theme"}`), group, ".m.rule.message", true, false},
		{message(t, `{"body":"* hi me","m.relates_to":{"rel_type":"m.replace","event_id":"$x"},`+
			`"m.mentions":{}}`), group, ".m.rule.suppress_edits", false, false},
		{eventOf(t, "m.reaction", "@you:x", nil, `{}`), group, ".m.rule.reaction", false, false},
		{eventOf(t, "m.room.tombstone", "@you:x", &empty, `{}`), group, ".m.rule.tombstone", true, true},
		{eventOf(t, "m.room.tombstone", "@you:x", nil, `{}`), group, "", false, false},
		{eventOf(t, "m.room.server_acl", "@you:x", &empty, `{}`), group, ".m.rule.room.server_acl", false, false},
		{eventOf(t, "m.room.member", "@you:x", &meKey, `{"membership":"invite"}`), group, ".m.rule.invite_for_me", true, false},
		{eventOf(t, "m.room.member", "@you:x", &meKey, `{"membership":"join"}`), group, ".m.rule.member_event", false, false},
		{eventOf(t, "m.call.invite", "@you:x", nil, `{}`), group, ".m.rule.call", true, false},
		{eventOf(t, "m.room.encrypted", "@you:x", nil, `{}`), group, ".m.rule.encrypted", true, false},
		{eventOf(t, "m.room.encrypted", "@you:x", nil, `{}`), pair, ".m.rule.encrypted_room_one_to_one", true, false},
		{eventOf(t, "org.example", "@you:x", nil, `{}`), pair, "", false, false},
	} {
		got := Evaluate(rules, NewSubject(c.e), c.f)
		if got.RuleID != c.rule || got.Notify != c.notify || got.Highlight != c.highlight {
			t.Errorf(
				"%s %s: found %q %v %v, want %q %v %v", c.e.Type, c.e.Content, got.RuleID, got.Notify, got.Highlight, c.rule, c.notify,
				c.highlight,
			)
		}
	}
}

// TestConditions checks the examples of the specification ("Conditions").
func TestConditions(t *testing.T) {
	empty := ""
	topic := func(content string) *event.Event { return eventOf(t, "m.room.topic", "@x:y", &empty, content) }
	lunch := `{"kind":"event_match","key":"content.topic","pattern":"lunc?*"}`
	ex := `{"kind":"event_match","key":"content.body","pattern":"ex*ple"}`
	federate := `{"kind":"event_property_is","key":"content.m\\.federate","value":true}`
	alias := `{"kind":"event_property_contains","key":"content.alt_aliases","value":"#myroom:example.com"}`
	for _, c := range []struct {
		condition string
		e         *event.Event
		want      bool
	}{
		{lunch, topic(`{"topic":"Lunch plans"}`), true},
		{lunch, topic(`{"topic":"LUNCH"}`), true},
		{lunch, topic(`{"topic":" lunch"}`), false},
		{lunch, topic(`{"topic":"lunc"}`), false},
		{lunch, topic(`{"topic":null}`), false},
		{lunch, topic(`{}`), false},
		{ex, message(t, `{"body":"An example event."}`), true},
		{ex, message(t, `{"body":"exple"}`), true},
		{ex, message(t, `{"body":"An exciting triple-whammy"}`), true},
		{ex, message(t, `{"body":"An hexample"}`), false},
		{federate, topic(`{"m.federate":true}`), true},
		{federate, topic(`{"m.federate":"true"}`), false},
		{federate, topic(`{"m.federate":1}`), false},
		{`{"kind":"event_property_is","key":"content.n","value":null}`, topic(`{"n":null}`), true},
		{`{"kind":"event_property_is","key":"content.n","value":null}`, topic(`{}`), false},
		{`{"kind":"event_property_is","key":"content.n","value":17}`, topic(`{"n":17}`), true},
		{`{"kind":"event_property_is","key":"content.n","value":{}}`, topic(`{"n":{}}`), false},
		{`{"kind":"event_property_is","key":"content.a.b\\\\c","value":"\"q\""}`, topic(`{"a":{"b\\c":"\"q\""}}`), true},
		{alias, topic(`{"alt_aliases":["#somewhere:example.org","#myroom:example.com"]}`), true},
		{alias, topic(`{"alt_aliases":[":example.com"]}`), false},
		{alias, topic(`{"alt_aliases":"#myroom:example.com"}`), false},
		{`{"kind":"room_member_count","is":"3"}`, topic(`{}`), true},
		{`{"kind":"room_member_count","is":"==3"}`, topic(`{}`), true},
		{`{"kind":"room_member_count","is":"<3"}`, topic(`{}`), false},
		{`{"kind":"room_member_count","is":">=3"}`, topic(`{}`), true},
		{`{"kind":"room_member_count","is":"=>3"}`, topic(`{}`), false},
		{`{"kind":"room_member_count","is":""}`, topic(`{}`), false},
		{`{"kind":"unheard_of"}`, topic(`{}`), false},
		{`{"kind":"event_match","key":"type"}`, topic(`{}`), false},
		{`{"kind":"event_match","key":"type","pattern":"M.ROOM.topic"}`, topic(`{}`), true},
		{`{"kind":"event_match","key":"room_id","pattern":"!R:*"}`, topic(`{}`), true},
		{`{"kind":"event_match","key":"event_id","pattern":"$e"}`, topic(`{}`), true},
	} {
		cond := conditionOf(json.RawMessage(c.condition))
		if got := cond.holds(NewSubject(c.e), &Facts{Members: 3}); got != c.want {
			t.Errorf("%s on %s: found %v", c.condition, c.e.Content, got)
		}
	}
}

func TestHostilePatternsEndSoon(t *testing.T) {
	body := `{"body":"` + strings.Repeat("a", 60_000) + `"}`
	start := time.Now()
	Evaluate(
		Compile(
			me,
			json.RawMessage(
				`{"rules":{"content":[{"rule_id":"x","enabled":true,"pattern":"`+strings.Repeat("a*", 120)+`b","actions":["notify"]}]}}`,
			),
		),
		NewSubject(message(t, body)),
		&Facts{},
	)
	Evaluate(
		Compile(
			me,
			json.RawMessage(
				`{"rules":{"content":[{"rule_id":"x","enabled":true,"pattern":"`+strings.Repeat("a?", 120)+`b","actions":["notify"]}]}}`,
			),
		),
		NewSubject(message(t, body)),
		&Facts{},
	)
	if took := time.Since(start); took > 2*time.Second {
		t.Fatalf("a pattern took %v", took)
	}
}

func TestStoredRules(t *testing.T) {
	s := &stored{}
	put := func(id, before, after string) error {
		return s.apply(me, ruleChange{Op: changePut, Kind: kindOverride, Rule: ruleJSON{ID: id}, Before: before, After: after})
	}
	for _, err := range []error{put("a", "", ""), put("b", "", ""), put("c", "", "b"), put("d", "c", ""), put("b", "a", "")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	order := ""
	for _, r := range s.Rules[kindOverride] {
		order += r.ID
	}
	if order != "dcba" {
		t.Fatalf("found the order %s", order)
	}
	if put("e", "nobody", "") == nil || put("e", "", "nobody") == nil {
		t.Fatal("a rule beside none was taken")
	}
}

func BenchmarkEvaluateDefault(b *testing.B) {
	rules := Compile(me, nil)
	f := &Facts{DisplayName: "me myself", Members: 5, Power: &auth.Power{}}
	s := NewSubject(message(b, `{"body":"Good morning, how are you all today?","m.mentions":{},"msgtype":"m.text"}`))
	b.ReportAllocs()
	for b.Loop() {
		if !Evaluate(rules, s, f).Notify {
			b.Fatal("no notification")
		}
	}
}

func BenchmarkEvaluateFresh(b *testing.B) {
	rules := Compile(me, nil)
	f := &Facts{DisplayName: "me myself", Members: 5, Power: &auth.Power{}}
	e := message(b, `{"body":"Good morning, how are you all today?","m.mentions":{},"msgtype":"m.text"}`)
	b.ReportAllocs()
	for b.Loop() {
		if !Evaluate(rules, NewSubject(e), f).Notify {
			b.Fatal("no notification")
		}
	}
}

func FuzzRules(f *testing.F) {
	f.Add(
		`{"rules":{"override":[{"rule_id":"x","enabled":true,"conditions":[{"kind":"event_match","key":"a.b","pattern":"*"}],`+
			`"actions":["notify"]}]},"changed":{}}`,
		`{"body":"x"}`,
	)
	f.Add(`{"changed":{".m.rule.master":{"enabled":true}}}`, `{"m.mentions":7,"m.relates_to":[]}`)
	f.Fuzz(func(t *testing.T, raw, content string) {
		rules := Compile(me, json.RawMessage(raw))
		if !json.Valid(merge(me, json.RawMessage(raw)).encode()) {
			t.Fatal("the rules are no JSON")
		}
		if json.Valid([]byte(content)) && strings.HasPrefix(content, "{") {
			Evaluate(rules, NewSubject(message(t, content)), &Facts{Power: &auth.Power{}})
		}
	})
}

func TestGlobs(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		words, want   bool
	}{
		{"*", "", false, true},
		{"*", "x", false, true},
		{"**", "x", false, true},
		{"?", "é", false, true},
		{"?", "", false, false},
		{"a*a", "a", false, false},
		{"a*a", "aa", false, true},
		{"a*b*a", "abab", false, false},
		{"*b", "abab", false, true},
		{"a*", "ba", false, false},
		{"a?c", "abc", false, true},
		{"a?c", "abcd", false, false},
		{"ab*ab", "abab", false, true},
		{"ab*ab", "aba", false, false},
		{"k*n", "a kitten, b", true, true},
		{"k*n", "akitten", true, false},
		{"c?t", "a cat!", true, true},
		{"c?t", "a cats", true, false},
		{"c?t", "cats cut", true, true},
		{"*at", "cat", true, true},
		{"ca*", "xcat", true, false},
		{"ca*t", "cast cat", true, true},
	} {
		if got := compileGlob(c.pattern, c.words).match(c.text); got != c.want {
			t.Errorf("%q on %q (words: %v): found %v", c.pattern, c.text, c.words, got)
		}
	}
}

// TestSharedRulesKnowWhoseTheyAre: default rules are one list for all users, and match for each user like rules that are compiled
// for that user alone.
func TestSharedRulesKnowWhoseTheyAre(t *testing.T) {
	if a, b := Compile(me, nil), Compile("@you:here.test", nil); &a.list[0] != &b.list[0] {
		t.Error("two users who changed nothing have a list of rules each")
	}
	texts := []string{
		`{"body":"hi"}`, `{"body":"is me there?"}`, `{"body":"hi ODD.One"}`, `{"body":"star"}`, `{"body":"s*r"}`, `{"body":"\"quoted\""}`,
		`{"body":"x","m.mentions":{"user_ids":["@me:here.test"]}}`, `{"body":"x","m.mentions":{"user_ids":["@Odd.One:here.test"]}}`,
		`{"body":"x","m.mentions":{"user_ids":["@odd.one:here.test"]}}`, `{"body":"x","m.mentions":{"user_ids":["@s*r:here.test"]}}`,
		`{"body":"x","m.mentions":{"user_ids":["@\"quoted\":here.test"]}}`, `{"body":"x","m.mentions":{"user_ids":["@anyone:any.where"]}}`,
		`{"body":"anyone"}`,
	}
	users := []string{me, "@Odd.One:here.test", "@s*r:here.test", `@"quoted":here.test`, "@:here.test", "@someone.else:here.test"}
	f := &Facts{Members: 5, Power: &auth.Power{}}
	for _, user := range users {
		shared, own := Compile(user, nil), &Rules{list: merge(user, nil).compile(false)}
		var events []*event.Event
		for _, text := range texts {
			events = append(events, message(t, text))
		}
		for _, key := range users {
			events = append(
				events,
				eventOf(t, "m.room.member", "@x:y", &key, `{"membership":"invite"}`),
				eventOf(t, "m.room.member", "@x:y", &key, `{"membership":"join"}`),
			)
		}
		for _, e := range events {
			if a, b := Evaluate(shared, NewSubject(e), f), Evaluate(own, NewSubject(e), f); a.RuleID != b.RuleID || a.Notify != b.Notify ||
				a.Highlight != b.Highlight {
				t.Errorf("%s, %s: the shared rules say %q, own ones %q", user, e.JSON, a.RuleID, b.RuleID)
			}
		}
	}
}

// A client gets the actions that it set, also those of old versions of the specification, as it compares them.
func TestActionsOfOldVersions(t *testing.T) {
	for _, c := range []struct {
		actions           string
		notify, highlight bool
	}{
		{`["dont_notify"]`, false, false},
		{`["coalesce"]`, true, false},
		{`["coalesce",{"set_tweak":"highlight"}]`, true, true},
		{`["dont_notify",{"set_tweak":"highlight"}]`, false, false},
		{`["notify",{"set_tweak":"highlight","value":false}]`, true, false},
		{`[]`, false, false},
	} {
		kept, err := checkActions(json.RawMessage(c.actions))
		if err != nil || string(kept) != c.actions {
			t.Errorf("%s is kept as %s, %v", c.actions, kept, err)
		}
		if got := resultOf(rule{Actions: kept}); got.Notify != c.notify || got.Highlight != c.highlight {
			t.Errorf("%s: found %+v", c.actions, got)
		}
	}
}
