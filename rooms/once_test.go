package rooms

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/platform/role"
	"lyceum/platform/router"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
)

// lossy is a way to a process: it does what it is asked, then somebody else does something, then the answer is lost.
type lossy struct {
	process http.Handler
	then    func()
}

func (l *lossy) Route(string, string) (addr string, local, ok bool) {
	return "elsewhere:1", false, true
}
func (l *lossy) IsAlive(string) bool { return true }

func (l *lossy) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	w := httptest.NewRecorder()
	l.process.ServeHTTP(w, r)
	if trace != nil {
		trace.GotConn(httptrace.GotConnInfo{}) // something was sent
	}
	if w.Code != http.StatusOK {
		return w.Result(), nil
	}
	l.then()
	return nil, io.ErrUnexpectedEOF
}

// A process passes PUT /state on, the other does it and is lost, so it is done here: it must be one event, whatever
// happened meanwhile.
func TestStateThatIsPassedOnTwiceIsOneEvent(t *testing.T) {
	run(t, func(t *testing.T, p *role.Process, r *Rooms) {
		people := webtest.People{"alice": {UserID: "@alice:" + server, DeviceID: "A"}, "bob": {UserID: "@bob:" + server, DeviceID: "B"}}
		log := slog.New(slog.NewTextHandler(t.Output(), nil))
		inner := webtest.New(t, people, r.Routes()...)
		alice, bob := &person{inner.As("alice"), t, "@alice:" + server}, &person{inner.As("bob"), t, "@bob:" + server}
		id := alice.create(
			obj{
				"preset":                       "public_chat",
				"power_level_content_override": obj{"users": obj{"@alice:" + server: 100, "@bob:" + server: 50}},
				"room_version":                 "11",
			},
		)
		bob.join(id)
		events := func(typ string) (n int) {
			t.Helper()
			if err := p.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM events WHERE room_id = $1 AND type = $2", id, typ).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		for _, c := range []struct {
			typ, key, first string
			other           func() // by somebody else, before the answer is lost
		}{
			{"m.room.topic", "", `{"topic":"hers"}`, func() { bob.state(id, "m.room.topic", "", obj{"topic": "his"}) }},
			{"m.room.member", "@alice:" + server, `{"membership":"join","displayname":"A"}`, func() {
				alice.state(id, "m.room.member", "@alice:"+server, obj{"membership": "join", "displayname": "later"})
			}},
		} {
			way := &lossy{then: c.other}
			pass := router.New(router.Options{Directory: way, Transport: way, Machine: 1, Log: log})
			public, err := web.New(web.Options{Log: log, Authenticator: people, Dispatch: pass.Dispatch})
			if err != nil {
				t.Fatal(err)
			}
			public.Add(r.Routes()...)
			way.process = public.Internal()
			before := events(c.typ)
			method, path, _ := strings.Cut(at("PUT", id, "state/"+c.typ+"/"+esc(c.key)), " ")
			request := httptest.NewRequest(method, path, strings.NewReader(c.first))
			request.Header.Set("Authorization", "Bearer alice")
			w := httptest.NewRecorder()
			public.Handler().ServeHTTP(w, request)
			if w.Code != 200 || gjson.GetBytes(w.Body.Bytes(), "event_id").String() == "" {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if n := events(c.typ) - before; n != 2 {
				t.Errorf("%s: %d events, expected that of the request and the other", c.typ, n)
			}
			now := alice.Want(200, at("GET", id, "state/"+c.typ+"/"+esc(c.key)), nil)
			if strings.Contains(string(now.Body), `"hers"`) || strings.Contains(string(now.Body), `"A"`) {
				t.Errorf("what came later was overwritten: %s", now.Body)
			}
		}
	})
}
