package accounts

import (
	"strings"
	"sync"
	"testing"
	"time"

	"lyceum/platform/db/dbfault"
	"lyceum/platform/role/roletest"
)

func withSession(body obj, session string, more ...obj) obj {
	auth := obj{"session": session}
	for _, m := range more {
		for k, v := range m {
			auth[k] = v
		}
	}
	out := obj{"auth": auth}
	for k, v := range body {
		out[k] = v
	}
	return out
}

// TestParametersAreRemembered: a client may send the parameters once and then auth alone.
func TestParametersAreRemembered(t *testing.T) {
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		const register, password, deactivate = client + "/register", client + "/account/password", client + "/account/deactivate"
		dummy := obj{"type": "m.login.dummy"}
		first := obj{"username": "alice", "password": "correct horse", "device_id": "PHONE", "initial_device_display_name": "phone"}
		session := one.do("POST", register, "", first).want(401).text("session")
		var kept int
		err := one.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM interactive_sessions WHERE body LIKE '%horse%' OR body LIKE '%alice%'
			OR body = ''`).
			Scan(&kept)
		if err != nil || kept != 0 {
			t.Errorf("what was remembered of %d sessions is not there or readable: %v", kept, err)
		}
		alice := two.do("POST", register, "", withSession(nil, session, dummy)).want(200)
		if alice.text("user_id") != "@alice:here.test" || alice.text("device_id") != "PHONE" {
			t.Errorf("found %s", alice.raw)
		}
		one.login("alice", "correct horse").want(200)

		// A later request of a registration changes what it names; the rest stays.
		session = one.do("POST", register, "", obj{"username": "bib", "password": "correct horse"}).want(401).text("session")
		two.do("POST", register, "", withSession(obj{"username": "bob"}, session)).want(401)
		if bob := one.do("POST", register, "", withSession(nil, session, dummy)).want(200); bob.text("user_id") != "@bob:here.test" {
			t.Errorf("found %s", bob.raw)
		}
		two.login("bob", "correct horse").want(200)

		// The same for what a user confirms; there the parameters stay what they were.
		token := alice.text("access_token")
		proof := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": "correct horse"}
		session = one.do("POST", password, token, obj{"new_password": "battery staple", "logout_devices": false}).want(401).text("session")
		two.do("POST", password, token, withSession(obj{"new_password": "another staple"}, session, proof)).want(401)
		two.do("POST", password, token, withSession(nil, session, proof)).want(200)
		one.login("alice", "battery staple").want(200)
		proof["password"] = "battery staple"
		session = one.do("POST", deactivate, token, obj{"erase": true}).want(401).text("session")
		two.do("POST", password, token, withSession(nil, session, proof)).want(401) // it was for something else
		two.do("POST", deactivate, token, withSession(nil, session, proof)).want(200)
		if erased, err := one.Erased(t.Context(), []string{"@alice:here.test"}); err != nil || !erased["@alice:here.test"] {
			t.Errorf("the account was not erased: %v", err)
		}
	})
}

// TestALostAnswerIsGivenAgain: to who repeats the request, and to nobody else.
func TestALostAnswerIsGivenAgain(t *testing.T) {
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		const register, password = client + "/register", client + "/account/password"
		body := obj{"password": "correct horse"}
		session := one.do("POST", register, "", body).want(401).text("session")
		whole := withSession(body, session, obj{"type": "m.login.dummy"})
		alice := one.do("POST", register, "", whole).want(200)
		for _, n := range []*node{one, two} {
			if again := n.do("POST", register, "", whole).want(200); again.raw != alice.raw {
				t.Errorf("the answer was %s and then %s", alice.raw, again.raw)
			}
		}
		if users := one.count(`SELECT COUNT(*) FROM users`); users != 1 {
			t.Errorf("%d users were made", users)
		}
		token := alice.text("access_token")
		for what, other := range map[string]obj{
			"the session alone":  withSession(nil, session),
			"the session, dummy": withSession(nil, session, obj{"type": "m.login.dummy"}),
			"another password":   withSession(obj{"password": "correct house"}, session, obj{"type": "m.login.dummy"}),
		} {
			if x := two.do("POST", register, "", other); x.status == 200 || strings.Contains(x.raw, token) {
				t.Errorf("who knows the session and sends %s gets %d %s", what, x.status, x.raw)
			}
		}
		var kept int
		if err := one.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM interactive_sessions
			WHERE answer LIKE '%`+token[:8]+`%'`).Scan(&kept); err != nil ||
			kept != 0 {
			t.Errorf("an answer is kept readable: %d, %v", kept, err)
		}

		// What was confirmed is not done again.
		change := withSession(obj{"new_password": "battery staple", "logout_devices": false},
			one.do("POST", password, token, obj{"new_password": "battery staple", "logout_devices": false}).want(401).text("session"),
			obj{"type": "m.login.password", "password": "correct horse"})
		one.do("POST", password, token, change).want(200)
		if err := one.SetPassword(t.Context(), alice.text("user_id"), "third staple", false, ""); err != nil {
			t.Fatal(err)
		}
		two.do("POST", password, token, change).want(200)
		one.login(alice.text("user_id"), "third staple").want(200)

		// For a while only.
		for _, n := range []*node{one, two} {
			n.clock.forward(answerLife + time.Second)
		}
		two.do("POST", password, token, change).want(401)
		if x := two.do("POST", register, "", whole); x.status == 200 {
			t.Errorf("found %s", x.raw)
		}
	})
}

