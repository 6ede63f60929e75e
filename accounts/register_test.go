package accounts

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"lyceum/matrix"
	"lyceum/platform/lease"
	"lyceum/platform/role/roletest"
)

func termsConfig() Config {
	c := testConfig()
	c.Registration = TokenRegistration
	c.Terms = map[string]Term{
		"privacy": {Version: "1.2", Texts: map[string]TermIn{"en": {Name: "Privacy <b>", URL: "https://here.test/privacy"}}},
	}
	return c
}

// TestStepsAtTwoProcesses takes every step of a registration at another process than the one before.
func TestStepsAtTwoProcesses(t *testing.T) {
	fleet(t, termsConfig(), func(t *testing.T, one, two *node) {
		tokens := func() RegistrationToken {
			all, err := two.RegistrationTokens(t.Context())
			if err != nil || len(all) != 1 {
				t.Fatalf("found %v %v", all, err)
			}
			return all[0]
		}
		if _, err := one.CreateRegistrationToken(t.Context(), RegistrationToken{Token: "invite", UsesAllowed: 1}); err != nil {
			t.Fatal(err)
		}
		valid := func(token string) bool {
			x := two.do("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token="+token, "", nil).want(200)
			return x.body["valid"] == true
		}
		if !valid("invite") || valid("other") {
			t.Fatal("the validity is wrong")
		}
		body := obj{"username": "alice", "password": "correct horse"}
		x := one.do("POST", client+"/register", "", body).want(401)
		if !strings.Contains(x.raw, `"stages":["m.login.registration_token","m.login.terms"]`) ||
			!strings.Contains(x.raw, "https://here.test/privacy") {
			t.Fatalf("found %s", x.raw)
		}
		session := x.text("session")
		step := func(n *node, auth obj) answer {
			auth["session"] = session
			body["auth"] = auth
			return n.do("POST", client+"/register", "", body)
		}
		step(two, obj{"type": "m.login.dummy"}).want(401, "M_UNRECOGNIZED")
		step(two, obj{"type": "m.login.registration_token", "token": "wrong"}).want(401, "M_UNAUTHORIZED")
		step(two, obj{"type": "m.login.registration_token", "token": "in\x00vite"}).want(401, "M_UNAUTHORIZED")
		if x := step(two, obj{"type": "m.login.registration_token", "token": "invite"}).want(401); fmt.Sprint(
			x.body["completed"],
		) != "[m.login.registration_token]" {
			t.Fatalf("found %s", x.raw)
		}
		if got := tokens(); got.Pending != 1 || valid("invite") {
			t.Fatalf("the use is not held: %+v", got)
		}
		step(one, obj{"type": "m.login.registration_token", "token": "invite"}).want(401) // again changes nothing
		reg := step(one, obj{"type": "m.login.terms"}).want(200)
		if reg.text("user_id") != "@alice:here.test" {
			t.Fatalf("found %s", reg.raw)
		}
		if got := tokens(); got.Pending != 0 || got.Completed != 1 {
			t.Fatalf("the use is not counted: %+v", got)
		}
		// The session is used up.
		body["username"] = "alice2"
		step(two, obj{}).want(401, "M_UNKNOWN")
		step(two, obj{"type": "m.login.terms"}).want(401, "M_UNKNOWN")
	})
}

