package stream

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"lyceum/platform/db"
)

// ErrNotOwner says that this process does not own the shard: ask the owner. What was queued before may be stored.
var ErrNotOwner error = movingError("another process owns this shard of the stream")

// ErrAborted says that an entry failed upon which this one was built, so this one was not written either: build it
// anew and try again.
var ErrAborted error = movingError("an entry that this one was built upon was not written")

// movingError is an error that passes as soon as a shard has its next owner.
type movingError string

func (e movingError) Error() string { return string(e) }

// HTTPStatus and MarshalJSON make it an answer to clients, where trying again did not help for long.
func (e movingError) HTTPStatus() int { return http.StatusServiceUnavailable }

// MarshalJSON gives the body of the answer. It has no retry_after_ms, which would say that nothing was changed.
func (e movingError) MarshalJSON() ([]byte, error) {
	return []byte(`{"errcode":"M_UNKNOWN","error":"The work moves to another process of the server: try again"}`), nil
}

// ErrBusy is what a BusyError is.
var ErrBusy = errors.New("too many writes are waiting")

// BusyError says that the queue of this process is full. Nothing was changed.
type BusyError struct{ RetryAfter time.Duration }

func (e *BusyError) Error() string { return ErrBusy.Error() }

// HTTPStatus and MarshalJSON make it an answer to clients.
func (e *BusyError) HTTPStatus() int { return http.StatusTooManyRequests }

// MarshalJSON gives the body of the answer (Client-Server API, "Rate limiting").
func (e *BusyError) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `{"errcode":"M_LIMIT_EXCEEDED","error":"The server is busy: wait before you try again",`+
		`"retry_after_ms":%d}`, e.RetryAfter.Milliseconds()), nil
}

// Is makes it an ErrBusy.
func (e *BusyError) Is(target error) bool { return target == ErrBusy }

// ErrTooLarge says that the entries of one ticket hold more bytes than one transaction takes. Nothing was changed.
var ErrTooLarge = errors.New("too much to be written at once")

// errNotAnnounced says that this process ended before the others knew of its rows. They may be stored.
var errNotAnnounced error = movingError("the other processes could not be told")

// isRefusal tells that a row was refused on purpose: it is known what its client did, or the row is there already.
func isRefusal(err error) bool {
	answer, ok := errors.AsType[interface {
		error
		HTTPStatus() int
	}](err)
	text, _ := errors.AsType[*db.TextError](err)
	return ok && answer.HTTPStatus() < 500 || text != nil || db.IsUnique(err)
}

func isUnconfirmed(err error) bool {
	var c *db.CommitError
	return errors.As(err, &c)
}
