package rpcerror

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"lyceum/matrix"
	"lyceum/platform/db"
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
		back := Codec{}.Decode(Codec{}.Encode(fmt.Errorf("here: %w", c.err)))
		status := 500
		if answer, ok := errors.AsType[web.Answerer](back); ok {
			status = answer.HTTPStatus()
		}
		if status != c.status {
			t.Errorf("%v: expected %d, found %d (%v)", c.err, c.status, status, back)
		}
	}
	over := func(err error) error { return Codec{}.Decode(Codec{}.Encode(fmt.Errorf("at the owner: %w", err))) }
	if busy, ok := errors.AsType[*stream.BusyError](over(&stream.BusyError{RetryAfter: time.Minute})); !ok || busy.RetryAfter != time.Minute {
		t.Errorf("a full queue became %v", busy)
	}
	sent := matrix.NewError(418, matrix.CodeNotFound, "gone").WithExtra("soft_logout", true)
	got, _ := errors.AsType[*matrix.Error](over(sent))
	if want, err := sent.MarshalJSON(); err != nil || got == nil || got.Status != 418 {
		t.Errorf("%#v became %#v, %v", sent, got, err)
	} else if text, err := got.MarshalJSON(); err != nil || string(text) != string(want) {
		t.Errorf("%s became %s, %v", want, text, err)
	}
	if back := over(&db.TextError{Where: "notes.body", NUL: true}); !matrix.HasCode(back, matrix.CodeInvalidParam) {
		t.Errorf("text that can not be stored became %v", back)
	}
	if back, ok := errors.AsType[*matrix.Error](over(errors.New("secret"))); !ok || back.Message != "Internal server error" {
		t.Errorf("an error without a code became %v", back)
	}
	if back := (Codec{}).Decode(Codec{}.Encode(stream.ErrAborted)); !errors.Is(back, stream.ErrAborted) {
		t.Errorf("found %v", back)
	}
}