func TestReservedTokens(t *testing.T) {
	c := testConfig()
	run(t, c, func(t *testing.T, n *node) {
		make1 := func(name string) {
			if _, err := n.CreateRegistrationToken(t.Context(), RegistrationToken{Token: name, UsesAllowed: 1}); err != nil {
				t.Fatal(err)
			}
		}
		get := func(name string) RegistrationToken {
			all, err := n.RegistrationTokens(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range all {
				if x.Token == name {
					return x
				}
			}
			t.Fatalf("no token %s", name)
			return RegistrationToken{}
		}
		make1("race")
		make1("slow")
		// Many at once, one use.
		var wg sync.WaitGroup
		results := make([]answer, 8)
		for i := range results {
			wg.Go(func() {
				results[i] = n.register(fmt.Sprintf("racer%d", i), obj{"auth": obj{"type": "m.login.registration_token", "token": "race"}})
			})
		}
		wg.Wait()
		won := 0
		for _, x := range results {
			if x.status == 200 {
				won++
			} else {
				x.want(401, "M_UNAUTHORIZED")
			}
		}
		if got := get("race"); won != 1 || got.Completed != 1 || got.Pending != 0 {
			t.Fatalf("%d used a token of one use: %+v", won, got)
		}
		// A name that is taken meanwhile gives the use back, as does a session that runs out.
		n.register("taken").want(200)
		session := n.do("POST", client+"/register", "", obj{}).want(401).text("session")
		i, err := loadInteraction(t.Context(), n.db, session, n.nowMs())
		if err != nil {
			t.Fatal(err)
		}
		if err := n.reserveToken(t.Context(), i, "slow"); err != nil {
			t.Fatal(err)
		}
		if got := get("slow"); got.Pending != 1 {
			t.Fatalf("found %+v", got)
		}
		n.clock.forward(31 * time.Minute)
		job, lose := roletest.Job(t, n.p)
		lose()
		if err := n.expire(t.Context(), job); !errors.Is(err, lease.ErrLost) {
			t.Fatalf("a job that was taken over: expected ErrLost, found %v", err)
		}
		job, _ = roletest.Job(t, n.p)
		if err := n.expire(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		if got := get("slow"); got.Pending != 0 {
			t.Fatalf("the use was not given back: %+v", got)
		}
	})
}

// refuse makes the database refuse rows of a table with such values of a column, until end.
func (n *node) refuse(table, column, values string) (end func()) {
	n.t.Helper()
	do := func(queries ...string) {
		n.t.Helper()
		for _, query := range queries {
			if _, err := n.db.Exec(n.t.Context(), query); err != nil {
				n.t.Fatal(err)
			}
		}
	}
	if n.db.Postgres() {
		do("ALTER TABLE " + table + " ADD CONSTRAINT refused CHECK (NOT " + column + " " + values + ") NOT VALID")
		return func() { do("ALTER TABLE " + table + " DROP CONSTRAINT refused") }
	}
	for _, change := range []string{"INSERT", "UPDATE"} {
		do(
			"CREATE TRIGGER refused_" + change + " BEFORE " + change + " ON " + table + " WHEN NEW." + column + " " + values +
				" BEGIN SELECT RAISE(FAIL, 'not now'); END",
		)
	}
	return func() { do("DROP TRIGGER refused_INSERT", "DROP TRIGGER refused_UPDATE") }
}

// uses gives how many uses of a token are held and completed.
func (n *node) uses(token string) (pending, completed int) {
	n.t.Helper()
	return n.count(
			`SELECT pending FROM registration_tokens WHERE token = $1`,
			token,
		), n.count(
			`SELECT completed FROM registration_tokens WHERE token = $1`,
			token,
		)
}

// runOut lets what was begun run out: half an hour passes.
func (n *node) runOut() {
	n.t.Helper()
	n.clock.forward(31 * time.Minute)
	job, _ := roletest.Job(n.t, n.p)
	if err := n.expire(n.t.Context(), job); err != nil {
		n.t.Fatal(err)
	}
}

// withToken makes a token of some uses, and gives what starts an interaction that needs it.
func (n *node) withToken(token string, allowed int64) (start func() *interaction) {
	n.t.Helper()
	if _, err := n.CreateRegistrationToken(n.t.Context(), RegistrationToken{Token: token, UsesAllowed: allowed}); err != nil {
		n.t.Fatal(err)
	}
	return func() *interaction {
		return &interaction{id: newSessionID(), op: opRegister, flows: n.registrationFlows()}
	}
}

// A use of a token that a registration held is given back however the registration ends, at the latest when its session runs out.
func TestAUseOfATokenIsGivenBackWhenARegistrationFails(t *testing.T) {
	auth := obj{"auth": obj{"type": stageToken, "token": "once"}}
	fails := func(n *node) {
		n.t.Helper()
		if x := n.register("alice", auth); x.status < 500 {
			n.t.Errorf("found %d %s", x.status, x.raw)
		}
	}
	valid := func() error { return nil }
	for what, c := range map[string]struct {
		terms bool // it takes another step after that of the token
		late  bool // it is given back when the session runs out
		fail  func(n *node, start func() *interaction)
	}{
		"the name is taken meanwhile": {fail: func(n *node, start func() *interaction) {
			auth := []byte(`{"type":"` + stageToken + `","token":"once"}`)
			_, err := n.runInteraction(n.t.Context(), start, auth, valid, func(*interaction) (any, error) {
				return nil, matrix.UserInUse("This user name is taken")
			})
			if !matrix.HasCode(err, matrix.CodeUserInUse) {
				n.t.Errorf("found %v", err)
			}
		}},
		"the session is not stored": {terms: true, fail: func(n *node, _ func() *interaction) {
			defer n.refuse("interactive_sessions", "token", "<> ''")()
			fails(n)
		}},
		"the step is not stored": {terms: true, fail: func(n *node, _ func() *interaction) {
			defer n.refuse("interactive_sessions", "done", "<> ''")()
			fails(n)
		}},
		"the client goes away": {fail: func(n *node, start func() *interaction) {
			ctx, cancel := context.WithCancel(n.t.Context())
			_, err := n.runInteraction(ctx, start, []byte(`{"type":"`+stageToken+`","token":"once"}`), valid, func(*interaction) (any, error) {
				cancel()
				return nil, ctx.Err()
			})
			if !errors.Is(err, context.Canceled) {
				n.t.Errorf("found %v", err)
			}
		}},
		"it can be neither completed nor given back": {late: true, fail: func(n *node, _ func() *interaction) {
			defer n.refuse("registration_tokens", "pending", "= 0")()
			fails(n)
		}},
		"the process dies": {late: true, fail: func(n *node, start func() *interaction) {
			if err := n.reserveToken(n.t.Context(), start(), "once"); err != nil {
				n.t.Error(err)
			}
		}},
	} {
		t.Run(what, func(t *testing.T) {
			config := testConfig()
			if c.terms {
				config = termsConfig()
			}
			run(t, config, func(t *testing.T, n *node) {
				c.fail(n, n.withToken("once", 1))
				if c.late {
					if pending, _ := n.uses("once"); pending != 1 {
						t.Errorf("%d uses are held, expected 1", pending)
					}
					n.runOut()
				}
				if pending, completed := n.uses("once"); pending != 0 || completed != 0 {
					t.Errorf("%d uses are held, %d completed", pending, completed)
				}
				if left := n.count(`SELECT COUNT(*) FROM interactive_sessions`); left != 0 {
					t.Errorf("%d interactions are left", left)
				}
			})
		})
	}
}

// TestAUseOfATokenEndsOnce: a session may run out while its registration is completed.
func TestAUseOfATokenEndsOnce(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		start := n.withToken("twice", 2)
		job, _ := roletest.Job(t, n.p)
		for round := range 20 {
			if _, err := n.db.Exec(t.Context(), `UPDATE registration_tokens SET completed = 0, pending = 0`); err != nil {
				t.Fatal(err)
			}
			old, other := start(), start()
			hold := func(i *interaction) {
				if err := n.reserveToken(t.Context(), i, "twice"); err != nil {
					t.Fatal(err)
				}
			}
			hold(old)
			n.clock.forward(31 * time.Minute)
			hold(other)
			var wg sync.WaitGroup
			var expired, registered error
			wg.Go(func() { expired = n.expire(t.Context(), job) })
			wg.Go(func() {
				name := fmt.Sprintf("@user%d:here.test", round)
				_, registered = n.insertRegistered(t.Context(), NewUser{Name: name}, "", loginDevice{}, registerOptions{interaction: old})
			})
			wg.Wait()
			want := 1
			if errors.Is(registered, errBadToken) {
				registered, want = nil, 0
			}
			if err := errors.Join(expired, registered); err != nil {
				t.Fatal(err)
			}
			if err := n.endInteraction(t.Context(), old); err != nil {
				t.Fatal(err)
			}
			if pending, completed := n.uses("twice"); pending != 1 || completed != want {
				t.Fatalf("%d uses are held and %d completed, expected 1 and %d", pending, completed, want)
			}
			if err := n.endInteraction(t.Context(), other); err != nil {
				t.Fatal(err)
			}
		}
		// One request with the session holds a use while another one, which needs none, comes to the end.
		session := start()
		session.flows, session.passed = [][]string{{stageDummy}, {stageToken}}, []string{stageDummy}
		if err := n.saveInteraction(t.Context(), session); err != nil {
			t.Fatal(err)
		}
		valid := func() error { return nil }
		_, err := n.runInteraction(t.Context(), start, []byte(`{"session":"`+session.id+`"}`), valid, func(*interaction) (any, error) {
			if err := n.reserveToken(t.Context(), session, "twice"); !errors.Is(err, errNoSession) {
				t.Errorf("a session that is used holds a use: %v", err)
			}
			for _, query := range []string{ // it came just before
				`UPDATE registration_tokens SET completed = 0, pending = pending + 1`, `UPDATE interactive_sessions SET token = 'twice' WHERE used`,
			} {
				if _, err := n.db.Exec(t.Context(), query); err != nil {
					return nil, err
				}
			}
			return nil, nil
		})
		if pending, _ := n.uses("twice"); pending != 0 || err != nil {
			t.Errorf("%d uses are held by a session that has ended: %v", pending, err)
		}
	})
}

