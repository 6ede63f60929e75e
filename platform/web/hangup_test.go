package web_test

import (
	"context"
	"log/slog"
	"strings"
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