// TestOneRegistrationAtATime: requests that come at once make one user, and all get the answer.
func TestOneRegistrationAtATime(t *testing.T) {
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		body := obj{"username": "alice", "password": "correct horse"}
		session := one.do("POST", client+"/register", "", body).want(401).text("session")
		answers := make([]answer, 6)
		var wg sync.WaitGroup
		for i := range answers {
			n := []*node{one, two}[i%2]
			wg.Go(func() {
				answers[i] = n.do("POST", client+"/register", "", withSession(body, session, obj{"type": "m.login.dummy"}))
			})
		}
		wg.Wait()
		for _, x := range answers {
			if x.want(200).raw != answers[0].raw {
				t.Errorf("one got %s, one %s", answers[0].raw, x.raw)
			}
		}
	})
}

// TestAnAnswerIsStoredWithTheUser: whatever becomes of the commit, the repeated request finds the one user.
func TestAnAnswerIsStoredWithTheUser(t *testing.T) {
	for _, fault := range []dbfault.Fault{dbfault.Before, dbfault.After, dbfault.Late, dbfault.LateEnd} {
		t.Run(fault.String(), func(t *testing.T) {
			gated(t, func(t *testing.T, n *node, gate *dbfault.Gate) {
				body := obj{"username": "alice", "password": "correct horse"}
				session := n.do("POST", client+"/register", "", body).want(401).text("session")
				whole := withSession(body, session, obj{"type": "m.login.dummy"})
				gate.Shut()
				got := make(chan answer, 1)
				go func() { got <- n.do("POST", client+"/register", "", whole) }()
				roletest.Until(t, "a commit comes", func() bool { return len(gate.Held()) > 0 })
				gate.Held()[0].Decide(fault)
				gate.Open()
				first := <-got
				again := n.do("POST", client+"/register", "", whole).want(200)
				if first.status == 200 && again.raw != first.raw {
					t.Errorf("found %s, then %s", first.raw, again.raw)
				}
				n.whoamiWith(again.text("access_token")).want(200)
			})
		})
	}
}

// TestStagesAtOnce: of stages that are passed at the same moment none is lost, and who is refused one hears which are passed.
func TestStagesAtOnce(t *testing.T) {
	fleet(t, termsConfig(), func(t *testing.T, one, two *node) {
		if _, err := one.CreateRegistrationToken(t.Context(), RegistrationToken{Token: "invite"}); err != nil {
			t.Fatal(err)
		}
		for round := range 10 {
			body := obj{"username": "alice" + string(rune('a'+round)), "password": "correct horse"}
			first := one.do("POST", client+"/register", "", body).want(401)
			if list, ok := first.body["completed"].([]any); !ok || len(list) != 0 {
				t.Errorf("found %s", first.raw)
			}
			session := first.text("session")
			var wg sync.WaitGroup
			wg.Go(func() {
				one.do("POST", client+"/register", "", withSession(body, session, obj{"type": stageToken, "token": "invite"}))
			})
			wg.Go(func() { two.do("POST", client+"/register", "", withSession(body, session, obj{"type": stageTerms})) })
			wg.Wait()
			two.do("POST", client+"/register", "", withSession(body, session)) // unless one of the two finished it
			if x := two.login("alice"+string(rune('a'+round)), "correct horse"); x.status != 200 {
				t.Errorf("a stage was lost: %d %s", x.status, x.raw)
			}
		}
		session := one.do("POST", client+"/register", "", obj{}).want(401).text("session")
		two.do("POST", client+"/register", "", withSession(obj{"password": "correct horse"}, session, obj{"type": stageTerms})).want(401)
		x := one.do("POST", client+"/register", "", withSession(nil, session, obj{"type": stageToken, "token": "wrong"})).
			want(401, "M_UNAUTHORIZED")
		if !strings.Contains(x.raw, `"completed":["m.login.terms"]`) {
			t.Errorf("found %s", x.raw)
		}
	})
}

// TestNobodyConfirmsForAnother: the credentials of another user, though they are right, confirm nothing.
func TestNobodyConfirmsForAnother(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		alice := n.register("alice").want(200).text("access_token")
		n.register("bob").want(200)
		auth := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "@bob:here.test"}, "password": "correct horse"}
		n.do("POST", client+"/account/deactivate", alice, obj{"auth": auth}).want(403, "M_FORBIDDEN")
		session := n.do("POST", client+"/account/deactivate", alice, obj{}).want(401).text("session")
		n.do("POST", client+"/account/deactivate", alice, withSession(nil, session, auth)).want(403, "M_FORBIDDEN")
		n.do("POST", client+"/account/deactivate", alice, withSession(nil, session, obj{
			"type": "m.login.password", "user": "alice",
			"password": "wrong",
		})).
			want(401, "M_FORBIDDEN")
		n.do("POST", client+"/account/deactivate", alice, withSession(nil, session, obj{
			"type": "m.login.password", "user": "alice",
			"password": "correct horse",
		})).
			want(200)
	})
}