// A use that was held of a token that is deleted is not given back to one that was made under the same name.
func TestAUseIsOfOneTokenNotOfAName(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		if err := n.reserveToken(t.Context(), n.withToken("again", 1)(), "again"); err != nil {
			t.Fatal(err)
		}
		if removed, err := n.DeleteRegistrationToken(t.Context(), "again"); !removed || err != nil {
			t.Fatalf("removed: %v, %v", removed, err)
		}
		start := n.withToken("again", 1)
		n.clock.forward(20 * time.Minute)
		holder := start()
		if err := n.reserveToken(t.Context(), holder, "again"); err != nil {
			t.Fatal(err)
		}
		n.clock.forward(11 * time.Minute) // the first one would run out
		job, _ := roletest.Job(t, n.p)
		if err := n.expire(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		if err := n.reserveToken(t.Context(), start(), "again"); err == nil {
			t.Error("a token of one use is held twice")
		}
		if _, err := n.insertRegistered(t.Context(), NewUser{Name: "@holder:here.test"}, "", loginDevice{},
			registerOptions{interaction: holder}); err != nil {
			t.Errorf("who holds the use can not use it: %v", err)
		}
	})
}

// TestLostUsesOfTokens: a version before lost uses. They are given back, and those that are held stay.
func TestLostUsesOfTokens(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		start := n.withToken("many", 9)
		n.withToken("once", 1)
		job, _ := roletest.Job(t, n.p)
		lose := func(token string, uses int) {
			t.Helper()
			if _, err := n.db.Exec(t.Context(), `UPDATE registration_tokens SET pending = pending + $2 WHERE token = $1`, token, uses); err != nil {
				t.Fatal(err)
			}
		}
		var missing map[string]int64
		look := func(many, once int) {
			t.Helper()
			var err error
			if missing, err = n.releaseLostTokenUses(t.Context(), job, missing); err != nil {
				t.Fatal(err)
			}
			for token, want := range map[string]int{"many": many, "once": once} {
				if pending, _ := n.uses(token); pending != want {
					t.Errorf("%s: %d uses are held, expected %d", token, pending, want)
				}
			}
		}
		held := start()
		if err := n.reserveToken(t.Context(), held, "many"); err != nil {
			t.Fatal(err)
		}
		lose("many", 2)
		lose("once", 1)
		look(3, 1) // one that was just taken by a process of the version before looks the same
		lose("many", 1)
		look(2, 0)
		look(1, 0)
		look(1, 0)
		if _, err := n.insertRegistered(t.Context(), NewUser{Name: "@alice:here.test"}, "", loginDevice{},
			registerOptions{interaction: held}); err != nil {
			t.Error(err)
		}
		n.register("bob", obj{"auth": obj{"type": stageToken, "token": "once"}}).want(200)
		n.register("carol", obj{"auth": obj{"type": stageToken, "token": "once"}}).want(401)
	})
}

