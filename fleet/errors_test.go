package fleet

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"lyceum/matrix"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// What a process says of an error is what the process of the request would have said of it.
func TestErrorsKeepTheirAnswerOverTheWire(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{matrix.Forbidden("no"), 403},
		{&pgconn.PgError{Code: "53300"}, 503},
		{&pgconn.PgError{Code: "53100"}, 507},
		{&stream.BusyError{}, 429},
		{stream.ErrNotOwner, 503},
		{stream.ErrAborted, 503},
		{errors.New("broken"), 500},
	} {
		back := wireErrors{}.Decode(wireErrors{}.Encode(fmt.Errorf("here: %w", c.err)))
		status := 500
		if answer, ok := errors.AsType[web.Answerer](back); ok {
			status = answer.HTTPStatus()
		}
		if status != c.status {
			t.Errorf("%v: expected %d, found %d (%v)", c.err, c.status, status, back)
		}
	}
	if back := (wireErrors{}).Decode(wireErrors{}.Encode(stream.ErrAborted)); !errors.Is(back, stream.ErrAborted) {
		t.Errorf("found %v", back)
	}
}
