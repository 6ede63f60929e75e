package rpcerror

import (
	"encoding/json"
	"errors"
	"time"

	"lyceum/matrix"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// Codec is the rpc.Errors of every process. It encodes errors as JSON.
type Codec struct{}

// streamErrors are the errors of streams that keep their identity, by their names on the wire.
var streamErrors = map[string]error{
	"not_owner": stream.ErrNotOwner,
	"aborted":   stream.ErrAborted,
	"busy":      stream.ErrBusy,
}

// message is an error on the wire: that of a stream by its name, or a Matrix error.
type message struct {
	Name   string        `json:"name,omitempty"` // of streamErrors
	Status int           `json:"status,omitempty"`
	Matrix *matrix.Error `json:"matrix,omitempty"`
	Cause  string        `json:"cause,omitempty"` // for the log

	RetryAfter time.Duration `json:"retry_after,omitempty"` // of busy
}

// Encode implements rpc.Errors.
func (Codec) Encode(err error) []byte {
	w := message{Cause: err.Error()}
	if busy, ok := errors.AsType[*stream.BusyError](err); ok {
		w.RetryAfter = busy.RetryAfter
	}
	for name, known := range streamErrors {
		if errors.Is(err, known) {
			w.Name = name
		}
	}
	if w.Name == "" {
		w.Matrix = toMatrix(err)
		w.Status = w.Matrix.Status
	}
	b, err := json.Marshal(w)
	if err != nil {
		return []byte(`{}`)
	}
	return b
}

// toMatrix gives an error the answer that it has where it comes up in the process of the request.
func toMatrix(err error) *matrix.Error {
	if answer, ok := web.AnswerOf(err).(*web.Error); ok {
		return matrix.NewError(answer.Status, answer.Code, answer.Message).With(err)
	}
	return matrix.AsError(err)
}

// Decode implements rpc.Errors. An answer that is no encoded error becomes an error with its text.
func (Codec) Decode(data []byte) error {
	var w message
	if err := json.Unmarshal(data, &w); err != nil {
		return errors.New("another process answered: " + string(data[:min(len(data), 200)]))
	}
	if w.Name == "busy" {
		return &stream.BusyError{RetryAfter: w.RetryAfter}
	}
	if known := streamErrors[w.Name]; known != nil {
		return known
	}
	if w.Matrix == nil {
		return errors.New("another process failed: " + w.Cause)
	}
	if w.Status != 0 {
		w.Matrix.Status = w.Status
	}
	return w.Matrix.With(errors.New(w.Cause))
}