func TestFirstToken(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		token, created, err := n.EnsureFirstToken(t.Context())
		if err != nil || !created || token == "" {
			t.Fatalf("found %q %v %v", token, created, err)
		}
		again, created, err := n.EnsureFirstToken(t.Context())
		if err != nil || created || again != token {
			t.Fatalf("found %q %v %v", again, created, err)
		}
		x := n.register("boss", obj{"auth": obj{"type": "m.login.registration_token", "token": token}}).want(200)
		id, err := n.Authenticate(t.Context(), x.text("access_token"))
		if err != nil || !id.Admin {
			t.Fatalf("found %+v %v", id, err)
		}
		if again, _, err := n.EnsureFirstToken(t.Context()); err != nil || again != "" {
			t.Fatalf("found %q %v", again, err)
		}
		user := n.register("user").want(200).text("access_token")
		boss := x.text("access_token")
		lock := "/_matrix/client/v1/admin/lock/@user:here.test"
		n.do("PUT", lock, user, obj{"locked": true}).want(403, "M_FORBIDDEN")
		n.do("PUT", lock, boss, obj{}).want(400, "M_MISSING_PARAM")
		n.do("PUT", lock, boss, obj{"locked": true}).want(200)
		n.whoamiWith(user).want(401, "M_USER_LOCKED")
		n.login("user", "correct horse").want(401, "M_USER_LOCKED")
		n.do("PUT", lock, boss, obj{"locked": false}).want(200)
		n.whoamiWith(user).want(200)
		suspend := "/_matrix/client/v1/admin/suspend/@user:here.test"
		n.do("PUT", suspend, boss, obj{"suspended": true}).want(200)
		if x := n.do("GET", suspend, boss, nil).want(200); x.body["suspended"] != true {
			t.Fatalf("found %s", x.raw)
		}
		n.do("PUT", client+"/profile/@user:here.test/displayname", user, obj{"displayname": "x"}).want(403, "M_USER_SUSPENDED")
		n.do("PUT", "/_matrix/client/v1/admin/lock/@boss:here.test", boss, obj{"locked": true}).want(403)
		n.do("PUT", "/_matrix/client/v1/admin/lock/@no:here.test", boss, obj{"locked": true}).want(404, "M_NOT_FOUND")
		n.do("PUT", "/_matrix/client/v1/admin/lock/@no:there.test", boss, obj{"locked": true}).want(400, "M_INVALID_PARAM")
	})
}

