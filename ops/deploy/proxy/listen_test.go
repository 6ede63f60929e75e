package proxy

import (
	"strings"
	"testing"
)

// TestPlainTextIsNotServedWhereTLSIsExpected, and browsers are bound to TLS on demand alone.
func TestPlainTextIsNotServedWhereTLSIsExpected(t *testing.T) {
	for name, render := range map[string]func(Input) ([]byte, error){"haproxy": HAProxy, "nginx": Nginx, "caddy": Caddy} {
		in := Input{Roles: tableRoles, Routes: table(t), Backends: backends("router"), Listen: ":443"}
		if _, err := render(in); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s without a certificate on 443: %v", name, err)
		}
		in.TLSCertificate, in.TLSKey = "/etc/cert.pem", "/etc/key.pem"
		for _, hsts := range []bool{false, true} {
			in.HSTS = hsts
			text, err := render(in)
			if err != nil || strings.Contains(string(text), "Strict-Transport-Security") != hsts || strings.Contains(string(text), "preload") {
				t.Errorf("%s, HSTS %t: %v\n%.600s", name, hsts, err, text)
			}
		}
		in.TLSCertificate = ""
		in.Listen = ":80"
		if _, err := render(in); err == nil || !strings.Contains(err.Error(), "HSTS") {
			t.Errorf("%s with HSTS and no certificate: %v", name, err)
		}
	}
	// What is left out of an address is all of IPv4 and IPv6.
	both := Input{
		Roles: tableRoles, Routes: table(t), Backends: backends("router"), Listen: ":443", TLSCertificate: "/c", TLSKey: "/k", Redirect: ":80",
	}
	for name, want := range map[string]string{
		"haproxy": "bind :443,:::443 v6only ssl,bind :80,:::80 v6only",
		"nginx":   "listen 443 ssl http2;,listen [::]:443 ssl http2;,listen 80;,listen [::]:80;",
	} {
		text, err := map[string]func(Input) ([]byte, error){"haproxy": HAProxy, "nginx": Nginx}[name](both)
		for _, line := range strings.Split(strings.ReplaceAll(want, ",:::", "~:::"), ",") {
			if line = strings.ReplaceAll(line, "~", ","); err != nil || !strings.Contains(string(text), line) {
				t.Errorf("%s does not listen with %s: %v", name, line, err)
			}
		}
	}
	in := Input{Roles: tableRoles, Routes: table(t), Backends: backends("router"), Listen: ":443", ServerName: "example.org", Automatic: true}
	if text, err := Caddy(in); err != nil || !strings.Contains(string(text), "https://example.org:443 {") {
		t.Errorf("Caddy with its own certificates: %v\n%.600s", err, text)
	}
}
