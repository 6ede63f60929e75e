package push

import (
	"net/url"
	"testing"

	"lyceum/rooms/roomstest"
)

// Clients compare the actions of a rule with those that they set, for example to find out whether a room is muted.
func TestRulesAreFoundAsTheyWereSet(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob", "carol")
		bob, rules := n.HTTP.As("bob"), roomstest.API+"/pushrules"
		rule := rules + "/global/room/" + url.PathEscape(room)
		n.Say(t, "alice", room, "one")
		n.wantUnread(t, "bob", room, 1, 0)
		bob.Want(200, "PUT "+rule, obj{"actions": []string{"dont_notify"}})
		n.wantUnread(t, "bob", room, 0, 0)
		asData := roomstest.API + "/user/@bob:here.test/account_data/m.push_rules"
		for path, key := range map[string]string{
			rule: "actions", rule + "/actions": "actions", rules + "/": "global.room.0.actions", asData: "global.room.0.actions",
		} {
			if got := bob.Want(200, "GET "+path, nil); got.Get(key).Raw != `["dont_notify"]` {
				t.Errorf("GET %s: found %s", path, got.Body)
			}
		}
		bob.Want(200, "PUT "+rule+"/actions", obj{"actions": []string{"coalesce"}})
		n.wantUnread(t, "bob", room, 1, 0)
		if got := bob.Want(200, "GET "+rule, nil); got.Get("actions").Raw != `["coalesce"]` {
			t.Errorf("found %s", got.Body)
		}
	})
}

// Clients choose the ids of rules, and ask for paths with and without a slash at the end.
func TestPathsOfRules(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		bob, rules := n.HTTP.As("bob"), roomstest.API+"/pushrules"
		alias := url.PathEscape("#a:example.com")
		bob.Want(200, "PUT "+rules+"/global/room/"+alias, obj{"actions": []string{"notify"}})
		bob.Want(200, "PUT "+rules+"/global/sender/anybody", obj{"actions": []string{"notify"}})
		for path, key := range map[string]string{
			"": "global.room.0.rule_id", "/": "global.room.0.rule_id", "/global": "room.0.rule_id", "/global/": "room.0.rule_id",
			"/global/room": "0.rule_id", "/global/room/": "0.rule_id", "/global/room/" + alias: "rule_id",
			"/global/room/" + alias + "/rule_id": "rule_id",
		} {
			if got := bob.Want(200, "GET "+rules+path, nil); got.Get(key).String() != "#a:example.com" {
				t.Errorf("GET %s: found %s", path, got.Body)
			}
		}
		if got := bob.Want(200, "GET "+rules+"/global/override/.m.rule.master/default", nil); !got.Get("default").Bool() {
			t.Errorf("found %s", got.Body)
		}
		for _, c := range []struct {
			method, path string
			status       int
			code         string
		}{
			{"GET", "/device/", 400, "M_UNRECOGNIZED"},
			{"GET", "/device/x/room/y", 400, "M_UNRECOGNIZED"},
			{"GET", "/other", 400, "M_UNRECOGNIZED"},
			{"GET", "/global/other/", 400, "M_UNRECOGNIZED"},
			{"GET", "/global/other/x", 400, "M_UNRECOGNIZED"},
			{"GET", "/global/room/" + alias + "/pattern", 400, "M_UNRECOGNIZED"},
			{"GET", "/global/room/" + alias + "/actions/more", 400, "M_UNRECOGNIZED"},
			{"GET", "/global/room/unknown", 404, "M_NOT_FOUND"},
			{"GET", "/global/room/unknown/pattern", 404, "M_NOT_FOUND"},
			{"PUT", "/device/x/room/y", 400, "M_UNRECOGNIZED"},
			{"PUT", "/global/other/x", 400, "M_INVALID_PARAM"},
			{"PUT", "/global/other/x/enabled", 400, "M_UNRECOGNIZED"},
			{"PUT", "/global/room", 400, "M_UNRECOGNIZED"},
			{"PUT", "/global/room/", 400, "M_UNRECOGNIZED"},
			{"PUT", "/global/room/" + alias + "/other", 400, "M_UNRECOGNIZED"},
			{"DELETE", "/global/other/x", 400, "M_UNRECOGNIZED"},
			{"DELETE", "/global/room/" + alias + "/enabled", 400, "M_UNRECOGNIZED"},
		} {
			body := any(obj{"enabled": true, "actions": []string{}})
			if c.method != "PUT" {
				body = nil
			}
			if got := bob.Call(c.method+" "+rules+c.path, body); got.Status != c.status || got.Errcode() != c.code {
				t.Errorf("%s %s: found %d %s", c.method, c.path, got.Status, got.Body)
			}
		}
	})
}
