package web_test

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/web"
)

// A request that may change something is waited for; one that reads is not, nor one of another user.
func TestWaitForWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	acts, w := web.NewUnderWay(), newWork()
	s := newServer(
		t,
		web.Options{UnderWay: acts},
		web.Route{
			Pattern:   "POST /work",
			Auth:      web.User,
			EmptyBody: true,
			Handler:   w.handle,
		},
		web.Route{Pattern: "GET /work", Auth: web.User, Handler: w.handle},
	)
	_, read := askMany(s.Handler(), 1, "GET /work", "Authorization: Bearer alice")
	until(t, "it reads", func() bool { return w.now.Load() == 1 })
	if err := acts.Wait(t.Context(), "@alice:x"); err != nil {
		t.Error(err)
	}
	_, act := askMany(s.Handler(), 3, "POST /work", "Authorization: Bearer alice")
	until(t, "all are at work", func() bool { return w.now.Load() == 4 })
	if err := acts.Wait(t.Context(), "@root:x"); err != nil {
		t.Error(err)
	}
	short, end := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer end()
	if err := acts.Wait(short, "@alice:x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("expected that it waits, found %v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- acts.Wait(t.Context(), "@alice:x") }()
	close(w.release)
	if err := <-waited; err != nil || w.done.Load() < 3 {
		t.Errorf("%d were done, %v", w.done.Load(), err)
	}
	read()
	act()
}

// A request that waits for its body is not waited for, and does nothing when the body comes.
func TestNobodyWaitsForABody(t *testing.T) {
	t.Parallel()
	acts, door, did := web.NewUnderWay(), &doors{}, atomic.Int32{}
	s := newServer(t, web.Options{UnderWay: acts, Authenticator: door}, web.Route{
		Pattern: "POST /act", Auth: web.User, Handler: web.JSON(func(*web.Request, *struct{}) (any, error) { did.Add(1); return nil, nil }),
	})
	sent := false
	body := readFunc(func(p []byte) (int, error) {
		if sent {
			return 0, io.EOF
		}
		sent = true
		door.locked.Store(true)
		if err := acts.Wait(t.Context(), "@a:x"); err != nil {
			t.Error(err)
		}
		return copy(p, "{}"), nil
	})
	r := httptest.NewRequest("POST", "/act", body)
	r.Header.Set("Authorization", "Bearer x")
	a := httptest.NewRecorder()
	s.Handler().ServeHTTP(a, r)
	if a.Code != 401 || did.Load() != 0 {
		t.Errorf("expected 401, found %d %s; %d were done", a.Code, a.Body, did.Load())
	}
}

// Two that wait for each other end.
func TestWhoWaitsIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	acts := web.NewUnderWay()
	var both sync.WaitGroup
	both.Add(2)
	s := newServer(
		t,
		web.Options{UnderWay: acts},
		web.Route{Pattern: "POST /end", Auth: web.User, EmptyBody: true, Handler: func(r *web.Request) (any, error) {
			both.Done()
			both.Wait()
			return nil, acts.Wait(r.Context(), "@alice:x")
		}},
	)
	statuses, wait := askMany(s.Handler(), 2, "POST /end", "Authorization: Bearer alice")
	wait()
	if counted(statuses, 200) != 2 {
		t.Error("they did not end")
	}
}

// A client that goes away does not end what is at work, which is waited for as well.
func TestAClientThatLeftIsWaitedFor(t *testing.T) {
	t.Parallel()
	acts, w := web.NewUnderWay(), newWork()
	address := listen(t, web.Options{UnderWay: acts}, web.Route{Pattern: "POST /work", Auth: web.User, EmptyBody: true, Handler: w.handle})
	c := dial(t, address, "POST /work HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer alice\r\nContent-Length: 0\r\n\r\n")
	until(t, "it is at work", func() bool { return w.now.Load() == 1 })
	_ = c.Close()
	waited := make(chan error, 1)
	go func() { waited <- acts.Wait(t.Context(), "@alice:x") }()
	select {
	case err := <-waited:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(w.release)
	if err := <-waited; err != nil || w.done.Load() != 1 {
		t.Errorf("%d were done, %v", w.done.Load(), err)
	}
}
