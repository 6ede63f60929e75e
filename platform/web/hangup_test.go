package web_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/platform/web"
)

// A client that hangs up before its body was read, or after its request was set aside, is noticed at the latest when the time is
// over: that is no error either.
func TestAClientThatLeftUnnoticedIsNoError(t *testing.T) {
	for name, request := range map[string]string{
		"before its body was read":  "POST /body?access_token=t HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
		"with more to read":         "POST /body?access_token=t HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}GET /body HTTP/1.1\r\n",
		"before all of it was sent": "POST /body?access_token=t HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
		"in its handler":            "GET /hang HTTP/1.1\r\nHost: x\r\n\r\n",
		"with another request":      "GET /hang HTTP/1.1\r\nHost: x\r\n\r\nGET /hang HTTP/1.1\r\nHost: x\r\n\r\n",
		"after it waited":           "GET /poll HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			log := &logBuffer{}
			began := make(chan struct{}, 9)
			work := func(ctx context.Context) error {
				began <- struct{}{}
				<-ctx.Done()
				return ctx.Err()
			}
			o := web.Options{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Authenticator: tokens{}}
			if strings.HasPrefix(request, "POST") {
				o.Barrier = work
			}
			address := listen(t, o,
				web.Route{Pattern: "POST /body", Auth: web.User, Timeout: slow, Handler: ok},
				web.Route{Pattern: "GET /hang", Auth: web.None, Timeout: slow, Handler: func(r *web.Request) (any, error) {
					return nil, work(r.Context())
				}},
				web.Route{Pattern: "GET /poll", Auth: web.None, Timeout: slow, Handler: func(*web.Request) (any, error) {
					return &web.Park{
						Wait: func(func()) func() { return func() {} }, Until: time.Now().Add(slow),
						Resume: func(ctx context.Context, _ bool) (any, error) { return nil, work(ctx) },
					}, nil
				}},
			)
			client := dial(t, address, request)
			<-began
			_ = client.Close()
			until(t, "the request ends", func() bool { return strings.Contains(log.String(), "msg=request ") })
			if text := log.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, "level=WARN") {
				t.Errorf("the log has %s", text)
			}
		})
	}
}

// Nothing is done for a client that left while its request waited, before it was at work: what the client did since would be undone.
func TestNothingIsDoneForAClientThatLeft(t *testing.T) {
	for name, request := range map[string]string{
		"with a body":    "PUT /body?access_token=alice HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
		"without a body": "PUT /empty?access_token=alice HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"passed on": "GET /first HTTP/1.1\r\nHost: x\r\n\r\nPUT /passed?access_token=alice HTTP/1.1\r\nHost: " +
			"x\r\nContent-Length: 2\r\n\r\n{}",
	} {
		t.Run(name, func(t *testing.T) {
			log, did, waits, goOn := &logBuffer{}, atomic.Int32{}, make(chan struct{}), make(chan struct{})
			wait := sync.OnceFunc(func() {
				close(waits)
				<-goOn
			})
			do := func(r *web.Request) (any, error) {
				did.Add(1)
				return nil, nil
			}
			o := web.Options{
				Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Authenticator: people,
				Barrier: func(context.Context) error {
					wait()
					return nil
				},
			}
			if name == "passed on" {
				o.Dispatch = func(r *web.Request) (bool, error) {
					if r.Method == "GET" {
						wait()
						return false, nil
					}
					_, err := do(r)
					return true, err
				}
			}
			address := listen(t, o,
				web.Route{Pattern: "PUT /body", Auth: web.User, Handler: web.JSON(func(r *web.Request, _ *struct{}) (any, error) { return do(r) })},
				web.Route{Pattern: "PUT /empty", Auth: web.User, EmptyBody: true, Handler: do},
				web.Route{Pattern: "PUT /passed", Auth: web.User, Handler: do},
				web.Route{Pattern: "GET /first", Auth: web.None, Handler: ok},
			)
			c := dial(t, address, request)
			<-waits
			if err := c.(*net.TCPConn).CloseWrite(); err != nil { // its end, which an answer does not reset
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond) // until that has come
			close(goOn)
			until(t, "the request ends", func() bool {
				return strings.Contains(log.String(), "method=PUT") && strings.Contains(log.String(), "msg=request ")
			})
			if did.Load() != 0 {
				t.Errorf("it was done: %s", log.String())
			} else if !strings.Contains(log.String(), "the client left") {
				t.Errorf("it ended in another way: %s", log.String())
			}
		})
	}
}
