package accounts

import (
	"errors"
	"strings"
	"testing"
)

func TestGuests(t *testing.T) {
	c := testConfig()
	run(t, c, func(t *testing.T, n *node) {
		n.do("POST", client+"/register?kind=guest", "", obj{}).want(403, "M_GUEST_ACCESS_FORBIDDEN")
	})
	c.Guests, c.DefaultDisplayName = true, true
	fleet(t, c, func(t *testing.T, one, two *node) {
		const register, versions = client + "/register", client + "/capabilities"
		guest := one.do("POST", register+"?kind=guest", "", obj{"initial_device_display_name": "browser", "device_id": "MINE"}).want(200)
		id, token := guest.text("user_id"), guest.text("access_token")
		if x := two.whoamiWith(token).want(200); x.body["is_guest"] != true || x.text("user_id") != id || x.text("device_id") == "MINE" {
			t.Errorf("found %s", x.raw)
		}
		profile := client + "/profile/" + id
		two.do("GET", versions, token, nil).want(200)
		two.do("PUT", profile+"/displayname", token, obj{"displayname": "Visitor"}).want(200)
		two.do("PUT", profile+"/avatar_url", token, obj{"avatar_url": "mxc://a/b"}).want(403, "M_GUEST_ACCESS_FORBIDDEN")
		two.do("DELETE", profile+"/displayname", token, nil).want(403, "M_GUEST_ACCESS_FORBIDDEN")
		one.do("PUT", client+"/user/"+id+"/account_data/a.b", token, obj{}).want(403, "M_GUEST_ACCESS_FORBIDDEN")
		one.do("POST", client+"/account/password", token, obj{}).want(403, "M_GUEST_ACCESS_FORBIDDEN")
		one.login(id, "").want(403, "M_FORBIDDEN")
		if u, err := one.User(t.Context(), id); err != nil || !u.Guest {
			t.Errorf("found %+v, %v", u, err)
		}

		// A guest becomes a user, with the same id, at each process at once.
		local := strings.TrimPrefix(strings.TrimSuffix(id, ":here.test"), "@")
		body := obj{"username": local, "password": "correct horse", "auth": obj{"type": "m.login.dummy"}}
		two.do("POST", register, "", body).want(400, "M_USER_IN_USE")
		body["guest_access_token"] = token
		other := one.do("POST", register+"?kind=guest", "", obj{}).want(200)
		two.do("POST", register, "", obj{
			"username": local, "password": "correct horse", "auth": body["auth"],
			"guest_access_token": other.text("access_token"),
		}).
			want(403, "M_FORBIDDEN")
		two.do("POST", register, "", obj{"username": "another", "password": "correct horse", "auth": body["auth"], "guest_access_token": token}).
			want(403, "M_FORBIDDEN")
		user := two.do("POST", register, "", body).want(200)
		if user.text("user_id") != id || user.text("access_token") == token {
			t.Errorf("found %s", user.raw)
		}
		for _, n := range []*node{one, two} {
			for _, of := range []string{token, user.text("access_token")} {
				if x := n.whoamiWith(of).want(200); x.body["is_guest"] != nil {
					t.Errorf("found %s", x.raw)
				}
			}
		}
		one.do("PUT", client+"/user/"+id+"/account_data/a.b", token, obj{"n": 1}).want(200)
		if x := one.do("GET", profile, "", nil).want(200); x.text("displayname") != "Visitor" {
			t.Errorf("found %s", x.raw)
		}
		one.login(id, "correct horse").want(200)
		two.do("POST", register, "", body).want(403, "M_FORBIDDEN")

		// A log-out that was under way while the guest became a user ends no account.
		if done, err := one.logoutGuest(t.Context(), id); done || err != nil {
			t.Errorf("found %v, %v", done, err)
		}
		for _, of := range []string{token, user.text("access_token")} {
			two.whoamiWith(of).want(200)
		}
		two.login(id, "correct horse").want(200)

		// A registration token is used by the upgrade.
		if _, err := one.CreateRegistrationToken(t.Context(), RegistrationToken{Token: "once", UsesAllowed: 1, Admin: true}); err != nil {
			t.Fatal(err)
		}
		id = other.text("user_id")
		body = obj{
			"username": strings.TrimPrefix(strings.TrimSuffix(id, ":here.test"), "@"), "password": "correct horse",
			"guest_access_token": other.text("access_token"),
		}
		session := one.do("POST", register, "", body).want(401).text("session")
		whole := withSession(body, session, obj{"type": stageToken, "token": "once"})
		user = two.do("POST", register, "", whole).want(200)
		if again := one.do("POST", register, "", whole).want(200); again.raw != user.raw {
			t.Errorf("found %s and %s", user.raw, again.raw)
		}
		if pending, completed := one.uses("once"); pending != 0 || completed != 1 {
			t.Errorf("%d uses are held, %d completed", pending, completed)
		}
		if u, err := one.User(t.Context(), id); err != nil || !u.Admin {
			t.Errorf("the token did not make an administrator: %v", err)
		}

		// Who logs out can not come back: the account ends.
		guest = one.do("POST", register+"?kind=guest", "", obj{}).want(200)
		two.do("POST", client+"/logout", guest.text("access_token"), obj{}).want(200)
		one.whoamiWith(guest.text("access_token")).want(401, "M_UNKNOWN_TOKEN")
		if u, err := one.User(t.Context(), guest.text("user_id")); err != nil || !u.Deactivated {
			t.Errorf("found %+v, %v", u, err)
		}
	})
}

// TestGuestsOfAnEarlierTime: where guests are not let in any more, those of before may log out or become users, and nothing else.
func TestGuestsOfAnEarlierTime(t *testing.T) {
	c := testConfig()
	c.Guests = true
	fleet(t, c, func(t *testing.T, one, two *node) {
		guest := one.do("POST", client+"/register?kind=guest", "", obj{}).want(200)
		other := one.do("POST", client+"/register?kind=guest", "", obj{}).want(200)
		two.whoamiWith(guest.text("access_token")).want(200)
		if err := one.makeAdmin(guest.text("user_id")); !errors.Is(err, errGuest) {
			t.Errorf("a guest is an administrator: %v", err)
		}
		if err := one.SetPassword(t.Context(), guest.text("user_id"), "correct horse", true, ""); !errors.Is(err, errGuest) {
			t.Errorf("a guest has a password: %v", err)
		}
		one.config.Guests, two.config.Guests = false, false
		for _, n := range []*node{one, two} {
			n.whoamiWith(guest.text("access_token")).want(403, "M_GUEST_ACCESS_FORBIDDEN")
			n.do("PUT", client+"/profile/"+guest.text("user_id")+"/displayname", guest.text("access_token"), obj{"displayname": "Visitor"}).
				want(403, "M_GUEST_ACCESS_FORBIDDEN")
		}
		user := two.do("POST", client+"/register", "", obj{
			"username": strings.TrimPrefix(strings.TrimSuffix(guest.text("user_id"), ":here.test"), "@"), "password": "correct horse",
			"guest_access_token": guest.text("access_token"), "auth": obj{"type": "m.login.dummy"},
		}).want(200)
		one.whoamiWith(user.text("access_token")).want(200)
		one.whoamiWith(guest.text("access_token")).want(200)
		one.do("POST", client+"/logout", other.text("access_token"), obj{}).want(200)
		if u, err := one.User(t.Context(), other.text("user_id")); err != nil || !u.Deactivated {
			t.Errorf("found %+v, %v", u, err)
		}
	})
}
