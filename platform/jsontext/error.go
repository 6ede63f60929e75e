package jsontext

import (
	"errors"
	"fmt"
)

// ErrInvalid is what every [*Error] wraps.
var ErrInvalid = errors.New("invalid JSON")

// Kind says what is wrong with a text.
type Kind int

const (
	Syntax        Kind = iota // not JSON
	NotUTF8                   // a string holds bytes that are not UTF-8
	LoneSurrogate             // a string holds half of a surrogate pair
	NumberRange               // no float64 can hold a number
	TooDeep                   // deeper than Limits.Depth
	TooLarge                  // above Limits.Bytes or Limits.Values
	NotObject                 // the top is no object, though Limits.Object demands one
)

// Error says why and where a text was refused.
type Error struct {
	Kind   Kind
	Offset int // of the first byte that is wrong
	Reason string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%v: %s at byte %d", ErrInvalid, e.Reason, e.Offset)
}

// Unwrap is for errors.Is with ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

func syntaxError(offset int, reason string) error {
	return &Error{Kind: Syntax, Offset: offset, Reason: reason}
}
