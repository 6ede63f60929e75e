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
		send(401, "A registration token is needed", "token", "")
		send(400, "Mallory&#39;", "username", "Mallory'")
		send(400, "was not made", "password", "tiny")
		if pending, completed := n.uses("invite"); pending != 0 || completed != 0 {
			t.Errorf("%d uses are held, %d completed", pending, completed)
		}
		send(200, "@alice:here.test")
		send(400, "taken. If you have just made this account, you can log in")
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
		if status, text, _ := n.form("/", "username=alice&password=correct+horse"); status != 403 || !strings.Contains(text, "closed") {
			t.Errorf("found %d %s", status, text)
		}
	})
	c.Registration = OpenRegistration
	run(t, c, func(t *testing.T, n *node) {
		status, text, header := n.form("/", "username=alice&password=correct+horse&accept=yes")
		if status != 303 {
			t.Errorf("found %d %s", status, text)
		}
		n.login("alice", "correct horse").want(200)
		for range 2 { // it may be loaded again
			if x := n.do("GET", header.Get("Location"), "", nil).want(200); !strings.Contains(x.raw, "account is ready") ||
				!strings.Contains(x.raw, "@alice:here.test") {
				t.Errorf("found %s", x.raw)
			}
		}
		for _, invented := range []string{"/?made=%40bob%3Ahere.test", strings.Replace(header.Get("Location"), "alice", "bob", 1)} {
			if x := n.do("GET", invented, "", nil).want(200); strings.Contains(x.raw, "account is ready") {
				t.Errorf("found %s", x.raw)
			}
		}
	})
}

// form sends a form as a browser does, with more headers as names and values, and follows no redirection.
func (n *node) form(path, body string, more ...string) (status int, text string, header http.Header) {
	n.t.Helper()
	req, err := http.NewRequest(http.MethodPost, n.url+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Content-Type", formType)
	req.Header.Set("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")
	for i := 0; i < len(more); i += 2 {
		req.Header.Set(more[i], more[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return res.StatusCode, string(all), res.Header
}

// TestFormsOfOtherSitesAreRefused: those of the page and of the fallback pages, and what is no form, always with a page.
func TestFormsOfOtherSitesAreRefused(t *testing.T) {
	c := termsConfig()
	c.WellKnown.Client = "https://matrix.here.test"
	run(t, c, func(t *testing.T, n *node) {
		session := n.do("POST", client+"/register", "", obj{"username": "alice", "password": "correct horse"}).want(401).text("session")
		for _, path := range []string{"/", client + "/auth/" + stageTerms + "/fallback/web?session=" + session} {
			for _, x := range []struct {
				status int // 0: the form is read
				more   []string
			}{
				{403, []string{"Origin", "https://evil.example"}},
				{403, []string{"Origin", "null"}},
				{403, []string{"Sec-Fetch-Site", "cross-site"}},
				{403, []string{"Sec-Fetch-Site", "same-site", "Origin", "https://other.here.test"}},
				{400, []string{"Content-Type", "application/json"}},
				{400, []string{"Content-Type", "text/plain"}},
				{400, []string{"Content-Type", "multipart/form-data; boundary=x"}},
				{400, []string{"Content-Type", formType + "; charset=utf-16"}},
				{0, []string{"Content-Type", formType + "; charset=UTF-8"}},
				{0, []string{"Sec-Fetch-Site", "same-origin", "Origin", "https://anything.example"}},
				{0, []string{"Origin", n.url}},
				{0, []string{"Origin", "https://matrix.here.test"}},
				{0, nil},
			} {
				status, text, header := n.form(path, "session=invented&username=alice&password=tiny&token=wrong", x.more...)
				if x.status == 0 && (status == 403 || strings.Contains(text, "must be sent as")) || x.status != 0 && status != x.status {
					t.Errorf("%s %v: found %d %s", path, x.more, status, text)
				}
				if !strings.Contains(text, "<html") || !strings.HasPrefix(header.Get("Content-Type"), "text/html") ||
					header.Get("X-Frame-Options") != "DENY" || !strings.Contains(header.Get("Content-Security-Policy"), "frame-ancestors 'none'") {
					t.Errorf("%s %v: found %s %v", path, x.more, text, header)
				}
			}
		}
		if status, text, _ := n.form("/", strings.Repeat("x", 20<<10)); status != 413 || !strings.Contains(text, "<html") {
			t.Errorf("a large form: found %d %s", status, text)
		}
		n.login("alice", "correct horse").want(403)
	})
}

// TestTheAddressBehindAProxy: who came to it with https is not told http.
func TestTheAddressBehindAProxy(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		req, err := http.NewRequest(http.MethodGet, n.url+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "matrix.here.test"
		req.Header.Set("X-Forwarded-Proto", "https")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if text, _ := io.ReadAll(res.Body); !strings.Contains(string(text), "<code>https://matrix.here.test</code>") {
			t.Errorf("found %s", text)
		}
	})
}