func TestSharedSecret(t *testing.T) {
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		const path = "/_synapse/admin/v1/register"
		nonce := func() string { return one.do("GET", path, "", nil).want(200).text("nonce") }
		send := func(n *node, secret, nonce, name string, admin bool, kind string) answer {
			role := "notadmin"
			if admin {
				role = "admin"
			}
			parts := []string{nonce, name, "correct horse", role}
			body := obj{"nonce": nonce, "username": name, "password": "correct horse", "admin": admin, "displayname": "N"}
			if kind != "" {
				parts, body["user_type"] = append(parts, kind), kind
			}
			m := hmac.New(sha1.New, []byte(secret))
			m.Write([]byte(strings.Join(parts, "\x00")))
			body["mac"] = hex.EncodeToString(m.Sum(nil))
			return n.do("POST", path, "", body)
		}
		send(two, "wrong", nonce(), "eve", true, "").want(403, "M_FORBIDDEN")
		send(two, "shh", "made.up.nonce", "eve", true, "").want(400, "M_UNKNOWN")
		used := nonce()
		x := send(two, "shh", used, "Boss", true, "").want(200)
		if id, err := one.Authenticate(t.Context(), x.text("access_token")); err != nil || !id.Admin || id.UserID != "@boss:here.test" {
			t.Fatalf("found %+v %v", id, err)
		}
		send(one, "shh", used, "second", false, "").want(400, "M_UNKNOWN")
		send(one, "shh", nonce(), "bot", false, "bot").want(200)
		send(one, "shh", nonce(), "guest", false, "guest").want(400, "M_INVALID_PARAM")
		send(one, "shh", nonce(), "boss", false, "").want(400, "M_USER_IN_USE")
		old := nonce()
		two.clock.forward(2 * time.Minute)
		send(two, "shh", old, "late", false, "").want(400, "M_UNKNOWN")
	})
	run(t, func() Config { c := testConfig(); c.SharedSecret = ""; return c }(), func(t *testing.T, n *node) {
		n.do("GET", "/_synapse/admin/v1/register", "", nil).want(400)
		n.do("POST", "/_synapse/admin/v1/register", "", obj{}).want(400)
	})
}

