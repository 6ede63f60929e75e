package roletest

import (
	"encoding/json"
	"errors"

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

var named = []error{stream.ErrNotOwner, stream.ErrAborted, stream.ErrBusy}

type wireError struct {
	Status int
	Matrix *matrix.Error
}

func (wireErrors) Encode(err error) []byte {
	for _, known := range named {
		if errors.Is(err, known) {
			return []byte(known.Error())
		}
	}
	if text, ok := errors.AsType[*db.TextError](err); ok {
		err = matrix.NewError(400, matrix.CodeInvalidParam, text.Error())
	}
	e := matrix.AsError(err)
	b, _ := json.Marshal(wireError{e.Status, e})
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
	w.Matrix.Status = w.Status
	return w.Matrix
}
