package web_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"lyceum/platform/web"
)

func TestOldPaths(t *testing.T) {
	old := []web.OldPath{
		{Prefix: "/_m/r0/", Now: "/_m/v3/"},
		{Prefix: "/_m/unstable/", Now: "/_m/v3/"},
		{Prefix: "/_m/unstable/", Now: "/_m/v1/"},
		{Prefix: "/_m/v1/", Now: "/_m/v3/"},
	}
	s, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler), OldPaths: old})
	if err != nil {
		t.Fatal(err)
	}
	say := func(word string) web.Handler {
		return func(r *web.Request) (any, error) { return map[string]string{"route": word, "id": r.Path("id")}, nil }
	}
	routes := []web.Route{
		{Pattern: "GET /_m/v3/rooms/{id}", Auth: web.None, Handler: say("v3")},
		{
			Pattern: "PUT /_m/v3/rooms/{id}",
			Auth:    web.None,
			Handler: web.JSON(func(r *web.Request, b *map[string]string) (any, error) { return *b, nil }),
		},
		{Pattern: "GET /_m/v1/things/{id}", Auth: web.None, Handler: say("v1")},
		{Pattern: "GET /_m/unstable/things/{id}", Auth: web.None, Handler: say("unstable")},
		{Pattern: "GET /{rest...}", Auth: web.None, Handler: say("page")},
	}
	s.Add(routes...)
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/_m/v3/rooms/a", "", 200, `{"id":"a","route":"v3"}`},
		{"GET", "/_m/r0/rooms/a", "", 200, `{"id":"a","route":"v3"}`},
		{"GET", "/_m/r0/rooms/a%2Fb%20c", "", 200, `{"id":"a/b c","route":"v3"}`},
		{"PUT", "/_m/r0/rooms/a", `{"x":"y"}`, 200, `{"x":"y"}`},
		{"DELETE", "/_m/r0/rooms/a", "", 405, "M_UNRECOGNIZED"},
		{"GET", "/_m/unstable/rooms/a", "", 200, `{"id":"a","route":"v3"}`},
		{"GET", "/_m/unstable/things/a", "", 200, `{"id":"a","route":"unstable"}`},
		{"GET", "/_m/v1/things/a", "", 200, `{"id":"a","route":"v1"}`},
		{"GET", "/_m/v1/rooms/a", "", 200, `{"id":"a","route":"v3"}`},
		{"GET", "/_m/r0/nothing", "", 404, "M_UNRECOGNIZED"},
		{"GET", "/_m/r0/../v3/rooms/a", "", 404, "M_UNRECOGNIZED"},
		{"GET", "/hello", "", 200, `{"id":"","route":"page"}`},
	} {
		r, err := http.NewRequest(c.method, server.URL+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != c.status || !strings.Contains(string(body), c.want) {
			t.Errorf("%s %s: %d %s, expected %d %s", c.method, c.path, answer.StatusCode, body, c.status, c.want)
		}
	}
	var patterns []string
	for _, r := range web.WithOldPaths(routes[:4], old) {
		patterns = append(patterns, r.Pattern)
	}
	want := "GET /_m/v3/rooms/{id}, PUT /_m/v3/rooms/{id}, GET /_m/v1/things/{id}, GET /_m/unstable/things/{id}, GET /_m/r0/rooms/{id}, " +
		"PUT /_m/r0/rooms/{id}, GET /_m/unstable/rooms/{id}, PUT /_m/unstable/rooms/{id}, GET /_m/v1/rooms/{id}, PUT /_m/v1/rooms/{id}"
	if got := strings.Join(patterns, ", "); got != want {
		t.Errorf("routes with old paths: %s\nexpected: %s", got, want)
	}
}
