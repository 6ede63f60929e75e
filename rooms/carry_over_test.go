package rooms

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// TestUpgradeCarriesOver: tags, direct chats and push rules of the user who upgrades, and of others when they join.
func TestUpgradeCarriesOver(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		for _, manual := range []bool{false, true} {
			old := h.alice.create(obj{"room_version": "10", "preset": "public_chat"})
			h.bob.join(old)
			set := func(who *person, room, typ string, content any) {
				t.Helper()
				if err := h.Accounts.PutAccountData(t.Context(), who.id, room, typ, encodeJSON(content)); err != nil {
					t.Fatal(err)
				}
			}
			get := func(who *person, room, typ string) gjson.Result {
				t.Helper()
				raw, err := h.Accounts.AccountData(t.Context(), who.id, room, typ)
				if err != nil {
					t.Fatal(err)
				}
				return gjson.ParseBytes(raw)
			}
			people := []*person{h.alice, h.bob}
			for _, who := range people {
				set(who, old, "m.tag", obj{"tags": obj{"m.favourite": obj{"order": 0.5}}})
				set(who, "", "m.direct", obj{"@x:example.org": []string{"!other:example.org", old}, "@y:example.org": []string{"!other:example.org"}})
				set(who, "", "m.push_rules", obj{"changed": obj{".m.rule.call": obj{"enabled": false}}, "rules": obj{
					"room": []obj{
						{"rule_id": old, "enabled": true, "actions": []string{"dont_notify"}},
						{"rule_id": "!other:example.org", "actions": []string{}},
					},
					"override": []obj{
						{
							"rule_id":    old,
							"enabled":    true,
							"actions":    []string{},
							"conditions": []obj{{"kind": "event_match", "key": "room_id", "pattern": old}},
						},
					},
				}})
			}
			var id string
			if manual {
				id = h.alice.create(obj{"room_version": "11", "preset": "public_chat", "creation_content": obj{"predecessor": obj{"room_id": old}}})
				h.alice.state(old, "m.room.tombstone", "", obj{"replacement_room": id})
			} else {
				id = h.alice.Want(200, at("POST", old, "upgrade"), obj{"new_version": "11"}).Get("replacement_room").String()
			}
			if get(h.bob, id, "m.tag").Exists() {
				t.Error("one who did not join has tags")
			}
			for range 2 {
				h.bob.join(id) // again: nothing is added twice
			}
			for _, who := range people {
				if a := get(who, id, "m.tag"); a.Get(`tags.m\.favourite.order`).Float() != 0.5 {
					t.Errorf("%s: tags %s", who.id, a)
				}
				a := get(who, "", "m.direct")
				if got := a.Get(gjson.Escape("@x:example.org")).Raw; got != `["!other:example.org","`+old+`","`+id+`"]` ||
					len(a.Get(gjson.Escape("@y:example.org")).Array()) != 1 {
					t.Errorf("%s: direct %s", who.id, a)
				}
				a = get(who, "", "m.push_rules")
				if n := strings.Count(a.Raw, id); n != 3 || a.Get("rules.room.1.rule_id").String() != id ||
					a.Get("rules.room.1.actions.0").String() != "dont_notify" ||
					a.Get("rules.override.1.conditions.0.pattern").String() != id ||
					len(a.Get("rules.room").Array()) != 3 ||
					a.Get(`changed.\.m\.rule\.call.enabled`).Raw != "false" {
					t.Errorf("%s: push rules %s", who.id, a)
				}
			}
		}
	})
}

// TestAFalseReplacementGetsNothing: a room that says it replaces one which does not say so, and one that the user never was in.
func TestAFalseReplacementGetsNothing(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		old := h.bob.create(nil)
		if err := h.Accounts.PutAccountData(t.Context(), h.bob.id, old, "m.tag", json.RawMessage(`{"tags":{"u.x":{}}}`)); err != nil {
			t.Fatal(err)
		}
		id := h.alice.create(obj{"preset": "public_chat", "creation_content": obj{"predecessor": obj{"room_id": old}}})
		h.bob.join(id)
		if raw, err := h.Accounts.AccountData(t.Context(), h.bob.id, id, "m.tag"); raw != nil || err != nil {
			t.Errorf("%s %v", raw, err)
		}
		h.alice.refused(400, "M_INVALID_PARAM", at("PUT", id, "state/m.room.tombstone/"), obj{"replacement_room": id})
		h.carol.refused(403, "M_FORBIDDEN", at("PUT", id, "state/m.room.tombstone/"), obj{"replacement_room": id})
		h.alice.refused(404, "M_NOT_FOUND", at("POST", "!none:example.org", "upgrade"), obj{"new_version": "11"})
	})
}
