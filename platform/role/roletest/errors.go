package roletest

import (
	"encoding/json"
	"errors"
	"time"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/rpc"
	"lyceum/platform/stream"
)

// wireErrors carries errors between processes as package fleet does: Matrix errors stay what they are, and so do those
// of streams that a caller must tell apart.
type wireErrors struct{}

// WireErrors are the errors for processes that a test starts itself.
func WireErrors() rpc.Errors { return wireErrors{} }

var named = []error{stream.ErrNotOwner, stream.ErrAborted}

type wireError struct {
	Status int
	Matrix *matrix.Error
	Busy   time.Duration // of a stream.BusyError
}

func (wireErrors) Encode(err error) []byte {
	for _, known := range named {
		if errors.Is(err, known) {
			return []byte(known.Error())
		}
	}
	if busy, ok := errors.AsType[*stream.BusyError](err); ok {
		b, _ := json.Marshal(wireError{Busy: busy.RetryAfter})
		return b
	}
	if text, ok := errors.AsType[*db.TextError](err); ok {
		err = matrix.NewError(400, matrix.CodeInvalidParam, text.Error())
	}
	e := matrix.AsError(err)
	b, _ := json.Marshal(wireError{Status: e.Status, Matrix: e})
	return b
}

func (wireErrors) Decode(data []byte) error {
	for _, known := range named {
		if string(data) == known.Error() {
			return known
		}
	}
	var w wireError
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	if w.Busy > 0 {
		return &stream.BusyError{RetryAfter: w.Busy}
	}
	w.Matrix.Status = w.Status
	return w.Matrix
}
