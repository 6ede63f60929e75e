package accounts

import "testing"

// TestNamesThatMeanSomethingElse: in paths, or as the recipient of messages to devices.
func TestNamesThatMeanSomethingElse(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		for _, name := range []string{".", ".."} {
			n.register(name).want(400, "M_INVALID_USERNAME")
			n.do("GET", client+"/register/available?username="+name, "", nil).want(400, "M_INVALID_USERNAME")
			if _, err := n.CreateUser(t.Context(), NewUser{Name: name}); err == nil {
				t.Errorf("%q was made", name)
			}
		}
		n.register("...").want(200)
		n.register("alice", obj{"device_id": "*"}).want(400, "M_INVALID_PARAM")
		n.register("alice").want(200)
		n.login("alice", "correct horse", obj{"device_id": "*"}).want(400, "M_INVALID_PARAM")
		n.login("alice", "correct horse", obj{"device_id": "**"}).want(200)
	})
}