func TestFallback(t *testing.T) {
	run(t, termsConfig(), func(t *testing.T, n *node) {
		if _, err := n.CreateRegistrationToken(t.Context(), RegistrationToken{Token: "invite"}); err != nil {
			t.Fatal(err)
		}
		body := obj{"username": "alice", "password": "correct horse"}
		session := n.do("POST", client+"/register", "", body).want(401).text("session")
		page := func(stage, session string) string {
			return client + "/auth/" + stage + "/fallback/web?session=" + session
		}
		x := n.do("GET", page("m.login.terms", session), "", nil).want(200)
		if !strings.Contains(x.raw, "Privacy &lt;b&gt;") || !strings.Contains(x.raw, `value="`+session+`"`) {
			t.Fatalf("found %s", x.raw)
		}
		n.do("GET", page("m.login.terms", "nonsense"), "", nil).want(400)
		n.do("GET", page("m.login.dummy", session), "", nil).want(400)
		n.do("GET", page("m.login.magic", session), "", nil).want(404)
		post := func(stage string, values url.Values) *http.Response {
			res, err := http.PostForm(n.url+client+"/auth/"+stage+"/fallback/web", values)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			return res
		}
		if res := post("m.login.registration_token", url.Values{"session": {session}, "token": {"wrong"}}); res.StatusCode != 401 {
			t.Fatalf("found %d", res.StatusCode)
		}
		if res := post("m.login.registration_token", url.Values{"session": {session}, "token": {"invite"}}); res.StatusCode != 200 {
			t.Fatalf("found %d", res.StatusCode)
		}
		if res := post("m.login.terms", url.Values{"session": {session}}); res.StatusCode != 200 {
			t.Fatalf("found %d", res.StatusCode)
		}
		body["auth"] = obj{"session": session}
		n.do("POST", client+"/register", "", body).want(200)
	})
}

