package matrix

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"
)

// The error codes of the Matrix specification that this server uses
// (client-server API, "Standard error response").
const (
	CodeBadAlias                = "M_BAD_ALIAS"
	CodeBadJSON                 = "M_BAD_JSON"
	CodeBadState                = "M_BAD_STATE"
	CodeDuplicateAnnotation     = "M_DUPLICATE_ANNOTATION"
	CodeExclusive               = "M_EXCLUSIVE"
	CodeForbidden               = "M_FORBIDDEN"
	CodeGuestAccessForbidden    = "M_GUEST_ACCESS_FORBIDDEN"
	CodeIncompatibleRoomVersion = "M_INCOMPATIBLE_ROOM_VERSION"
	CodeInvalidParam            = "M_INVALID_PARAM"
	CodeInvalidRoomState        = "M_INVALID_ROOM_STATE"
	CodeInvalidSignature        = "M_INVALID_SIGNATURE"
	CodeInvalidUsername         = "M_INVALID_USERNAME"
	CodeLimitExceeded           = "M_LIMIT_EXCEEDED"
	CodeMissingParam            = "M_MISSING_PARAM"
	CodeMissingToken            = "M_MISSING_TOKEN"
	CodeNotFound                = "M_NOT_FOUND"
	CodeNotJSON                 = "M_NOT_JSON"
	CodeNotYetUploaded          = "M_NOT_YET_UPLOADED"
	CodeCannotOverwriteMedia    = "M_CANNOT_OVERWRITE_MEDIA"
	CodeRoomInUse               = "M_ROOM_IN_USE"
	CodeTooLarge                = "M_TOO_LARGE"
	CodeUnableToAuthoriseJoin   = "M_UNABLE_TO_AUTHORISE_JOIN"
	CodeUnableToGrantJoin       = "M_UNABLE_TO_GRANT_JOIN"
	CodeUnauthorized            = "M_UNAUTHORIZED"
	CodeUnknown                 = "M_UNKNOWN"
	CodeUnknownToken            = "M_UNKNOWN_TOKEN"
	CodeUnrecognized            = "M_UNRECOGNIZED"
	CodeUnsupportedRoomVersion  = "M_UNSUPPORTED_ROOM_VERSION"
	CodeUserDeactivated         = "M_USER_DEACTIVATED"
	CodeUserInUse               = "M_USER_IN_USE"
	CodeUserLocked              = "M_USER_LOCKED"
	CodeUserSuspended           = "M_USER_SUSPENDED"
	CodeWeakPassword            = "M_WEAK_PASSWORD"
	CodeWrongRoomKeysVersion    = "M_WRONG_ROOM_KEYS_VERSION"
)

// Error is the standard error response of the Matrix APIs. Code, Message and
// Extra are shown to the client; Cause is for the log and is never encoded.
type Error struct {
	Status  int            // HTTP status
	Code    string         // errcode, one of the Code constants
	Message string         // error, a sentence for people
	Extra   map[string]any // further top-level members
	Cause   error          // what went wrong inside, may be nil
}

// Error gives code and message, with the cause when there is one.
func (e *Error) Error() string {
	s := e.Code
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether target is an *Error of the same code whose message is
// empty or equal. errors.Is(err, NotFound("")) thus asks for the code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Message == "" || t.Message == e.Message)
}

// With gives a copy of e that carries cause.
func (e *Error) With(cause error) *Error {
	c := *e
	c.Cause = cause
	return &c
}

// WithExtra gives a copy of e with one more top-level member.
func (e *Error) WithExtra(key string, value any) *Error {
	c := *e
	c.Extra = maps.Clone(e.Extra)
	if c.Extra == nil {
		c.Extra = map[string]any{}
	}
	c.Extra[key] = value
	return &c
}

