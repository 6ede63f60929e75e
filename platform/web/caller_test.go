package web_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"lyceum/platform/caller"
	"lyceum/platform/web"
)

// nameCaller says on whose behalf a context is.
func nameCaller(ctx context.Context) string {
	w := caller.Of(ctx)
	if w == nil {
		return "nobody"
	}
	if id := w.ID(); id.User != "" {
		return id.User
	} else if id.Network.IsValid() {
		return id.Network.String() + " for " + id.For
	}
	return "unknown"
}

// letters is an Authenticator that notes on whose behalf it is asked.
type letters struct{ asked string }

func (l *letters) Authenticate(ctx context.Context, token string) (*web.Identity, error) {
	l.asked = nameCaller(ctx)
	return people.Authenticate(ctx, token)
}

func TestAContextKnowsItsCaller(t *testing.T) {
	name := func(r *web.Request) (any, error) { return map[string]string{"caller": nameCaller(r.Context())}, nil }
	door := &letters{}
	s := newServer(t, web.Options{Authenticator: door},
		web.Route{Pattern: "GET /mine", Auth: web.User, Handler: name},
		web.Route{Pattern: "GET /open", Auth: web.None, Handler: name},
		web.Route{Pattern: "GET /fleet", Auth: web.Fleet, Handler: name})
	for _, c := range []struct {
		from   http.Handler
		target string
		want   string
	}{
		{s.Handler(), "GET /mine", "@alice:x"},
		{s.Handler(), "GET /open", "192.0.2.1/32 for GET /open"}, // of net/http/httptest
		{s.Internal(), "GET /fleet", "nobody"},
	} {
		if a := call(c.from, c.target, "", "Authorization: Bearer alice"); !strings.Contains(a.Body.String(), `"`+c.want+`"`) {
			t.Errorf("%s: found %s, expected %s", c.target, a.Body, c.want)
		}
	}
	if door.asked != "192.0.2.1/32 for GET /mine" {
		t.Errorf("before the user is known: found %s, expected his address", door.asked)
	}
}

// One that was set aside goes on for the same caller.
func TestAParkedRequestKnowsItsCaller(t *testing.T) {
	resume := func(ctx context.Context, _ bool) (any, error) {
		return map[string]string{"caller": nameCaller(ctx)}, nil
	}
	s := newServer(
		t,
		web.Options{Authenticator: &letters{}},
		web.Route{Pattern: "GET /wait", Auth: web.User, Handler: func(*web.Request) (any, error) {
			return &web.Park{Until: time.Now().Add(time.Second), Wait: func(func()) func() { return func() {} }, Resume: resume}, nil
		}},
	)
	address := running(t, s)
	answers := make(chan string, 1)
	go func() {
		text, _, err := fetch(http.DefaultClient, "http://"+address+"/wait?access_token=alice")
		if err != nil {
			t.Error(err)
		}
		answers <- text
	}()
	until(t, "the request is set aside", func() bool { return s.Parked() == 1 })
	if text := <-answers; text != `200 {"caller":"@alice:x"}` {
		t.Errorf("found %s", text)
	}
}
