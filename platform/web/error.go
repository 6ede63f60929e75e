package web

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"lyceum/platform/db"
)

// Answerer is an error that knows its answer: MarshalJSON gives the body, HTTPStatus the status. Where the
// body of a 429 or 503 has retry_after_ms, the answer carries Retry-After too.
type Answerer interface {
	error
	json.Marshaler
	HTTPStatus() int
}

// Error is an error that this package makes itself. It is an [Answerer] with a Matrix error body
// (Client-Server API, "Standard error response").
type Error struct {
	Status     int           // HTTP status
	Code       string        // errcode, M_…
	Message    string        // for the client; says what was expected, what was found, what to do
	RetryAfter time.Duration // for M_LIMIT_EXCEEDED
	Cause      error         // for the log; never sent
}

// Error returns code, message and cause.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Code + ": " + e.Message + ": " + e.Cause.Error()
	}
	return e.Code + ": " + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// HTTPStatus returns the status of the answer.
func (e *Error) HTTPStatus() int { return e.Status }

// MarshalJSON returns {"errcode","error"} and, where it applies, retry_after_ms.
func (e *Error) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Code    string `json:"errcode"`
		Message string `json:"error"`
		Retry   int64  `json:"retry_after_ms,omitempty"`
	}{e.Code, e.Message, e.RetryAfter.Milliseconds()})
}

func notJSON(message string, cause error) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "M_NOT_JSON", Message: message, Cause: cause}
}

func badJSON(message string, cause error) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "M_BAD_JSON", Message: message, Cause: cause}
}

func invalidParam(message string) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "M_INVALID_PARAM", Message: message}
}

func tooLarge(message string) *Error {
	return &Error{Status: http.StatusRequestEntityTooLarge, Code: "M_TOO_LARGE", Message: message}
}

func missingToken() *Error {
	return &Error{
		Status:  http.StatusUnauthorized,
		Code:    "M_MISSING_TOKEN",
		Message: "An access token is needed: send it as Authorization: Bearer",
	}
}

func forbidden(message string) *Error {
	return &Error{Status: http.StatusForbidden, Code: "M_FORBIDDEN", Message: message}
}

func limitExceeded(wait time.Duration) *Error {
	return &Error{
		Status:     http.StatusTooManyRequests,
		Code:       "M_LIMIT_EXCEEDED",
		Message:    "Too many requests: wait before the next",
		RetryAfter: max(wait, time.Millisecond),
	}
}

// stale refuses a request because this process can not know whether its caches are current.
func stale(cause error) *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Code: "M_UNKNOWN", RetryAfter: time.Second, Cause: cause,
		Message: "The server can not reach its database and may have missed what happened: try again soon",
	}
}

func unrecognized(status int) *Error {
	message := "There is no such endpoint"
	if status == http.StatusMethodNotAllowed {
		message = "The endpoint does not take this method"
	}
	return &Error{Status: status, Code: "M_UNRECOGNIZED", Message: message}
}

func unknown(cause error) *Error {
	return &Error{Status: http.StatusInternalServerError, Code: "M_UNKNOWN", Message: "Internal server error", Cause: cause}
}

// AnswerOf finds the answer in the chain of err; an error that has none becomes M_UNKNOWN. Text that no database can store is the client's
// fault wherever it is found, and a database that is unavailable or full is 503.
func AnswerOf(err error) Answerer {
	if answer, ok := errors.AsType[Answerer](err); ok {
		return answer
	}
	if text, ok := errors.AsType[*db.TextError](err); ok {
		return &Error{Status: http.StatusBadRequest, Code: "M_INVALID_PARAM", Message: text.Error(), Cause: err}
	}
	switch {
	case db.IsFull(err):
		return &Error{
			Status:  http.StatusInsufficientStorage,
			Code:    "M_UNKNOWN",
			Message: "The server has no room to store this: its operator must make some",
			Cause:   err,
		}
	case db.IsTemporary(err): // without retry_after_ms, which would say that nothing was changed
		return &Error{
			Status:  http.StatusServiceUnavailable,
			Code:    "M_UNKNOWN",
			Message: "A part that the server needs is away or busy: try again soon",
			Cause:   err,
		}
	}
	return unknown(err)
}