// MarshalJSON writes errcode, error and the members of Extra in key order.
func (e *Error) MarshalJSON() ([]byte, error) {
	b := append([]byte(nil), `{"errcode":`...)
	b = AppendString(b, e.Code)
	b = append(b, `,"error":`...)
	b = AppendString(b, e.Message)
	for _, k := range slices.Sorted(maps.Keys(e.Extra)) {
		if k == "errcode" || k == "error" {
			continue
		}
		v, err := json.Marshal(e.Extra[k])
		if err != nil {
			return nil, err
		}
		b = append(b, ',')
		b = AppendString(b, k)
		b = append(b, ':')
		b = append(b, v...)
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads a standard error response. Members other than errcode
// and error go to Extra. Status is kept when set, otherwise it is the usual
// status of the code.
func (e *Error) UnmarshalJSON(raw []byte) error {
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	code, ok := m["errcode"].(string)
	if !ok {
		return errors.New("an error response needs the string errcode")
	}
	e.Code = code
	e.Message, _ = m["error"].(string)
	delete(m, "errcode")
	delete(m, "error")
	e.Extra = nil
	if len(m) > 0 {
		e.Extra = m
	}
	if e.Status == 0 {
		e.Status = StatusOf(code)
	}
	return nil
}

// StatusOf gives the HTTP status a code usually comes with.
func StatusOf(code string) int {
	switch code {
	case CodeMissingToken, CodeUnknownToken, CodeUnauthorized, CodeUserLocked:
		return http.StatusUnauthorized
	case CodeForbidden, CodeUserDeactivated, CodeUserSuspended, CodeGuestAccessForbidden, CodeWrongRoomKeysVersion:
		return http.StatusForbidden
	case CodeNotFound, CodeUnrecognized:
		return http.StatusNotFound
	case CodeCannotOverwriteMedia, CodeBadState:
		return http.StatusConflict
	case CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case CodeLimitExceeded:
		return http.StatusTooManyRequests
	case CodeUnknown:
		return http.StatusInternalServerError
	case CodeNotYetUploaded:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadRequest
}

// NewError makes an error of any code.
func NewError(status int, code, msg string) *Error {
	return &Error{Status: status, Code: code, Message: msg}
}

func usual(code, msg string) *Error { return NewError(StatusOf(code), code, msg) }

// AsError finds the *Error in the chain of err. Any other error becomes a 500
// M_UNKNOWN with a text that tells nothing of its inside, and keeps err as
// the cause. nil gives nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Unknown("Internal server error").With(err)
}

// HasCode reports whether err is or wraps an *Error of that code.
func HasCode(err error, code string) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// Forbidden is 403 M_FORBIDDEN.
func Forbidden(msg string) *Error { return usual(CodeForbidden, msg) }

// NotFound is 404 M_NOT_FOUND.
func NotFound(msg string) *Error { return usual(CodeNotFound, msg) }

// BadJSON is 400 M_BAD_JSON: valid JSON of the wrong shape.
func BadJSON(msg string) *Error { return usual(CodeBadJSON, msg) }

// NotJSON is 400 M_NOT_JSON.
func NotJSON(msg string) *Error { return usual(CodeNotJSON, msg) }

// BadState is 409 M_BAD_STATE: the state was changed by somebody else meanwhile.
func BadState(msg string) *Error { return usual(CodeBadState, msg) }

// BadAlias is 400 M_BAD_ALIAS.
func BadAlias(msg string) *Error { return usual(CodeBadAlias, msg) }

// MissingParam is 400 M_MISSING_PARAM.
func MissingParam(msg string) *Error { return usual(CodeMissingParam, msg) }

// InvalidParam is 400 M_INVALID_PARAM.
func InvalidParam(msg string) *Error { return usual(CodeInvalidParam, msg) }

// InvalidSignature is 400 M_INVALID_SIGNATURE.
func InvalidSignature(msg string) *Error { return usual(CodeInvalidSignature, msg) }

// MissingToken is 401 M_MISSING_TOKEN.
func MissingToken() *Error { return usual(CodeMissingToken, "Missing access token") }

// UnknownToken is 401 M_UNKNOWN_TOKEN. soft says that the client may keep its
// data and only needs to log in again.
func UnknownToken(soft bool) *Error {
	e := usual(CodeUnknownToken, "Unknown access token")
	e.Extra = map[string]any{"soft_logout": soft}
	return e
}

// Unauthorized is 401 M_UNAUTHORIZED.
func Unauthorized(msg string) *Error { return usual(CodeUnauthorized, msg) }

// LimitExceeded is 429 M_LIMIT_EXCEEDED; retryAfter is told in milliseconds.
func LimitExceeded(retryAfter time.Duration) *Error {
	e := usual(CodeLimitExceeded, "Too many requests")
	if ms := retryAfter.Milliseconds(); ms > 0 {
		e.Extra = map[string]any{"retry_after_ms": ms}
	}
	return e
}

// Unknown is 500 M_UNKNOWN.
func Unknown(msg string) *Error { return usual(CodeUnknown, msg) }

// Unavailable is 503 M_UNKNOWN: the same request may succeed later.
func Unavailable(msg string) *Error {
	return NewError(http.StatusServiceUnavailable, CodeUnknown, msg)
}

// BadGateway is 502 M_UNKNOWN: another server answered wrongly or not at all.
// It is for federation.
func BadGateway(msg string) *Error {
	return NewError(http.StatusBadGateway, CodeUnknown, msg)
}

// Unrecognized is 404 M_UNRECOGNIZED: no such endpoint.
func Unrecognized() *Error { return usual(CodeUnrecognized, "Unrecognized request") }

// MethodNotAllowed is 405 M_UNRECOGNIZED.
func MethodNotAllowed() *Error {
	return NewError(http.StatusMethodNotAllowed, CodeUnrecognized, "Method not allowed")
}

// TooLarge is 413 M_TOO_LARGE.
func TooLarge(msg string) *Error { return usual(CodeTooLarge, msg) }

// UserInUse is 400 M_USER_IN_USE.
func UserInUse(msg string) *Error { return usual(CodeUserInUse, msg) }

// InvalidUsername is 400 M_INVALID_USERNAME.
func InvalidUsername(msg string) *Error { return usual(CodeInvalidUsername, msg) }

// RoomInUse is 400 M_ROOM_IN_USE: the alias is taken.
func RoomInUse(msg string) *Error { return usual(CodeRoomInUse, msg) }

// Exclusive is 400 M_EXCLUSIVE: reserved by an application service.
func Exclusive(msg string) *Error { return usual(CodeExclusive, msg) }

// UnsupportedRoomVersion is 400 M_UNSUPPORTED_ROOM_VERSION.
func UnsupportedRoomVersion(msg string) *Error { return usual(CodeUnsupportedRoomVersion, msg) }

// IncompatibleRoomVersion is 400 M_INCOMPATIBLE_ROOM_VERSION and names the
// version of the room. It is for federation.
func IncompatibleRoomVersion(version string) *Error {
	return usual(CodeIncompatibleRoomVersion, "The room has a version this server does not support").
		WithExtra("room_version", version)
}

// UserDeactivated is 403 M_USER_DEACTIVATED.
func UserDeactivated(msg string) *Error { return usual(CodeUserDeactivated, msg) }

// UserLocked is 401 M_USER_LOCKED with soft_logout, so that a client keeps
// its data while the account is locked.
func UserLocked(msg string) *Error {
	return usual(CodeUserLocked, msg).WithExtra("soft_logout", true)
}

// UserSuspended is 403 M_USER_SUSPENDED.
func UserSuspended(msg string) *Error { return usual(CodeUserSuspended, msg) }

// GuestAccessForbidden is 403 M_GUEST_ACCESS_FORBIDDEN.
func GuestAccessForbidden(msg string) *Error { return usual(CodeGuestAccessForbidden, msg) }

// WeakPassword is 400 M_WEAK_PASSWORD.
func WeakPassword(msg string) *Error { return usual(CodeWeakPassword, msg) }

// DuplicateAnnotation is 400 M_DUPLICATE_ANNOTATION.
func DuplicateAnnotation(msg string) *Error { return usual(CodeDuplicateAnnotation, msg) }

// WrongRoomKeysVersion is 403 M_WRONG_ROOM_KEYS_VERSION and names the current
// version of the key backup.
func WrongRoomKeysVersion(current string) *Error {
	return usual(CodeWrongRoomKeysVersion, "Wrong backup version").
		WithExtra("current_version", current)
}

// NotYetUploaded is 504 M_NOT_YET_UPLOADED.
func NotYetUploaded() *Error {
	return usual(CodeNotYetUploaded, "The media has not been uploaded yet")
}

// CannotOverwriteMedia is 409 M_CANNOT_OVERWRITE_MEDIA.
func CannotOverwriteMedia() *Error {
	return usual(CodeCannotOverwriteMedia, "The media was already uploaded")
}

// UnableToAuthoriseJoin is 400 M_UNABLE_TO_AUTHORISE_JOIN: another resident
// server may know whether the user meets the conditions of a restricted room.
func UnableToAuthoriseJoin(msg string) *Error { return usual(CodeUnableToAuthoriseJoin, msg) }

// UnableToGrantJoin is 400 M_UNABLE_TO_GRANT_JOIN: no user of this server may
// invite into the restricted room. It is for federation.
func UnableToGrantJoin(msg string) *Error { return usual(CodeUnableToGrantJoin, msg) }

// HTTPStatus is the status of the answer that carries the error.
func (e *Error) HTTPStatus() int { return e.Status }

// IsRefusal reports whether an error is an answer that another try would not change: an Error with a status of 400 to 499, but 429.
func IsRefusal(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status >= 400 && e.Status < 500 && e.Status != 429
}
