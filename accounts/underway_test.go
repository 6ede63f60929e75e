package accounts

import (
	"sync"
	"testing"
	"time"
)

// TestTheEndOfATokenWaitsForWhatItLetIn: what is told of the end comes after all that the token was used for, at any process.
func TestTheEndOfATokenWaitsForWhatItLetIn(t *testing.T) {
	yes, no := true, false
	var first sync.WaitGroup
	ends := map[string]func(n *node, u answer) error{
		"logout": func(n *node, u answer) error {
			n.do("POST", client+"/logout", u.text("access_token"), obj{}).want(200)
			return nil
		},
		"logout of all": func(n *node, u answer) error {
			n.do("POST", client+"/logout/all", u.text("access_token"), obj{}).want(200)
			return nil
		},
		"a removed device": func(n *node, u answer) error {
			return n.RemoveDevices(t.Context(), u.text("user_id"), "", []string{u.text("device_id")})
		},
		"a removed device, again": func(n *node, u answer) error {
			remove := func() error {
				return n.RemoveDevices(t.Context(), u.text("user_id"), "", []string{u.text("device_id")})
			}
			first.Go(func() {
				if err := remove(); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(50 * time.Millisecond)
			return remove()
		},
		"another password": func(n *node, u answer) error {
			return n.SetPassword(t.Context(), u.text("user_id"), "another horse", true, "")
		},
		"the end of the account": func(n *node, u answer) error { return n.Deactivate(t.Context(), u.text("user_id"), false) },
		"a lock": func(n *node, u answer) error {
			return n.SetRights(t.Context(), u.text("user_id"), Rights{Locked: &yes})
		},
		"a suspension": func(n *node, u answer) error {
			return n.SetRights(t.Context(), u.text("user_id"), Rights{Suspended: &yes})
		},
		"an administrator less": func(n *node, u answer) error { return n.SetRights(t.Context(), u.text("user_id"), Rights{Admin: &no}) },
		"a new log-in of the device": func(n *node, u answer) error {
			n.login(u.text("user_id"), "correct horse", obj{"device_id": u.text("device_id")}).want(200)
			return nil
		},
		"a token that replaces it": func(n *node, u answer) error {
			next := n.do("POST", client+"/refresh", "", obj{"refresh_token": u.text("refresh_token")}).want(200)
			n.whoamiWith(next.text("access_token")).want(200)
			return nil
		},
	}
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		for name, end := range ends {
			for at, there := range map[string]*node{"here": two, "elsewhere": one} {
				u := two.register("acting", obj{"username": nil, "refresh_token": true})
				acted := make(chan answer)
				go func() { acted <- there.do("POST", "/act", u.text("access_token"), obj{}) }()
				<-there.acting
				ended := make(chan error)
				go func() { ended <- end(two, u) }()
				select {
				case err := <-ended:
					t.Fatalf("%s, %s: it did not wait: %v", name, at, err)
				case <-time.After(100 * time.Millisecond):
				}
				there.over <- struct{}{}
				(<-acted).want(200)
				if err := <-ended; err != nil {
					t.Fatalf("%s, %s: %v", name, at, err)
				}
				first.Wait()
			}
		}
	})
}

// TestTheEndOfATokenDoesNotWaitForever for a request that takes long, which has been asked for before.
func TestTheEndOfATokenDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	run(t, testConfig(), func(t *testing.T, n *node) {
		u := n.register("slow")
		acted := make(chan answer)
		go func() { acted <- n.do("POST", "/act", u.text("access_token"), obj{}) }()
		<-n.acting
		n.do("POST", client+"/logout", u.text("access_token"), obj{}).want(200)
		n.over <- struct{}{}
		(<-acted).want(200)
		n.do("POST", "/act", u.text("access_token"), obj{}).want(401)
	})
}
