package syncapi

import (
	"net/url"
	"strings"
	"testing"

	"lyceum/accounts"
)

// TestErasedContentIsHidden: the events of a user who deactivated the account with erase are shown redacted to users who
// were not members when they were sent, and unchanged to users who were, by every endpoint that returns events.
func TestErasedContentIsHidden(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		if _, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: "carol"}); err != nil {
			t.Fatal(err)
		}
		alice, bob, carol := h.http.As("alice"), h.http.As("bob"), h.http.As("carol")
		room := alice.Want(200, "POST "+api+"/createRoom", obj{
			"preset":                       "public_chat",
			"power_level_content_override": obj{"users": obj{id("alice"): 100, id("carol"): 100}}, "room_version": "11",
		}).
			Get("room_id").
			String()
		at := api + "/rooms/" + url.PathEscape(room)
		put := func(path string, content obj) string {
			t.Helper()
			return carol.Want(200, "PUT "+at+path, content).Get("event_id").String()
		}
		carol.Want(200, "POST "+at+"/join", obj{})
		put("/state/m.room.member/"+id("carol"), obj{"membership": "join", "displayname": "secret name"})
		put("/state/m.room.topic", obj{"topic": "secret topic"})
		said := put("/send/m.room.message/1", obj{"msgtype": "m.text", "body": "secret words"})
		put(
			"/send/m.room.message/2",
			obj{
				"msgtype":       "m.text",
				"body":          "* secret edit",
				"m.new_content": obj{"msgtype": "m.text", "body": "secret edit"},
				"m.relates_to":  obj{"rel_type": "m.replace", "event_id": said},
			},
		)
		root := alice.Want(200, "PUT "+at+"/send/m.room.message/3", obj{"msgtype": "m.text", "body": "open"}).Get("event_id").String()
		reply := put(
			"/send/m.room.message/4",
			obj{"msgtype": "m.text", "body": "secret reply", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}},
		)
		own := put("/send/m.room.message/5", obj{"msgtype": "m.text", "body": "secret root"})
		alice.Want(
			200,
			"PUT "+at+"/send/m.room.message/6",
			obj{"msgtype": "m.text", "body": "open too", "m.relates_to": obj{"rel_type": "m.thread", "event_id": own}},
		)
		alice.Want(200, "PUT "+at+"/state/m.room.topic", obj{"topic": "open topic"})

		since := bob.Want(200, "GET "+api+"/sync", nil).Get("next_batch").String()
		if err := h.Accounts.Deactivate(t.Context(), id("carol"), true); err != nil {
			t.Fatal(err)
		}
		if err := h.Rooms.UserDeactivated(t.Context(), id("carol"), true); err != nil {
			t.Fatal(err)
		}
		bob.Want(200, "POST "+at+"/join", obj{})
		all := url.QueryEscape(`{"room":{"timeline":{"limit":50}}}`)
		ways := map[string]string{
			"sync":          api + "/sync?filter=" + all,
			"later sync":    api + "/sync?since=" + since + "&filter=" + all,
			"messages":      at + "/messages?dir=b&limit=50",
			"messages on":   at + "/messages?dir=f&limit=50",
			"event":         at + "/event/" + url.PathEscape(said),
			"reply":         at + "/event/" + url.PathEscape(reply),
			"own root":      at + "/event/" + url.PathEscape(own),
			"context":       at + "/context/" + url.PathEscape(root) + "?limit=50",
			"context of it": at + "/context/" + url.PathEscape(said),
			"bundled":       at + "/event/" + url.PathEscape(root),
			"relations":     "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/relations/" + url.PathEscape(root),
			"edits":         "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/relations/" + url.PathEscape(said),
			"threads":       "/_matrix/client/v1/rooms/" + url.PathEscape(room) + "/threads",
			"state":         at + "/state",
			"members":       at + "/members",
		}
		for name, path := range ways {
			got := string(bob.Want(200, "GET "+path, nil).Body)
			if strings.Contains(got, "secret") {
				t.Errorf("%s shows a stranger what was erased:\n%s", name, got)
			}
			if name != "state" && name != "members" && !strings.Contains(got, id("carol")) {
				t.Errorf("%s leaves the events out:\n%s", name, got)
			}
			if name == "state" || name == "members" || name == "later sync" {
				continue
			}
			if got := string(alice.Want(200, "GET "+path, nil).Body); !strings.Contains(got, "secret") {
				t.Errorf("%s hides from one who was there:\n%s", name, got)
			}
		}
	})
}
