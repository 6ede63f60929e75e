package jsontext

import (
	"bytes"
	"errors"
	"strconv"
)

// MaxDepth is how deep objects and arrays may nest in JSON from outside.
const MaxDepth = 100

// Limits bounds a text. A field that is zero means MaxDepth for Depth, and no limit for the others.
type Limits struct {
	Bytes  int  // length of the text
	Depth  int  // nesting of objects and arrays
	Values int  // number of values, keys not counted
	Object bool // the top must be an object
	Floats bool // a float64 must be able to hold each number
}

// Validate checks that raw is one JSON value of RFC 8259 in valid UTF-8 and within the limits, and returns an *Error for the first
// byte that is wrong. Keys may stand twice in an object.
func Validate(raw []byte, lim Limits) error {
	if lim.Bytes > 0 && len(raw) > lim.Bytes {
		return &Error{TooLarge, lim.Bytes, "text too long"}
	}
	if lim.Depth == 0 {
		lim.Depth = MaxDepth
	}
	v := validator{b: raw, lim: lim}
	i := SkipSpace(raw, 0)
	if lim.Object && (i >= len(raw) || raw[i] != '{') {
		return &Error{NotObject, i, "expected an object"}
	}
	i, err := v.value(i, 0)
	if err != nil {
		return err
	}
	if i = SkipSpace(raw, i); i != len(raw) {
		return syntaxError(i, "text after the value")
	}
	return nil
}

type validator struct {
	b      []byte
	lim    Limits
	values int
}

func (v *validator) value(i, depth int) (int, error) {
	v.values++
	if v.lim.Values > 0 && v.values > v.lim.Values {
		return 0, &Error{TooLarge, i, "too many values"}
	}
	if i >= len(v.b) {
		return 0, syntaxError(i, "unexpected end")
	}
	switch c := v.b[i]; {
	case c == '{' || c == '[':
		if depth >= v.lim.Depth {
			return 0, &Error{TooDeep, i, "nested too deep"}
		}
		return v.list(i, depth+1)
	case c == '"':
		end, _, err := ScanString(v.b, i)
		return end, err
	case c == '-' || IsDigit(c):
		end, _, err := ScanNumber(v.b, i)
		if err == nil && v.lim.Floats && !isFloat(v.b[i:end]) {
			err = &Error{NumberRange, i, "number out of range"}
		}
		return end, err
	default:
		return ScanLiteral(v.b, i)
	}
}

// list reads an object or an array, whose bracket is b[i].
func (v *validator) list(i, depth int) (int, error) {
	object := v.b[i] == '{'
	closing := v.b[i] + 2 // '}' or ']'
	i = SkipSpace(v.b, i+1)
	if i < len(v.b) && v.b[i] == closing {
		return i + 1, nil
	}
	for {
		var err error
		if object {
			if i >= len(v.b) || v.b[i] != '"' {
				return 0, syntaxError(i, "expected a key")
			}
			if i, _, err = ScanString(v.b, i); err != nil {
				return 0, err
			}
			if i = SkipSpace(v.b, i); i >= len(v.b) || v.b[i] != ':' {
				return 0, syntaxError(i, "expected a colon")
			}
			i = SkipSpace(v.b, i+1)
		}
		if i, err = v.value(i, depth); err != nil {
			return 0, err
		}
		i = SkipSpace(v.b, i)
		switch {
		case i >= len(v.b):
			return 0, syntaxError(i, "unexpected end")
		case v.b[i] == closing:
			return i + 1, nil
		case v.b[i] != ',':
			return 0, syntaxError(i, "expected a comma")
		}
		i = SkipSpace(v.b, i+1)
	}
}

// isFloat reports whether a float64 can hold a number. Only a long number or one with an exponent can be out of range.
func isFloat(n []byte) bool {
	if len(n) < 300 && bytes.IndexByte(n, 'e') < 0 && bytes.IndexByte(n, 'E') < 0 {
		return true
	}
	_, err := strconv.ParseFloat(string(n), 64)
	return !errors.Is(err, strconv.ErrRange)
}