func TestClosedRegistration(t *testing.T) {
	c := testConfig()
	c.Registration = ClosedRegistration
	run(t, c, func(t *testing.T, n *node) {
		n.register("alice").want(403, "M_FORBIDDEN")
		n.do("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token=x", "", nil).want(403, "M_FORBIDDEN")
		if token, _, err := n.EnsureFirstToken(t.Context()); err != nil || token != "" {
			t.Fatalf("found %q %v", token, err)
		}
	})
}

type services struct{}

func (services) Exclusive(userID string) bool { return strings.HasPrefix(userID, "@irc_") }
func (services) ByToken(token string) (string, bool) {
	return "irc", token == "as_secret"
}

func (services) Owns(id, userID string) bool {
	return id == "irc" && (strings.HasPrefix(userID, "@irc_") || userID == "@ircbot:here.test")
}

func TestAppserviceUsers(t *testing.T) {
	runWith(t, Deps{Appservices: services{}}, testConfig(), func(t *testing.T, n *node) {
		n.register("irc_joe").want(400, "M_EXCLUSIVE")
		n.do("GET", client+"/register/available?username=irc_joe", "", nil).want(400, "M_EXCLUSIVE")
		body := obj{"type": "m.login.application_service", "username": "irc_joe"}
		n.do("POST", client+"/register", "", body).want(401)
		n.do("POST", client+"/register", "as_secret", obj{"type": "m.login.application_service", "username": "alice"}).want(400, "M_EXCLUSIVE")
		x := n.do("POST", client+"/register", "as_secret", body).want(200)
		n.whoamiWith(x.text("access_token")).want(200)
		login := obj{"type": "m.login.application_service", "identifier": obj{"type": "m.id.user", "user": "irc_joe"}}
		n.do("POST", client+"/login", "as_wrong", login).want(401)
		n.do("POST", client+"/login", "as_secret", login).want(200)
		n.register("alice").want(200)
		login["identifier"] = obj{"type": "m.id.user", "user": "alice"}
		n.do("POST", client+"/login", "as_secret", login).want(403, "M_FORBIDDEN")
	})
}

// FuzzBodies sends any bytes to the endpoints that take them from anybody: the answer is never a 500.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"auth":{"type":"m.login.dummy"},"username":"a","password":"correct horse"}`, `{"auth":{"session":"x"}}`, `{"auth":[]}`,
		`{"type":"m.login.password","identifier":{"type":"m.id.user","user":"a"},"password":"b"}`, `{"type":"m.login.password",` +
			`"user":"\u0000","password":"b","device_id":"\u0000"}`,
		`{"nonce":"a.b.c","username":"\u0000","mac":"zz"}`, `{"refresh_token":"lyr_"}`, `null`, `[]`, `{"auth":null,"username":5}`, "\xff",
		`{"auth":{"type":"m.login.registration_token","token":"\u0000"},"username":"q","password":"correct horse"}`,
	} {
		for which := range 4 {
			f.Add(which, seed)
		}
	}
	n := fuzzNode(f)
	paths := []string{client + "/register", client + "/login", client + "/refresh", "/_synapse/admin/v1/register"}
	f.Fuzz(func(t *testing.T, which int, body string) {
		n.t = t
		if x := n.do("POST", paths[uint(which)%uint(len(paths))], "", body); x.status >= 500 || x.status == 429 {
			t.Fatalf("found %d %s for %q", x.status, x.raw, body)
		}
	})
}

// FuzzFilter checks that a filter that is taken is an object and is given back as the same JSON.
func FuzzFilter(f *testing.F) {
	f.Add(`{"room":{"timeline":{"limit":10}}}`)
	f.Add(`{"room":{"rooms":["!a:b"]},"event_format":"federation","presence":{"not_senders":["@a:b"]}}`)
	f.Fuzz(func(t *testing.T, body string) {
		if ValidateFilter(json.RawMessage(body)) == nil && !json.Valid([]byte(body)) {
			t.Fatalf("took %q", body)
		}
	})
}
