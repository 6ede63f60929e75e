package accounts

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"testing"
)

// TestNewUsersAreCalledAfterTheirID: whoever makes them, and the name is found as one that was set.
func TestNewUsersAreCalledAfterTheirID(t *testing.T) {
	c := testConfig()
	c.DefaultDisplayName = true
	runWith(t, Deps{Appservices: services{}}, c, func(t *testing.T, n *node) {
		secret := func(name, shown string) {
			t.Helper()
			nonce := n.do("GET", "/_synapse/admin/v1/register", "", nil).want(200).text("nonce")
			m := hmac.New(sha1.New, []byte("shh"))
			m.Write([]byte(strings.Join([]string{nonce, name, "correct horse", "notadmin"}, "\x00")))
			body := obj{"nonce": nonce, "username": name, "password": "correct horse", "displayname": shown, "mac": hex.EncodeToString(m.Sum(nil))}
			n.do("POST", "/_synapse/admin/v1/register", "", body).want(200)
		}
		n.register("Alice").want(200)
		secret("bob", "")
		secret("carol", "Carol C.")
		if _, err := n.CreateUser(t.Context(), NewUser{Name: "dave"}); err != nil {
			t.Fatal(err)
		}
		n.do("POST", client+"/register", "as_secret", obj{"type": typeAppservice, "username": "irc_eve"}).want(200)
		for name, want := range map[string]string{"alice": "alice", "bob": "bob", "carol": "Carol C.", "dave": "dave", "irc_eve": "irc_eve"} {
			id := "@" + name + ":here.test"
			if x := n.do("GET", client+"/profile/"+id, "", nil).want(200); x.text("displayname") != want {
				t.Errorf("%s is called %s", id, x.raw)
			}
			profiles, err := n.Profiles(t.Context(), []string{id})
			if err != nil || profiles[id].DisplayName != want {
				t.Errorf("rooms call %s %+v, %v", id, profiles[id], err)
			}
		}
		if found, err := n.Find(t.Context(), []string{"carol c."}, "", 9); err != nil || len(found) != 1 {
			t.Errorf("found %v, %v", found, err)
		}
		n.do("PUT", client+"/profile/@alice:here.test/displayname", n.login("alice", "correct horse").text("access_token"),
			obj{"displayname": ""}).
			want(200)
		n.do("GET", client+"/profile/@alice:here.test/displayname", "", nil).want(404)
	})
	run(t, testConfig(), func(t *testing.T, n *node) { // turned off
		n.register("alice").want(200)
		n.do("GET", client+"/profile/@alice:here.test/displayname", "", nil).want(404)
	})
}
