package roletest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/stream"
)

func TestErrorsStayWhatTheyAreBetweenProcesses(t *testing.T) {
	over := func(err error) error { return wireErrors{}.Decode(wireErrors{}.Encode(err)) }
	for _, known := range []error{stream.ErrNotOwner, stream.ErrAborted} {
		if got := over(fmt.Errorf("at the owner: %w", known)); !errors.Is(got, known) {
			t.Errorf("%v became %v", known, got)
		}
	}
	var busy *stream.BusyError
	if !errors.As(over(fmt.Errorf("at the owner: %w", &stream.BusyError{RetryAfter: time.Minute})), &busy) || busy.RetryAfter != time.Minute {
		t.Errorf("a full queue became %v", busy)
	}
	sent := matrix.NewError(418, matrix.CodeNotFound, "gone").WithExtra("soft_logout", true)
	var got *matrix.Error
	if !errors.As(over(fmt.Errorf("at the owner: %w", sent)), &got) || !cmp.Equal(sent, got) {
		t.Errorf("%#v became %#v", sent, got)
	}
	if got := over(fmt.Errorf("at the owner: %w", &db.TextError{Where: "notes.body", NUL: true})); !matrix.HasCode(got,
		matrix.CodeInvalidParam) {
		t.Errorf("text that can not be stored became %v", got)
	}
	if got := over(errors.New("secret")); got.Error() != matrix.Unknown("Internal server error").Error() {
		t.Errorf("an error without a code became %v", got)
	}
}
