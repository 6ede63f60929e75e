package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/accounts"
	"lyceum/matrix/event"
	"lyceum/platform/bus"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
)

// waysToInvite are all requests that make an invite.
func waysToInvite(room, user string, n int) map[string]struct {
	target string
	body   any
} {
	type way = struct {
		target string
		body   any
	}
	create := "POST /_matrix/client/v3/createRoom"
	return map[string]way{
		"invite": {at("POST", room, "invite"), obj{"user_id": user, "reason": fmt.Sprint(n)}},
		"state":  {at("PUT", room, "state/m.room.member/"+esc(user)), obj{"membership": "invite", "reason": fmt.Sprint(n)}},
		"create": {create, obj{"invite": []string{user}}},
		"create, state": {
			create,
			obj{"initial_state": []obj{{"type": "m.room.member", "state_key": user, "content": obj{"membership": "invite"}}}},
		},
		"create, two cases": {
			create,
			obj{"initial_state": []obj{{"type": "m.room.member", "state_key": user, "content": obj{"Membership": "ban", "membership": "invite"}}}},
		},
		"create, direct":     {create, obj{"invite": []string{user}, "is_direct": true, "preset": "trusted_private_chat"}},
		"create, version 10": {create, obj{"invite": []string{user}, "room_version": "10"}},
	}
}

// TestNobodyInvitesADeactivatedUser: no invite of such a user is stored that the deactivation does not refuse.
func TestNobodyInvitesADeactivatedUser(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		users := map[string]string{}
		for name := range waysToInvite("", "", 0) {
			user, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: fmt.Sprint("user", len(users))})
			if err != nil {
				t.Fatal(err)
			}
			users[name] = user
		}
		room, deactivate := h.alice.create(nil), ""
		h.meanwhile(func() {
			if deactivate == "" {
				return
			}
			if err := h.Accounts.Deactivate(context.Background(), deactivate, false); err != nil {
				t.Error(err)
			}
			deactivate = ""
		})
		for _, when := range []string{"at the same moment", "before"} {
			for name, user := range users {
				if when != "before" {
					deactivate = user
				}
				way := waysToInvite(room, user, 0)[name]
				if a := h.alice.Call(way.target, way.body); a.Status != 403 || a.Errcode() != "M_FORBIDDEN" ||
					!strings.Contains(string(a.Body), "deactivated") {
					t.Errorf("%s, deactivated %s: %d %s", name, when, a.Status, a.Body)
				}
				if all, err := h.Memberships(t.Context(), user); err != nil || len(all) != 0 {
					t.Errorf("%s: the user was invited: %v, %v", name, all, err)
				}
			}
		}
		for name, way := range waysToInvite(room, "@nobody:"+server, 0) {
			if a := h.alice.Call(way.target, way.body); a.Status != 200 {
				t.Errorf("%s: a user who is not known: %d %s", name, a.Status, a.Body)
			}
		}
	})
}

// TestADeactivationRefusesInvites: also those that were taken while it began.
func TestADeactivationRefusesInvites(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		user, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		knocked := h.alice.create(obj{"initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}}}})
		h.bob.Want(200, "POST /_matrix/client/v3/knock/"+esc(knocked), obj{})
		room := h.alice.create(nil)
		ways := slices.Collect(maps.Values(waysToInvite(room, user, 0)))
		roletest.AtOnce(2*len(ways)+1, func(i int) {
			if i == 2*len(ways) {
				if err := errors.Join(h.Accounts.Deactivate(t.Context(), user, false), h.UserDeactivated(t.Context(), user, false)); err != nil {
					t.Error(err)
				}
				return
			}
			way := ways[i/2]
			if a := h.alice.Call(way.target, way.body); a.Status != 200 && a.Status != 403 {
				t.Errorf("%s: %d %s", way.target, a.Status, a.Body)
			}
		})
		all, err := h.Memberships(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m.Membership != event.MembershipLeave {
				t.Errorf("the membership of %s is %s", m.RoomID, m.Membership)
			}
		}
	})
}

func TestEveryInviteMayBeBlocked(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(nil)
		err := h.Accounts.PutAccountData(
			context.Background(),
			h.bob.id,
			"",
			"m.invite_permission_config",
			json.RawMessage(`{"default_action":"block"}`),
		)
		if err != nil {
			t.Fatal(err)
		}
		for name, way := range waysToInvite(id, h.bob.id, 0) {
			if a := h.alice.Call(way.target, way.body); a.Status != 403 || a.Errcode() != "M_INVITE_BLOCKED" {
				t.Errorf("%s: expected M_INVITE_BLOCKED, found %d %s", name, a.Status, a.Body)
			}
		}
		all, err := h.Memberships(context.Background(), h.bob.id)
		if err != nil || len(all) != 0 {
			t.Errorf("bob was invited: %v, %v", all, err)
		}
	})
}

