package hostiletest_test

import (
	stdjson "encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"lyceum/fleettest"
)

// poisons are what an author may write where somebody who reads expects an id or a name.
var poisons = map[string]any{
	"NUL": "\x00", "an event": "$\x00", "a user": "@\x00:" + fleettest.ServerName, "a room": "!\x00:" + fleettest.ServerName,
	"an alias": "#\x00:" + fleettest.ServerName,
	"long": "$" + strings.Repeat(
		"x",
		30_000,
	), "empty": "", "odd": "$%2F../%\u202e\ufffe", "number": 5, "large number": stdjson.Number("1e400"), "null": nil, "list": []any{
		[]any{},
		nil, 1,
	},
	"object": obj{"\x00": obj{}}, "true": true,
}

// relating are messages, as content and type, that say P somewhere.
func relating(p any, root string) map[string]obj {
	out := map[string]obj{
		"m.room.message body": {
			"msgtype":        "m.text",
			"body":           p,
			"formatted_body": p,
			"format":         p,
		}, "m.room.message msgtype": {"msgtype": p, "body": "x", "url": p, "info": p},
		"m.room.message mentions": {
			"msgtype":    "m.text",
			"body":       "x",
			"m.mentions": obj{"user_ids": []any{p, "@x:y"}, "room": p},
		}, "m.room.message mentions odd": {"msgtype": "m.text", "body": "x", "m.mentions": p},
		"m.room.message relates": {
			"msgtype":      "m.text",
			"body":         "x",
			"m.relates_to": p,
		}, "m.room.message reply": {"msgtype": "m.text", "body": "x", "m.relates_to": obj{"m.in_reply_to": obj{"event_id": p}}},
		"m.room.redaction redacts": {
			"redacts": p,
		}, "test.type text": {"m.text": p, "content": p, "org.matrix.msc1767.text": p},
		"m.beacon relates":  {"m.relates_to": obj{"rel_type": "m.reference", "event_id": p}},
		"m.room.message to": {"msgtype": "m.key.verification.request", "body": "x", "to": p, "from_device": p},
	}
	for _, kind := range []any{"m.thread", "m.replace", "m.reference", "m.annotation", "test.relation", p} {
		for _, typ := range []string{"m.room.message", "m.room.encrypted", "m.reaction"} {
			out[fmt.Sprintf("%s %v", typ, kind)] = obj{
				"msgtype": "m.text", "body": "x", "m.new_content": p, "algorithm": p, "ciphertext": p, "session_id": p,
				"m.relates_to": obj{"rel_type": kind, "event_id": p, "key": p, "m.in_reply_to": obj{"event_id": p}, "is_falling_back": p},
			}
		}
		out[fmt.Sprintf("m.room.message key %v", kind)] = obj{
			"msgtype":       "m.text",
			"body":          "x",
			"m.new_content": p,
			"m.relates_to":  obj{"rel_type": kind, "event_id": root, "key": p, "m.in_reply_to": p},
		}
	}
	return out
}

// stating is the content of state events that say P somewhere, by type and state key.
func stating(p any, who string) map[string]any {
	return map[string]any{
		"m.room.name/": obj{
			"name": p,
		}, "m.room.topic/": obj{"topic": p, "m.topic": p}, "m.room.avatar/": obj{"url": p, "info": p},
		"m.room.canonical_alias/": obj{"alias": p, "alt_aliases": []any{p}},
		"m.room.join_rules/": obj{
			"join_rule": "restricted",
			"allow":     []any{obj{"type": "m.room_membership", "room_id": p}, obj{"type": p, "room_id": p}, p},
		},
		"m.room.history_visibility/": obj{
			"history_visibility": p,
		}, "m.room.guest_access/": obj{"guest_access": p}, "m.room.encryption/": obj{"algorithm": p},
		"m.room.server_acl/": obj{"allow": []any{p}, "deny": p},
		"m.room.pinned_events/": obj{
			"pinned": []any{p},
		}, "m.room.tombstone/": obj{"body": p, "replacement_room": p}, "m.space.child/!x:y": obj{"via": []any{p}, "order": p, "suggested": p},
		"m.space.parent/!x:y": obj{
			"via":       []any{p},
			"canonical": p,
		}, "m.room.third_party_invite/x": obj{"display_name": p, "key_validity_url": p, "public_key": p},
		"m.room.power_levels/": obj{"users": obj{who: 100}, "events": obj{"x": p}, "notifications": p},
		"m.room.member/" + who: obj{
			"membership":                       "join",
			"displayname":                      p,
			"avatar_url":                       p,
			"reason":                           p,
			"is_direct":                        p,
			"third_party_invite":               p,
			"join_authorised_via_users_server": p,
		},
		"m.room.retention/": obj{
			"max_lifetime": p,
		}, "test.state/x": obj{"x": p}, "m.room.aliases/x": obj{"aliases": p}, "m.policy.rule.user/x": obj{
			"entity": p, "recommendation": p,
			"reason": p,
		},
	}
}

