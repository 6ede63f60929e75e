package accounts

import (
	"strings"
	"testing"
	"time"

	"lyceum/platform/conf"
)

func TestConfigLoads(t *testing.T) {
	var c Config
	section := conf.Section{Name: "accounts", Into: &c, Help: "Users."}
	if err := conf.Load(conf.Sources{}, section); err != nil {
		t.Fatal(err)
	}
	if c.Registration != TokenRegistration || c.AccessTokenLife.D() != time.Hour || c.Password.MinLength != 8 {
		t.Fatalf("found %+v", c)
	}
	if text := string(conf.Reference([]conf.Section{section})); !strings.Contains(text, "shared_secret") ||
		strings.Contains(text, "server_name") {
		t.Fatalf("found %s", text)
	}
	c.ServerName = "here.test"
	c.Terms = map[string]Term{"privacy": {Version: "1"}}
	if err := c.check(); err == nil || !strings.Contains(err.Error(), "terms.privacy") {
		t.Fatalf("found %v", err)
	}
	for _, address := range []string{"ftp://example.org", "example.org", "https://", "javascript:alert(1)", "https://a b"} {
		c := Config{WellKnown: WellKnown{Client: address}}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "well_known.client") {
			t.Errorf("%s: found %v", address, err)
		}
	}
}
