package accounts

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/matrix"
)

// TestInteractiveSessionIsOfOneRequest: what a user confirmed for one request can not be spent on another.
func TestInteractiveSessionIsOfOneRequest(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		alice := n.register("alice").want(200).text("access_token")
		bob := n.register("bob").want(200).text("access_token")
		const password, deactivate = client + "/account/password", client + "/account/deactivate"
		proof := func(session string) obj {
			return obj{
				"type":       "m.login.password",
				"session":    session,
				"identifier": obj{"type": "m.id.user", "user": "alice"},
				"password":   "correct horse",
			}
		}
		begin := func(path string, body obj) string {
			t.Helper()
			return n.do("POST", path, alice, body).want(401).text("session")
		}
		// confirmed gives a session that was passed in the browser, so that the session alone is left to show.
		confirmed := func(path string, body obj) string {
			t.Helper()
			session := begin(path, body)
			i, err := loadInteraction(t.Context(), n.db, session, n.nowMs())
			if err != nil {
				t.Fatal(err)
			}
			if err := n.passStage(t.Context(), i, &authData{Type: stagePassword, Password: "correct horse"}); err != nil {
				t.Fatal(err)
			}
			if err := n.saveInteraction(t.Context(), i); err != nil {
				t.Fatal(err)
			}
			return session
		}
		change := obj{"new_password": "battery staple", "logout_devices": false}
		with := func(body, auth obj) obj {
			out := obj{"auth": auth}
			for k, v := range body {
				out[k] = v
			}
			return out
		}
		for name, c := range map[string]struct {
			path  string
			body  obj
			token string
		}{
			"another password":         {password, obj{"new_password": "another staple", "logout_devices": false}, alice},
			"other devices end too":    {password, obj{"new_password": "battery staple"}, alice},
			"another endpoint":         {deactivate, obj{}, alice},
			"another endpoint's words": {deactivate, change, alice},
			"another user":             {password, change, bob},
		} {
			x := n.do("POST", c.path, c.token, with(c.body, obj{"session": confirmed(password, change)}))
			if x.status != 401 {
				t.Errorf("%s was taken with a confirmed session: %d %s", name, x.status, x.raw)
			}
			x = n.do("POST", c.path, c.token, with(c.body, proof(begin(password, change))))
			if x.status != 401 {
				t.Errorf("%s was taken with a session that was begun otherwise: %d %s", name, x.status, x.raw)
			}
		}
		if x := n.do("POST", deactivate, alice, obj{"erase": true, "auth": obj{"session": confirmed(deactivate,
			obj{"erase": false})}}); x.status != 401 {
			t.Errorf("an erasure was taken for a plain end of the account: %d %s", x.status, x.raw)
		}

		// Order, spaces and what is not of the operation do not matter; the session is used once.
		session := confirmed(password, change)
		n.do("POST", password, alice, `{ "auth": {"session":"`+session+`"}, "logout_devices":false, "new_password" : "battery `+
			`staple", "x": null }`).
			want(200)
		n.do("POST", password, alice, with(change, obj{"session": session})).want(401)

		// It runs out, however often it is asked for.
		session = begin(deactivate, obj{})
		for range 4 {
			n.clock.forward(9 * time.Minute)
			n.do("POST", deactivate, alice, obj{"auth": obj{"session": session}}).want(401)
		}
		auth := obj{"type": "m.login.password", "session": session, "user": "alice", "password": "battery staple"}
		n.do("POST", deactivate, alice, obj{"auth": auth}).want(401)

		// A new password ends what was confirmed with the old one.
		session = begin(deactivate, obj{})
		i, err := loadInteraction(t.Context(), n.db, session, n.nowMs())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(n.passStage(t.Context(), i, &authData{Type: stagePassword, Password: "battery staple"}),
			n.saveInteraction(t.Context(), i)); err != nil {
			t.Fatal(err)
		}
		if err := n.SetPassword(t.Context(), "@alice:here.test", "third staple", false, ""); err != nil {
			t.Fatal(err)
		}
		n.do("POST", deactivate, alice, obj{"auth": obj{"session": session}}).want(401)

		// What is kept is of no use to who reads the database.
		session = begin(deactivate, obj{})
		var kept int
		if err := n.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM interactive_sessions WHERE id = $1`, session).Scan(&kept); err != nil ||
			kept != 0 {
			t.Errorf("a session is kept readable: %d, %v", kept, err)
		}
	})
}

// TestInteractiveSessionIsUsedOnce: of requests at the same time with one confirmed session, one goes through;
// one that fails may be repeated.
func TestInteractiveSessionIsUsedOnce(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		var runs atomic.Int32
		var fail atomic.Bool
		session := newSessionID()
		i := &interaction{id: session, op: "x", flows: [][]string{{stageDummy}}, passed: []string{stageDummy}}
		if err := n.saveInteraction(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		start := func() *interaction {
			return &interaction{id: newSessionID(), op: "x", flows: [][]string{{stageDummy}}}
		}
		try := func() (any, error) {
			valid := func() error { return nil }
			return n.runInteraction(context.Background(), start, []byte(`{"session":"`+session+`"}`), valid, func(*interaction) (any, error) {
				runs.Add(1)
				time.Sleep(50 * time.Millisecond)
				if fail.Load() {
					return nil, matrix.InvalidParam("not now")
				}
				return nil, nil
			})
		}
		fail.Store(true)
		if _, err := try(); err == nil {
			t.Fatal("expected the failure")
		}
		fail.Store(false)
		runs.Store(0)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { _, _ = try() })
		}
		wg.Wait()
		if got := runs.Load(); got != 1 {
			t.Errorf("one session let %d requests through", got)
		}
	})
}

// TestWhatAnOldPasswordConfirmedIsRefused: between the look at the password and what it allows, the password may be changed, by a
// request that comes at the same time. Only one of those that showed the old one goes through.
func TestWhatAnOldPasswordConfirmedIsRefused(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		alice := n.register("alice").want(200)
		id, device := alice.text("user_id"), alice.text("device_id")
		u, err := n.checkPassword(t.Context(), "alice", "correct horse", address(1))
		if err != nil {
			t.Fatal(err)
		}
		old := Proof(u.password)
		if err := n.setPassword(t.Context(), id, passwordChange{Proof: old, Password: "battery staple"}); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"another password": n.setPassword(t.Context(), id, passwordChange{Proof: old, Password: "third staple", Logout: true}),
			"an end":           n.deactivate(t.Context(), id, sessionChange{Proof: old, Erase: true}),
			"a removed device": n.RemoveDevices(t.Context(), id, old, []string{device}),
		} {
			if !errors.Is(err, ErrWrongPassword) {
				t.Errorf("%s was taken from one who showed the old password: %v", what, err)
			}
		}
		if _, err := n.checkPassword(t.Context(), "alice", "battery staple", address(1)); err != nil {
			t.Errorf("the password that was acknowledged does not count: %v", err)
		}
		n.do("GET", client+"/account/whoami", alice.text("access_token"), nil).want(200)

		// Who gets no answer from one owner of the user asks the next one: what the first has stored is done.
		hash, err := n.newHash(t.Context(), "fourth staple")
		if err != nil {
			t.Fatal(err)
		}
		if u, err = n.checkPassword(t.Context(), "alice", "battery staple", address(1)); err != nil {
			t.Fatal(err)
		}
		bob := n.register("bob").want(200).text("user_id")
		b, err := n.checkPassword(t.Context(), "bob", "correct horse", address(1))
		if err != nil {
			t.Fatal(err)
		}
		for try := range 2 {
			for user, c := range map[string]sessionChange{
				id:  {Kind: changePassword, Proof: Proof(u.password), Password: hash, At: n.nowMs()},
				bob: {Kind: changeDeactivate, Proof: Proof(b.password), All: true, At: 1_700_000_000_000},
			} {
				if res, err := n.change(t.Context(), user, c); err != nil || res.Stale {
					t.Errorf("%s, try %d: %+v, %v", c.Kind, try+1, res, err)
				}
			}
		}
		if err := n.setPassword(t.Context(), id, passwordChange{Proof: Proof(hash), Password: "battery staple"}); err != nil {
			t.Fatal(err)
		}

		// Requests that come at once, each with the password that was right.
		const senders = 8
		statuses := make([]int, senders)
		var wg sync.WaitGroup
		for i := range senders {
			wg.Go(func() {
				auth := obj{"type": "m.login.password", "user": "alice", "password": "battery staple"}
				statuses[i] = n.do(
					"POST",
					client+"/account/password",
					alice.text("access_token"),
					obj{"new_password": fmt.Sprint("new staple ", i), "logout_devices": false, "auth": auth},
				).status
			})
		}
		wg.Wait()
		won := 0
		for i, status := range statuses {
			if status != 200 {
				continue
			}
			won++
			if _, err := n.checkPassword(t.Context(), "alice", fmt.Sprint("new staple ", i), address(1)); err != nil {
				t.Errorf("change %d was acknowledged and does not count: %v (%v)", i, err, statuses)
			}
		}
		if won != 1 {
			t.Errorf("%d of %d changes from one password were acknowledged: %v", won, senders, statuses)
		}
	})
}
