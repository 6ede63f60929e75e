package web_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lyceum/matrix"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// An answer that somebody gives on purpose is no error of the server's.
func TestHowLoudAFailureIs(t *testing.T) {
	for _, c := range []struct {
		err   error
		level string // "": none that is seen
	}{
		{matrix.Forbidden("no"), ""},
		{matrix.NotYetUploaded(), ""},
		{fmt.Errorf("a ban: %w", stream.ErrNotOwner), ""},
		{stream.ErrAborted, ""},
		{&web.Error{Status: 503, Code: "M_UNKNOWN", Message: "later", RetryAfter: 1e9}, ""},
		{&pgconn.PgError{Code: "57P03"}, "WARN"},
		{matrix.Unavailable("later").With(errors.New("broken")), "WARN"},
		{&web.Error{Status: 502, Code: "M_UNKNOWN", Message: "lost", Cause: io.ErrUnexpectedEOF}, "ERROR"},
		{matrix.Unknown("broken"), "ERROR"},
		{errors.New("broken"), "ERROR"},
		{context.Canceled, "ERROR"}, // its client is there
		{&pgconn.PgError{Code: "53100"}, "ERROR"},
	} {
		log := &logBuffer{}
		s := newServer(t, web.Options{Log: slog.New(slog.NewTextHandler(log, nil))},
			web.Route{Pattern: "GET /x", Auth: web.None, Handler: func(*web.Request) (any, error) { return nil, c.err }})
		call(s.Handler(), "GET /x", "")
		_, rest, _ := strings.Cut(log.String(), "level=")
		if level, _, _ := strings.Cut(rest, " "); level != c.level {
			t.Errorf("%v: expected level %q, found %s", c.err, c.level, log)
		}
	}
}

// What fails because its client left is no error either, whatever the failure is called where it comes up.
func TestAClientThatLeavesIsNoError(t *testing.T) {
	for _, failure := range []error{
		context.Canceled, fmt.Errorf("a statement: %w", context.Canceled),
		errors.New("a statement: context canceled"),
	} {
		for name, waits := range map[string]bool{"in its handler": false, "while it waits": true} {
			log, began := &logBuffer{}, make(chan struct{})
			address := listen(t, web.Options{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))},
				web.Route{Pattern: "GET /x", Auth: web.None, Handler: func(r *web.Request) (any, error) {
					work := func(ctx context.Context, _ bool) (any, error) {
						close(began)
						<-ctx.Done()
						return nil, failure
					}
					if !waits {
						return work(r.Context(), false)
					}
					return &web.Park{Until: time.Now().Add(time.Minute), Resume: work, Wait: func(wake func()) func() {
						wake()
						return func() {}
					}}, nil
				}})
			client := dial(t, address, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
			<-began
			_ = client.Close()
			until(t, "the request ends", func() bool { return strings.Contains(log.String(), "status=499") })
			if text := log.String(); strings.Contains(text, "level=ERROR") || strings.Contains(text, "level=WARN") {
				t.Errorf("%v, %s: the log has %s", failure, name, text)
			}
		}
	}
}