// TestEveryInviteTakesTheLimit invites until nothing is left, in every way.
func TestEveryInviteTakesTheLimit(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		type way = struct {
			target string
			body   any
		}
		ways := func(room string, n int) map[string]way {
			user := fmt.Sprintf("@nobody%d:%s", n, server)
			content := obj{"display_name": "n...@example.org", "public_key": "x", "key_validity_url": "https://x.example/"}
			all := map[string]way{
				"third party": {at("PUT", room, fmt.Sprint("state/m.room.third_party_invite/", n)), content},
				"create, third party": {
					"POST /_matrix/client/v3/createRoom",
					obj{"initial_state": []obj{{"type": "m.room.third_party_invite", "state_key": "x", "content": content}}},
				},
			}
			for name, w := range waysToInvite(room, user, n) {
				all[name] = w
			}
			return all
		}
		for name := range ways("", 0) {
			limited, err := web.New(web.Options{
				Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Limits: bus.NewLocalLimits(),
				Authenticator: webtest.People{"alice": {UserID: h.alice.id, DeviceID: "ALICE"}},
				Config: web.Config{RateLimits: map[string]web.RateLimit{
					"invite": {PerSecond: 0.001, Burst: 4}, "create": {}, "message": {},
				}},
			})
			if err != nil {
				t.Fatal(err)
			}
			limited.Add(h.Routes()...)
			call := func(target string, body any) (int, string) {
				text, err := json.Marshal(body)
				if err != nil {
					t.Fatal(err)
				}
				method, path, _ := strings.Cut(target, " ")
				r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(string(text)))
				r.Header.Set("Authorization", "Bearer alice")
				w := httptest.NewRecorder()
				limited.Handler().ServeHTTP(w, r)
				return w.Code, gjson.Get(w.Body.String(), "errcode").String()
			}
			id := h.alice.create(nil)
			for n := range 5 {
				way := ways(id, n)[name]
				status, code := call(way.target, way.body)
				if want := map[bool]int{true: 200, false: 429}[n < 4]; status != want {
					t.Errorf("%s: invite %d of a burst of 4: expected %d, found %d %s", name, n+1, want, status, code)
				}
			}
		}
	})
}

// TestThirdPartyInvitesAreSmall: any member may send them, and all have to carry them.
func TestThirdPartyInvitesAreSmall(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		id := h.alice.create(obj{"preset": "public_chat"})
		h.bob.join(id)
		content := func(n int) obj {
			return obj{
				"display_name":     strings.Repeat("x", n),
				"key_validity_url": "https://x.example/",
				"public_key":       "x",
				"public_keys":      []obj{{"public_key": "x"}},
			}
		}
		small, large := content(7<<10), content(8<<10)
		list := func(c obj) obj {
			return obj{"initial_state": []obj{{"type": "m.room.third_party_invite", "state_key": "x", "content": c}}}
		}
		h.bob.Want(200, at("PUT", id, "state/m.room.third_party_invite/x"), small)
		h.bob.refused(413, "M_TOO_LARGE", at("PUT", id, "state/m.room.third_party_invite/y"), large)
		h.alice.create(list(small))
		h.alice.refused(413, "M_TOO_LARGE", "POST /_matrix/client/v3/createRoom", list(large))
		var many []obj
		for n := range 101 { // the test's limit is 100
			many = append(many, obj{"type": "m.room.third_party_invite", "state_key": fmt.Sprint(n), "content": obj{}})
		}
		h.alice.refused(400, "M_INVALID_PARAM", "POST /_matrix/client/v3/createRoom", obj{"initial_state": many})
	})
}

// TestManyInvitesAtOnce holds that a room with many people can be made, and that nobody does it again and again.
func TestManyInvitesAtOnce(t *testing.T) {
	for name, steps := range map[string][]struct{ n, status int }{
		"few":              {{0, 200}, {2, 200}, {2, 200}, {1, 429}, {100, 429}},
		"more than burst":  {{100, 200}, {1, 429}},
		"not when touched": {{1, 200}, {100, 429}, {3, 200}},
	} {
		s, err := web.New(web.Options{
			Log: slog.New(
				slog.NewTextHandler(t.Output(), nil),
			), Limits: bus.NewLocalLimits(), Authenticator: webtest.People{"alice": {UserID: "@alice:x"}},
			Config: web.Config{RateLimits: map[string]web.RateLimit{"invite": {PerSecond: 0.001, Burst: 4}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		s.Add(web.Route{Pattern: "GET /x", Auth: web.User, Handler: func(r *web.Request) (any, error) { return nil, r.Take("invite", n) }})
		for i, step := range steps {
			n = step.n
			r := httptest.NewRequestWithContext(t.Context(), "GET", "/x", nil)
			r.Header.Set("Authorization", "Bearer alice")
			w := httptest.NewRecorder()
			if s.Handler().ServeHTTP(w, r); w.Code != step.status {
				t.Errorf("%s, step %d: %d uses: expected %d, found %d", name, i, step.n, step.status, w.Code)
			}
		}
	}
}

func TestTooManyPeopleAtOnce(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		var list, states []obj
		for n := range 101 { // the test's limit is 100
			user := fmt.Sprintf("@nobody%d:%s", n, server)
			list = append(list, obj{"type": "m.room.member", "state_key": user, "content": obj{"membership": "invite"}})
		}
		h.alice.refused(400, "M_INVALID_PARAM", "POST /_matrix/client/v3/createRoom", obj{"initial_state": list})
		for n := range maxInitialState + 1 {
			states = append(states, obj{"type": "x.y", "state_key": fmt.Sprint(n), "content": obj{}})
		}
		h.alice.refused(400, "M_INVALID_PARAM", "POST /_matrix/client/v3/createRoom", obj{"initial_state": states})
		h.alice.refused(
			400,
			"M_BAD_JSON",
			"POST /_matrix/client/v3/createRoom",
			obj{"initial_state": []obj{{"type": "m.room.member", "state_key": "@x:y", "content": obj{}}}},
		)
	})
}
