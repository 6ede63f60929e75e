package accounts

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestWelcomePage(t *testing.T) {
	c := termsConfig()
	run(t, c, func(t *testing.T, n *node) {
		if _, err := n.CreateRegistrationToken(t.Context(), RegistrationToken{Token: "invite", UsesAllowed: 1}); err != nil {
			t.Fatal(err)
		}
		res, err := http.Get(n.url + "/")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		page := string(text)
		for _, want := range []string{
			"here.test", "Lyceum", n.url, "registration token", "Privacy &lt;b&gt;", `href="/_lyceum/status"`,
			`name="accept"`,
		} {
			if !strings.Contains(page, want) {
				t.Errorf("the page lacks %q: %s", want, page)
			}
		}
		policy := res.Header.Get("Content-Security-Policy")
		if strings.Contains(page, "<script") || strings.Contains(page, "src=") || strings.Contains(policy, "unsafe") ||
			!strings.Contains(policy, "default-src 'none'") {
			t.Errorf("the policy is %q", policy)
		}
		send := func(status int, want string, more ...string) {
			t.Helper()
			form := url.Values{"username": {"alice"}, "password": {"correct horse"}, "token": {"invite"}, "accept": {"yes"}}
			for i := 0; i < len(more); i += 2 {
				form.Set(more[i], more[i+1])
			}
			res, err := http.PostForm(n.url+"/", form)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(res.Body)
			if res.StatusCode != status || !strings.Contains(string(text), want) || strings.Contains(string(text), "correct horse") {
				t.Errorf("%v: found %d %s", more, res.StatusCode, text)
			}
		}
		send(400, "accepted", "accept", "")
		send(401, "token is not valid", "token", "wrong")
		send(401, "token is not valid", "token", "")
		send(400, "Mallory&#39;", "username", "Mallory'")
		send(400, "was not made", "password", "tiny")
		if pending, completed := n.uses("invite"); pending != 0 || completed != 0 {
			t.Errorf("%d uses are held, %d completed", pending, completed)
		}
		send(200, "@alice:here.test")
		send(400, "taken")
		n.login("alice", "correct horse").want(200)
		if devices := n.count(`SELECT COUNT(*) FROM user_devices`); devices != 1 {
			t.Errorf("found %d devices", devices)
		}
	})
	c.Registration = ClosedRegistration
	run(t, c, func(t *testing.T, n *node) {
		if x := n.do("GET", "/", "", nil).want(200); strings.Contains(x.raw, "<form") {
			t.Errorf("found %s", x.raw)
		}
		if x := n.do("POST", "/", "", "username=alice&password=correct+horse").want(403); !strings.Contains(x.raw, "closed") {
			t.Errorf("found %s", x.raw)
		}
	})
	c.Registration = OpenRegistration
	run(t, c, func(t *testing.T, n *node) {
		n.do("POST", "/", "", "username=alice&password=correct+horse&accept=yes").want(200)
		n.login("alice", "correct horse").want(200)
	})
}
