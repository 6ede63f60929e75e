package accounts

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// TestARepeatedRegistrationGivesNoNewToken: it gives the tokens that it gave before, while they are valid and nothing about the
// account has changed. After that it is a registration that has to begin again.
func TestARepeatedRegistrationGivesNoNewToken(t *testing.T) {
	yes, no := true, false
	const register, password = client + "/register", client + "/account/password"
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		for name, change := range map[string]func(u answer) error{
			"log-out": func(u answer) error {
				one.do("POST", client+"/logout", u.text("access_token"), obj{}).want(200)
				return nil
			},
			"log-out of all": func(u answer) error {
				one.do("POST", client+"/logout/all", u.text("access_token"), obj{}).want(200)
				return nil
			},
			"a removed device": func(u answer) error {
				return one.RemoveDevices(t.Context(), u.text("user_id"), "", []string{u.text("device_id")})
			},
			"another password, from this device": func(u answer) error {
				body := obj{"new_password": "battery staple"}
				session := one.do("POST", password, u.text("access_token"), body).want(401).text("session")
				one.do("POST", password, u.text("access_token"), withSession(body, session, obj{
					"type": "m.login.password", "user": u.text("user_id"), "password": "correct horse",
				})).want(200)
				one.whoamiWith(u.text("access_token")).want(200)
				return nil
			},
			"another password, without log-outs": func(u answer) error {
				return one.SetPassword(t.Context(), u.text("user_id"), "battery staple", false, "")
			},
			"the end of the account": func(u answer) error { return one.Deactivate(t.Context(), u.text("user_id"), false) },
			"a lock":                 func(u answer) error { return one.SetRights(t.Context(), u.text("user_id"), Rights{Locked: &yes}) },
			"a lock that ended": func(u answer) error {
				if err := one.SetRights(t.Context(), u.text("user_id"), Rights{Locked: &yes}); err != nil {
					return err
				}
				return one.SetRights(t.Context(), u.text("user_id"), Rights{Locked: &no})
			},
			"a suspension":     func(u answer) error { return one.SetRights(t.Context(), u.text("user_id"), Rights{Suspended: &yes}) },
			"an administrator": func(u answer) error { return one.makeAdmin(u.text("user_id")) },
			"a new log-in of the device": func(u answer) error {
				one.login(u.text("user_id"), "correct horse", obj{"device_id": u.text("device_id")}).want(200)
				return nil
			},
			"a token that replaces it": func(u answer) error {
				next := one.do("POST", client+"/refresh", "", obj{"refresh_token": u.text("refresh_token")}).want(200)
				one.whoamiWith(next.text("access_token")).want(200)
				return nil
			},
		} {
			body := obj{"password": "correct horse", "refresh_token": true}
			session := one.do("POST", register, "", body).want(401).text("session")
			all := withSession(body, session, obj{"type": "m.login.dummy"})
			user := one.do("POST", register, "", all).want(200)
			if again := two.do("POST", register, "", all).want(200); again.raw != user.raw {
				t.Errorf("%s: found %s and %s", name, user.raw, again.raw)
			}
			if err := change(user); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, n := range []*node{one, two} {
				x := n.do("POST", register, "", all)
				if x.status != 401 || x.text("access_token") != "" || x.text("session") == "" || !strings.Contains(x.text("error"), "begin again") {
					t.Errorf("%s: the repeated request got %d %s", name, x.status, x.raw)
				}
			}
		}
	})
}

// TestARepeatedUpgradeGivesNoNewToken: of a guest.
func TestARepeatedUpgradeGivesNoNewToken(t *testing.T) {
	c := testConfig()
	c.Guests = true
	run(t, c, func(t *testing.T, n *node) {
		guest := n.do("POST", client+"/register?kind=guest", "", obj{}).want(200)
		id := guest.text("user_id")
		body := obj{
			"username": strings.TrimPrefix(strings.TrimSuffix(id, ":here.test"), "@"), "password": "correct horse",
			"guest_access_token": guest.text("access_token"),
		}
		session := n.do("POST", client+"/register", "", body).want(401).text("session")
		all := withSession(body, session, obj{"type": "m.login.dummy"})
		user := n.do("POST", client+"/register", "", all).want(200)
		if again := n.do("POST", client+"/register", "", all).want(200); again.raw != user.raw {
			t.Errorf("found %s and %s", user.raw, again.raw)
		}
		if err := n.makeAdmin(id); err != nil {
			t.Fatal(err)
		}
		n.do("POST", client+"/register", "", all).want(401)
	})
}

