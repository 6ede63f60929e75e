package matrix

import (
	"errors"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxDepth is how deep objects and arrays may nest in JSON from outside.
const MaxDepth = 100

// ErrJSON is the reason of all refused JSON.
var ErrJSON = errors.New("invalid JSON")

func badJSON(pos int, why string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrJSON, why, pos)
}

// How a scanned string writes its escapes.
const (
	escNone      = iota // no backslash: the bytes are the value
	escCanonical        // only escapes that canonical JSON demands
	escOther            // valid, but has a shorter spelling
)

// Bytes that end the fast loop of scanString.
var stringStops = func() (t [256]bool) {
	for i := range 0x20 {
		t[i] = true
	}
	t['"'], t['\\'] = true, true
	for i := 0x80; i < 256; i++ {
		t[i] = true
	}
	return t
}()

// scanString reads the string whose opening quote is b[i]. end is behind the
// closing quote. Invalid UTF-8, raw control characters and lone surrogates
// are refused.
func scanString(b []byte, i int) (end, esc int, err error) {
	i++
	for {
		for i < len(b) && !stringStops[b[i]] {
			i++
		}
		if i >= len(b) {
			return 0, 0, badJSON(i, "unterminated string")
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, esc, nil
		case c == '\\':
			n, canonical, err := scanEscape(b, i)
			if err != nil {
				return 0, 0, err
			}
			if !canonical {
				esc = escOther
			} else if esc == escNone {
				esc = escCanonical
			}
			i += n
		case c < 0x20:
			return 0, 0, badJSON(i, "control character in a string")
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n == 1 {
				return 0, 0, badJSON(i, "invalid UTF-8")
			}
			i += n
		}
	}
}

// scanEscape gives the length of the escape at b[i], and whether canonical
// JSON would write it the same way.
func scanEscape(b []byte, i int) (n int, canonical bool, err error) {
	if i+1 >= len(b) {
		return 0, false, badJSON(i, "unterminated escape")
	}
	switch b[i+1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return 2, true, nil
	case '/':
		return 2, false, nil
	case 'u':
	default:
		return 0, false, badJSON(i, "unknown escape")
	}
	r, ok := hex4(b, i+2)
	if !ok {
		return 0, false, badJSON(i, "malformed \\u escape")
	}
	if utf16.IsSurrogate(r) {
		lo, ok := rune(0), i+11 < len(b) && b[i+6] == '\\' && b[i+7] == 'u'
		if ok {
			lo, ok = hex4(b, i+8)
		}
		if !ok || utf16.DecodeRune(r, lo) == utf8.RuneError {
			return 0, false, badJSON(i, "lone surrogate")
		}
		return 12, false, nil
	}
	canonical = r < 0x20 && !(r == '\b' || r == '\t' || r == '\n' || r == '\f' || r == '\r') &&
		(b[i+5] <= '9' || b[i+5] >= 'a')
	return 6, canonical, nil
}

func hex4(b []byte, i int) (r rune, ok bool) {
	if i+4 > len(b) {
		return 0, false
	}
	for _, c := range b[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// scanNumber reads a JSON number. integer is false when it has a fraction or
// an exponent.
func scanNumber(b []byte, i int) (end int, integer bool, err error) {
	start := i
	if i < len(b) && b[i] == '-' {
		i++
	}
	end = skipDigits(b, i)
	ok := end > i && (b[i] != '0' || end == i+1)
	integer = true
	if ok && end < len(b) && b[end] == '.' {
		integer = false
		i = end + 1
		end = skipDigits(b, i)
		ok = end > i
	}
	if ok && end < len(b) && (b[end] == 'e' || b[end] == 'E') {
		integer = false
		i = end + 1
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		end = skipDigits(b, i)
		ok = end > i
	}
	if !ok {
		return 0, false, badJSON(start, "malformed number")
	}
	return end, integer, nil
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	return i
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

const maxSafeInteger = "9007199254740991" // 2^53-1

// canonicalInt reports whether the integer literal n may stand in canonical
// JSON: within ±(2^53-1) and not -0.
func canonicalInt(n []byte) bool {
	if n[0] == '-' {
		n = n[1:]
		if n[0] == '0' {
			return false
		}
	}
	return len(n) < 16 || len(n) == 16 && string(n) <= maxSafeInteger
}

func scanLiteral(b []byte, i int) (end int, err error) {
	word := "null"
	switch b[i] {
	case 't':
		word = "true"
	case 'f':
		word = "false"
	}
	if i+len(word) > len(b) || string(b[i:i+len(word)]) != word {
		return 0, badJSON(i, "unexpected character")
	}
	return i + len(word), nil
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// Limits bounds JSON from outside. A zero field means MaxDepth for Depth and
// no limit for the others.
type Limits struct {
	Bytes  int  // length of the text
	Depth  int  // nesting of objects and arrays
	Values int  // number of values, keys not counted
	Object bool // the top must be an object
}

// ValidateJSON checks that raw is one JSON value of RFC 8259 in valid UTF-8
// and within the limits. Floats are allowed. Errors wrap ErrJSON.
func ValidateJSON(raw []byte, lim Limits) error {
	if lim.Bytes > 0 && len(raw) > lim.Bytes {
		return badJSON(lim.Bytes, "text too long")
	}
	if lim.Depth == 0 {
		lim.Depth = MaxDepth
	}
	v := validator{b: raw, lim: lim}
	i := skipSpace(raw, 0)
	if lim.Object && (i >= len(raw) || raw[i] != '{') {
		return badJSON(i, "expected an object")
	}
	i, err := v.value(i, 0)
	if err != nil {
		return err
	}
	if i = skipSpace(raw, i); i != len(raw) {
		return badJSON(i, "text after the value")
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
		return 0, badJSON(i, "too many values")
	}
	if i >= len(v.b) {
		return 0, badJSON(i, "unexpected end")
	}
	switch c := v.b[i]; {
	case c == '{' || c == '[':
		if depth >= v.lim.Depth {
			return 0, badJSON(i, "nested too deep")
		}
		return v.list(i, depth+1)
	case c == '"':
		end, _, err := scanString(v.b, i)
		return end, err
	case c == '-' || isDigit(c):
		end, _, err := scanNumber(v.b, i)
		return end, err
	default:
		return scanLiteral(v.b, i)
	}
}

// list reads an object or an array, whose bracket is b[i].
func (v *validator) list(i, depth int) (int, error) {
	object := v.b[i] == '{'
	closing := v.b[i] + 2 // '}' or ']'
	i = skipSpace(v.b, i+1)
	if i < len(v.b) && v.b[i] == closing {
		return i + 1, nil
	}
	for {
		var err error
		if object {
			if i >= len(v.b) || v.b[i] != '"' {
				return 0, badJSON(i, "expected a key")
			}
			if i, _, err = scanString(v.b, i); err != nil {
				return 0, err
			}
			if i = skipSpace(v.b, i); i >= len(v.b) || v.b[i] != ':' {
				return 0, badJSON(i, "expected a colon")
			}
			i = skipSpace(v.b, i+1)
		}
		if i, err = v.value(i, depth); err != nil {
			return 0, err
		}
		i = skipSpace(v.b, i)
		switch {
		case i >= len(v.b):
			return 0, badJSON(i, "unexpected end")
		case v.b[i] == closing:
			return i + 1, nil
		case v.b[i] != ',':
			return 0, badJSON(i, "expected a comma")
		}
		i = skipSpace(v.b, i+1)
	}
}