// settings are requests with which users may harm themselves, as method, path and body.
func settings(u *fleettest.User, room string, p any) []trial {
	put := func(path string, body any) trial {
		return trial{what: "PUT " + path, path: path, body: body}
	}
	return []trial{
		put(
			u.UserPath("account_data", "m.direct"),
			obj{"@x:y": []any{p, room}},
		), put(u.UserPath("account_data", "m.ignored_user_list"), obj{"ignored_users": obj{fmt.Sprint(p): obj{}, "@x:y": p}}),
		put(
			u.UserPath("account_data", "m.ignored_user_list"),
			obj{"ignored_users": p},
		), put(u.UserPath("rooms", room, "account_data", "m.fully_read"), obj{"event_id": p}),
		put(
			u.UserPath("rooms", room, "tags", "u.x"),
			obj{"order": p},
		), put(u.UserPath("rooms", room, "account_data", "m.tag"), obj{"tags": obj{fmt.Sprint(p): p}}), put(u.UserPath("account_data",
			"test.x"), p),
		put(
			u.UserPath("rooms", room, "account_data", "m.marked_unread"),
			obj{"unread": p},
		), put(u.UserPath("account_data", "m.invite_permission_config"), obj{"default_action": p}),
		put(
			v3+"/pushrules/global/override/x",
			obj{
				"actions":    []any{"notify", obj{"set_tweak": "sound", "value": p}},
				"conditions": []any{obj{"kind": "event_property_contains", "key": "content.body", "value": p}},
			},
		),
		put(
			v3+"/pushrules/global/override/y",
			obj{"actions": []any{"notify"}, "conditions": []any{obj{"kind": "event_match", "key": "content.body", "pattern": p}}},
		),
		put(
			v3+"/pushrules/global/content/x",
			obj{"pattern": p, "actions": []any{"notify"}},
		), put(v3+"/profile/"+url.PathEscape(u.ID)+"/displayname", obj{"displayname": p}),
		put(
			v3+"/profile/"+url.PathEscape(u.ID)+"/avatar_url",
			obj{"avatar_url": p},
		), put(v3+"/presence/"+url.PathEscape(u.ID)+"/status", obj{"presence": "online", "status_msg": p}), put(v3+"/devices/"+u.Device,
			obj{"display_name": p}),
	}
}

// readings are requests of somebody in a room, about an event of it, which answer 200.
func readings(room, event, since string) []string {
	at := func(parts ...string) string { return fleettest.RoomPath(room, parts...) }
	lazy := url.QueryEscape(`{"room":{"timeline":{"limit":5,"unread_thread_notifications":true},"state":{"lazy_load_members":true}}}`)
	return []string{
		"GET " + v3 + "/sync?filter=" + lazy, "GET " + v3 + "/sync?since=" + since, "GET " + v3 + "/sync?full_state=true&since=" + since,
		"GET " + v3 + "/notifications", "GET " + at("messages") + "?dir=b&limit=30",
		"GET " + at(
			"context",
			event,
		), "GET " + at("event", event), "GET " + at("state"), "GET " + at("members"), "GET " + at("joined_members"), "POST " + at("receipt",
			"m.read", event), "POST " + at("read_markers"),
		"GET " + strings.Replace(
			at("relations", event),
			"/v3/",
			"/v1/",
			1,
		), "GET " + strings.Replace(at("threads"), "/v3/", "/v1/", 1), "GET " + strings.Replace(at("hierarchy"), "/v3/", "/v1/", 1),
		"GET " + at("aliases"),
		"POST " + v3 + "/search", "POST " + v3 + "/user_directory/search", "GET " + v3 + "/publicRooms", "POST " + v3 + "/publicRooms",
		"GET " + v3 + "/pushrules/", "GET " + v3 + "/devices", "GET " + v3 + "/keys/changes?from=" + since + "&to=" + since,
		"GET " + v3 + "/joined_rooms", "GET " + strings.Replace(at("timestamp_to_event"), "/v3/", "/v1/", 1) + "?ts=0&dir=f",
		"PUT " + at("typing", "USER"), "PUT " + at("send", "m.room.message", "after"), "GET " + v1 + "/room_summary/" + url.PathEscape(room),
	}
}

// victims reads all that they may, and leaves and joins, after somebody wrote something.
type victims struct {
	*world
	room, root, since string
	author, reader    *fleettest.User
}

