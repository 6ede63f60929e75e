package accounts

import (
	"context"
	"errors"
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
			return obj{"type": "m.login.password", "session": session, "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": "correct horse"}
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
			if err := n.pass(t.Context(), i, &authData{Type: stagePassword, Password: "correct horse"}); err != nil {
				t.Fatal(err)
			}
			if err := n.keepInteraction(t.Context(), i); err != nil {
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
		if x := n.do("POST", deactivate, alice, obj{"erase": true, "auth": obj{"session": confirmed(deactivate, obj{"erase": false})}}); x.status != 401 {
			t.Errorf("an erasure was taken for a plain end of the account: %d %s", x.status, x.raw)
		}

		// Order, spaces and what is not of the operation do not matter; the session is used once.
		session := confirmed(password, change)
		n.do("POST", password, alice, `{ "auth": {"session":"`+session+`"}, "logout_devices":false, "new_password" : "battery staple", "x": null }`).want(200)
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
		if err := errors.Join(n.pass(t.Context(), i, &authData{Type: stagePassword, Password: "battery staple"}), n.keepInteraction(t.Context(), i)); err != nil {
			t.Fatal(err)
		}
		if err := n.SetPassword(t.Context(), "@alice:here.test", "third staple", false, ""); err != nil {
			t.Fatal(err)
		}
		n.do("POST", deactivate, alice, obj{"auth": obj{"session": session}}).want(401)

		// What is kept is of no use to who reads the database.
		session = begin(deactivate, obj{})
		var kept int
		if err := n.db.QueryRow(t.Context(), `SELECT COUNT(*) FROM interactive_sessions WHERE id = $1`, session).Scan(&kept); err != nil || kept != 0 {
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
		i := &interaction{id: session, op: "x", flows: [][]string{{stageDummy}}, done: []string{stageDummy}}
		if err := n.keepInteraction(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		start := func() *interaction {
			return &interaction{id: newSessionID(), op: "x", flows: [][]string{{stageDummy}}}
		}
		try := func() (any, error) {
			return n.interact(context.Background(), start, []byte(`{"session":"`+session+`"}`), func(*interaction) (any, error) {
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
