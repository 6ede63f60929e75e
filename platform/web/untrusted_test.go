package web_test

import (
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"lyceum/platform/web"
)

// TestAProxyThatIsNotTrustedIsSaid once for each address, and not without end: anybody may send the header.
func TestAProxyThatIsNotTrustedIsSaid(t *testing.T) {
	log := &logBuffer{}
	s := newServer(t, web.Options{
		Log: slog.New(slog.NewTextHandler(log, nil)), Config: web.Config{TrustedProxies: []string{"10.0.0.0/8"}},
	}, web.Route{Pattern: "GET /open", Auth: web.None, Handler: func(r *web.Request) (any, error) {
		return map[string]string{"from": r.RemoteIP().String()}, nil
	}})
	ask := func(from, header string) {
		r := httptest.NewRequest("GET", "/open", nil)
		r.RemoteAddr = from + ":4711"
		if header != "" {
			r.Header.Set(header, "for=192.0.2.7")
		}
		s.Handler().ServeHTTP(httptest.NewRecorder(), r)
	}
	ask("10.0.0.5", "X-Forwarded-For")
	ask("172.16.0.1", "")
	if log := log.String(); strings.Contains(log, "trusted_proxies") {
		t.Errorf("a trusted proxy, or nobody's: %s", log)
	}
	for range 3 {
		ask("172.16.0.1", "X-Forwarded-For")
		ask("172.16.0.2", "Forwarded")
	}
	if n := strings.Count(log.String(), "http.trusted_proxies"); n != 2 || !strings.Contains(log.String(), "172.16.0.1") {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
	if found := s.UntrustedProxies(); !slices.Equal(found, []string{"172.16.0.1", "172.16.0.2"}) {
		t.Errorf("found %v", found)
	}
	for i := range 100 {
		ask(fmt.Sprintf("172.17.0.%d", i), "X-Forwarded-For")
	}
	if n := len(s.UntrustedProxies()); n > 20 {
		t.Errorf("%d addresses are remembered", n)
	}
}