func newVictims(w *world) *victims {
	w.t.Helper()
	v := &victims{world: w, author: w.fleet.Register(w.t, "author"), reader: w.fleet.Register(w.t, "reader")}
	v.room = v.author.Do("POST", v3+"/createRoom", obj{"preset": "public_chat", "room_version": "11", "visibility": "public"}).
		Get("room_id").String()
	v.reader.Do("POST", fleettest.RoomPath(v.room, "join"), obj{})
	v.author.Do("PUT", fleettest.RoomPath(v.room, "state", "m.room.power_levels", ""), obj{"users": obj{v.author.ID: 100, v.reader.ID: 50}})
	v.root = v.author.Send(v.room, "root", "the root")
	v.since = v.reader.Sync("", 0).Get("next_batch").String()
	return v
}

// few are the readings that go over all news; the others are tried less often.
const few = 5

// harmed tells what the reader can no longer do, "" when nothing.
func (v *victims) harmed(event string, all bool) string {
	v.t.Helper()
	list := readings(v.room, event, v.since)
	if !all {
		list = list[:few]
	}
	for _, r := range list {
		method, path, _ := strings.Cut(strings.Replace(r, "USER", url.PathEscape(v.reader.ID), 1), " ")
		path = strings.Replace(path, "/after", "/"+v.transaction(), 1)
		var body any
		if method != "GET" {
			body = obj{
				"m.fully_read": event, "typing": true, "msgtype": "m.text", "body": "hello", "search_term": "author",
				"filter": obj{"generic_search_term": "x"},
				"search_categories": obj{
					"room_events": obj{
						"search_term":   "x",
						"event_context": obj{"before_limit": 5, "include_profile": true},
						"groupings":     obj{"group_by": []obj{{"key": "sender"}}},
					},
				},
			}
		}
		if status, got := v.reader.Call(method, path, body); status != 200 {
			return fmt.Sprintf("%s: %d %.300s", r, status, got.Raw)
		}
	}
	return ""
}

// search waits until a new message is found.
func (v *victims) search() {
	v.t.Helper()
	word := fmt.Sprint("word", serial.Add(1))
	event := v.author.Send(v.room, v.transaction(), word)
	ask := obj{"search_categories": obj{"room_events": obj{"search_term": word}}}
	for began := time.Now(); !strings.Contains(v.reader.Do("POST", v3+"/search", ask).Raw, event); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			v.t.Errorf("a message of room %s is not found", v.room)
			return
		}
	}
}

// TestNobodyIsHarmedByWhatOthersWrite sends what is odd in every place of events that the server reads, and holds that all who may
// read it can: also that users can not do it to themselves by their settings.
func TestNobodyIsHarmedByWhatOthersWrite(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, start(t, engine).Fleet)
			v := newVictims(w)
			if why := v.harmed(v.root, true); why != "" {
				t.Fatal(why)
			}
			taken, refused := 0, 0
			try := func(what string, who *fleettest.User, path string, body any, all bool) {
				t.Helper()
				status, got := who.Call("PUT", path, body)
				switch {
				case status >= 500:
					t.Errorf("%s: %d %s", what, status, got.Raw)
				case status != 200:
					refused++
					return
				}
				taken++
				event := got.Get("event_id").String()
				if event == "" {
					event = v.root
				}
				if why := v.harmed(event, all); why != "" {
					t.Errorf("after %s: %s", what, why)
					v = newVictims(w)
				}
			}
			together := func(what string) {
				t.Helper()
				if why := v.harmed(v.root, true); why != "" {
					t.Errorf("after %s: %s", what, why)
				}
				v.search()
				v = newVictims(w)
			}
			for _, name := range slices.Sorted(maps.Keys(poisons)) {
				p := poisons[name]
				for kind, content := range relating(p, v.root) {
					typ, _, _ := strings.Cut(kind, " ")
					try(fmt.Sprintf("%s with %s", kind, name), v.author, fleettest.RoomPath(v.room, "send", typ, v.transaction()), content, false)
				}
				together("all messages with " + name)
				for kind, content := range stating(p, v.author.ID) {
					typ, key, _ := strings.Cut(kind, "/")
					try(fmt.Sprintf("%s with %s", kind, name), v.author, fleettest.RoomPath(v.room, "state", typ, key), content, true)
				}
				for i := range settings(v.reader, v.room, p) {
					s := settings(v.reader, v.room, p)[i]
					try(fmt.Sprintf("%s with %s", s.what, name), v.reader, s.path, s.body, false)
				}
				together("all settings with " + name)
			}
			t.Logf("%d were taken, %d refused", taken, refused)
			if taken < 500 {
				t.Errorf("expected most to be taken")
			}
		})
	}
}