// TestASessionThatIsOverIsSaidToBeOver: whatever else the request lacks.
func TestASessionThatIsOverIsSaidToBeOver(t *testing.T) {
	run(t, termsConfig(), func(t *testing.T, n *node) {
		over := func(what string, x answer) {
			t.Helper()
			if x.status != 401 || !strings.Contains(x.text("error"), "has run out") || x.text("session") == "" || x.body["flows"] == nil {
				t.Errorf("%s: found %d %s", what, x.status, x.raw)
			}
		}
		begin := func(name, token string) string {
			t.Helper()
			if _, err := n.CreateRegistrationToken(t.Context(), RegistrationToken{Token: token, UsesAllowed: 1}); err != nil {
				t.Fatal(err)
			}
			session := n.do("POST", client+"/register", "", obj{"username": name, "password": "correct horse"}).want(401).text("session")
			n.do("POST", client+"/register", "", withSession(nil, session, obj{"type": stageToken, "token": token})).want(401)
			return session
		}
		terms := obj{"type": stageTerms}
		session := begin("alice", "revoked")
		if removed, err := n.DeleteRegistrationToken(t.Context(), "revoked"); err != nil || !removed {
			t.Fatal(removed, err)
		}
		over("its token was revoked", n.do("POST", client+"/register", "", withSession(nil, session, terms)))
		over("and the name alone", n.do("POST", client+"/register", "", withSession(obj{"username": "alice"}, session, terms)))
		session = begin("bob", "late")
		n.clock.forward(n.config.InteractiveTimeout.D() + time.Second)
		over("it has run out", n.do("POST", client+"/register", "", withSession(nil, session, terms)))
		over("it never was", n.do("POST", client+"/register", "", withSession(nil, "invented", terms)))

		if _, err := n.CreateUser(t.Context(), NewUser{Name: "carol", Password: "correct horse"}); err != nil {
			t.Fatal(err)
		}
		token := n.login("carol", "correct horse").want(200).text("access_token")
		proof := obj{"type": "m.login.password", "password": "correct horse"}
		session = n.do("POST", client+"/account/password", token, obj{"new_password": "battery staple"}).want(401).text("session")
		n.clock.forward(n.config.InteractiveTimeout.D() + time.Second)
		over("a password", n.do("POST", client+"/account/password", token, withSession(nil, session, proof)))
		over("an end", n.do("POST", client+"/account/deactivate", token, withSession(nil, session, proof)))
		n.login("carol", "correct horse").want(200)
	})
}

// TestAUseIsFreeWhenItsSessionRanOut: at once, not when housekeeping comes by.
func TestAUseIsFreeWhenItsSessionRanOut(t *testing.T) {
	run(t, termsConfig(), func(t *testing.T, n *node) {
		if _, err := n.CreateRegistrationToken(t.Context(), RegistrationToken{Token: "once", UsesAllowed: 1}); err != nil {
			t.Fatal(err)
		}
		begin := func(name string) string {
			t.Helper()
			session := n.do("POST", client+"/register", "", obj{"username": name, "password": "correct horse"}).want(401).text("session")
			n.do("POST", client+"/register", "", withSession(nil, session, obj{"type": stageToken, "token": "once"})).want(401)
			return session
		}
		is := func(valid bool, pending, completed int64) {
			t.Helper()
			found, err := n.TokenValid(t.Context(), "once")
			list, listErr := n.RegistrationTokens(t.Context())
			if err != nil || listErr != nil || found != valid || list[0].Pending != pending || list[0].Completed != completed {
				t.Errorf("valid %v, list %+v, %v, %v", found, list, err, listErr)
			}
		}
		n.do("POST", client+"/register", "", obj{}).want(401)
		first := begin("alice")
		is(false, 1, 0)
		n.clock.forward(n.config.InteractiveTimeout.D() + time.Second)
		is(true, 0, 0)
		second := begin("bob")
		is(false, 1, 0)
		n.do("POST", client+"/register", "", withSession(nil, first, obj{"type": stageTerms})).want(401)
		n.do("POST", client+"/register", "", withSession(nil, second, obj{"type": stageTerms})).want(200)
		is(false, 0, 1)
	})
}

// TestEqualRequestsAtOnceGetOneAnswer: also when they pass the last stage at the same moment, and when the one that does the work
// waits for those that the user has under way.
func TestEqualRequestsAtOnceGetOneAnswer(t *testing.T) {
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		if _, err := one.CreateRegistrationToken(t.Context(), RegistrationToken{Token: "all"}); err != nil {
			t.Fatal(err)
		}
		atOnce := func(what, path, token string, body obj) answer {
			t.Helper()
			began := time.Now()
			answers := make([]answer, 6)
			var wg sync.WaitGroup
			for i := range answers {
				wg.Go(func() { answers[i] = []*node{one, two}[i%2].do("POST", path, token, body) })
			}
			wg.Wait()
			for _, x := range answers {
				if x.status != 200 || x.raw != answers[0].raw {
					t.Errorf("%s: one got %d %s, one %d %s", what, answers[0].status, answers[0].raw, x.status, x.raw)
				}
			}
			if took := time.Since(began); took > underWayTimeout {
				t.Errorf("%s: it took %v", what, took)
			}
			return answers[0]
		}
		for range 5 {
			begun := obj{"password": "correct horse"}
			session := one.do("POST", client+"/register", "", begun).want(401).text("session")
			user := atOnce("auth alone", client+"/register", "", withSession(nil, session, obj{"type": stageToken, "token": "all"}))
			session = one.do("POST", client+"/register", "", begun).want(401).text("session")
			atOnce("all parameters", client+"/register", "", withSession(begun, session, obj{"type": stageToken, "token": "all"}))

			token := user.text("access_token")
			proof := obj{"type": "m.login.password", "password": "correct horse"}
			begun = obj{"new_password": "battery staple"}
			session = one.do("POST", client+"/account/password", token, begun).want(401).text("session")
			atOnce("a password, auth alone", client+"/account/password", token, withSession(nil, session, proof))
			proof["password"] = "battery staple"
			begun = obj{"new_password": "third horse"}
			session = one.do("POST", client+"/account/password", token, begun).want(401).text("session")
			atOnce("a password", client+"/account/password", token, withSession(begun, session, proof))
		}
		if pending, completed := one.uses("all"); pending != 0 || completed != 10 {
			t.Errorf("%d uses are held, %d completed", pending, completed)
		}
	})
}
