package web_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"lyceum/platform/web"
)

const long = 20 * time.Millisecond

// lateBody comes as a whole after a while, in which something happens.
func lateBody(happens func()) io.Reader {
	return io.MultiReader(readFunc(func([]byte) (int, error) {
		happens()
		time.Sleep(long)
		return 0, io.EOF
	}), iotest.OneByteReader(strings.NewReader(`{}`)))
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// TestWhatTookLongIsAskedAgain: a request whose token ended while it waited gets and does nothing.
func TestWhatTookLongIsAskedAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		auth    web.Auth
		method  string
		handler func(end func(), did *atomic.Int32) web.Handler
		late    bool // so is the body
		want    int
		did     int32
	}{
		"a read that takes long": {web.User, "GET", func(end func(), _ *atomic.Int32) web.Handler {
			return func(*web.Request) (any, error) { end(); time.Sleep(long); return nil, nil }
		}, false, 401, 0},
		"anybody's": {web.None, "GET", func(end func(), _ *atomic.Int32) web.Handler {
			return func(*web.Request) (any, error) { end(); time.Sleep(long); return nil, nil }
		}, false, 200, 0},
		"anybody's with a token": {web.Optional, "GET", func(end func(), _ *atomic.Int32) web.Handler {
			return func(*web.Request) (any, error) { end(); time.Sleep(long); return nil, nil }
		}, false, 401, 0},
		"one that waits": {web.User, "GET", func(end func(), _ *atomic.Int32) web.Handler {
			return func(r *web.Request) (any, error) { r.Waits(time.Second); end(); return nil, nil }
		}, false, 401, 0},
		"a stream, which is closed": {web.User, "GET", func(end func(), did *atomic.Int32) web.Handler {
			return func(r *web.Request) (any, error) {
				r.Waits(time.Second)
				end()
				return &web.Stream{Write: func(io.Writer) error { did.Add(10); return nil }, Close: func() { did.Add(1) }}, nil
			}
		}, false, 401, 1},
		"pieces that take long": {web.User, "GET", func(end func(), _ *atomic.Int32) web.Handler {
			return func(*web.Request) (any, error) {
				return &web.Pieces{Write: func(w io.Writer) error {
					end()
					time.Sleep(long)
					_, err := io.WriteString(w, `{}`)
					return err
				}}, nil
			}
		}, false, 401, 0},
		"many pieces that take long": {web.User, "GET", func(end func(), _ *atomic.Int32) web.Handler {
			return func(*web.Request) (any, error) {
				return &web.Pieces{Write: func(w io.Writer) error {
					end()
					time.Sleep(long)
					_, err := w.Write(make([]byte, 1<<20))
					return err
				}}, nil
			}
		}, false, 401, 0},
		"a body that comes late": {web.User, "POST", func(_ func(), did *atomic.Int32) web.Handler {
			return web.JSON(func(*web.Request, *struct{}) (any, error) { did.Add(1); return nil, nil })
		}, true, 401, 0},
		"a body that the handler reads": {web.User, "PUT", func(_ func(), did *atomic.Int32) web.Handler {
			return func(r *web.Request) (any, error) {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return nil, err
				}
				if err := r.RecheckAccess(); err != nil {
					return nil, err
				}
				did.Add(1)
				return nil, nil
			}
		}, true, 401, 0},
		"what was done": {web.User, "POST", func(end func(), did *atomic.Int32) web.Handler {
			return func(*web.Request) (any, error) { end(); did.Add(1); time.Sleep(long); return nil, nil }
		}, false, 200, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, did := &doors{}, &atomic.Int32{}
			end := func() { d.locked.Store(true) }
			s := newServer(
				t,
				web.Options{Authenticator: d},
				web.Route{Pattern: c.method + " /x", Auth: c.auth, EmptyBody: true, Handler: c.handler(end, did)},
			)
			var body io.Reader
			if c.late {
				body = lateBody(end)
			}
			r := httptest.NewRequest(c.method, "/x", body)
			r.Header.Set("Authorization", "Bearer x")
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			if w.Code != c.want || c.want == http.StatusUnauthorized && !strings.Contains(w.Body.String(), "M_USER_LOCKED") {
				t.Errorf("expected %d, found %d %.200s", c.want, w.Code, w.Body)
			}
			if did.Load() != c.did {
				t.Errorf("expected that it did %d, found %d", c.did, did.Load())
			}
		})
	}
}

// TestStreamsAreClosed, written or not.
func TestStreamsAreClosed(t *testing.T) {
	t.Parallel()
	var closed atomic.Int32
	s := newServer(t, web.Options{}, web.Route{Pattern: "GET /x", Auth: web.None, Handler: func(*web.Request) (any, error) {
		return &web.Stream{Write: func(io.Writer) error { return nil }, Close: func() { closed.Add(1) }}, nil
	}})
	for i, method := range []string{"GET", "HEAD"} {
		s.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, "/x", nil))
		if int(closed.Load()) != i+1 {
			t.Errorf("%s: closed %d times in all", method, closed.Load())
		}
	}
}

func TestSuspendedMayNotAct(t *testing.T) {
	t.Parallel()
	people := tokens{"on": &web.Identity{UserID: "@on:x", Suspended: true}, "off": &web.Identity{UserID: "@off:x"}}
	s := newServer(
		t,
		web.Options{Authenticator: people},
		web.Route{Pattern: "GET /x", Auth: web.Optional, Handler: func(r *web.Request) (any, error) { return nil, r.MayAct() }},
	)
	for token, want := range map[string]int{"on": 403, "off": 200, "": 200} {
		r := httptest.NewRequest("GET", "/x", nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != want || want == 403 && !strings.Contains(w.Body.String(), "M_USER_SUSPENDED") {
			t.Errorf("%q: %d %s", token, w.Code, w.Body)
		}
	}
}
