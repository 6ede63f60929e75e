package jsontext

import (
	"unicode/utf16"
	"unicode/utf8"
)

// Escapes says how a string writes its escapes.
type Escapes int

const (
	NoEscapes        Escapes = iota // no backslash: the bytes are the value
	CanonicalEscapes                // only those that canonical JSON demands
	OtherEscapes                    // valid, and at least one has a shorter spelling
)

// special are the bytes of a string that need a closer look: quotes, backslashes, control characters and all that is not ASCII.
var special = func() (t [256]bool) {
	for i := range 0x20 {
		t[i] = true
	}
	t['"'], t['\\'] = true, true
	for i := 0x80; i < 256; i++ {
		t[i] = true
	}
	return t
}()

// IsPlain reports whether a byte stands in a string as it is: printable ASCII without the quote and the backslash.
func IsPlain(c byte) bool { return !special[c] }

// ScanString reads the string whose opening quote is b[i]; end is the index behind its closing quote. It refuses invalid UTF-8,
// control characters that are not escaped, and lone surrogates.
func ScanString(b []byte, i int) (end int, esc Escapes, err error) {
	i++
	for {
		for i < len(b) && !special[b[i]] {
			i++
		}
		if i >= len(b) {
			return 0, 0, syntaxError(i, "unterminated string")
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
				esc = OtherEscapes
			} else if esc == NoEscapes {
				esc = CanonicalEscapes
			}
			i += n
		case c < 0x20:
			return 0, 0, syntaxError(i, "control character in a string")
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n == 1 {
				return 0, 0, &Error{NotUTF8, i, "invalid UTF-8"}
			}
			i += n
		}
	}
}

// scanEscape gives the length of the escape at b[i], and whether canonical JSON writes it the same way. A surrogate pair is one
// escape of 12 bytes.
func scanEscape(b []byte, i int) (n int, canonical bool, err error) {
	if i+1 >= len(b) {
		return 0, false, syntaxError(i, "unterminated escape")
	}
	switch b[i+1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return 2, true, nil
	case '/':
		return 2, false, nil
	case 'u':
	default:
		return 0, false, syntaxError(i, "unknown escape")
	}
	r, ok := Hex4(b, i+2)
	if !ok {
		return 0, false, syntaxError(i, "malformed \\u escape")
	}
	if utf16.IsSurrogate(r) {
		lo, ok := rune(0), i+11 < len(b) && b[i+6] == '\\' && b[i+7] == 'u'
		if ok {
			lo, ok = Hex4(b, i+8)
		}
		if !ok || utf16.DecodeRune(r, lo) == utf8.RuneError {
			return 0, false, &Error{LoneSurrogate, i, "lone surrogate"}
		}
		return 12, false, nil
	}
	canonical = r < 0x20 && !(r == '\b' || r == '\t' || r == '\n' || r == '\f' || r == '\r') &&
		(b[i+5] <= '9' || b[i+5] >= 'a')
	return 6, canonical, nil
}

// Hex4 reads the four hexadecimal digits at b[i].
func Hex4(b []byte, i int) (r rune, ok bool) {
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

// ScanNumber reads the number at b[i]; end is the index behind it. integer is false when it has a fraction or an exponent.
func ScanNumber(b []byte, i int) (end int, integer bool, err error) {
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
		return 0, false, syntaxError(start, "malformed number")
	}
	return end, integer, nil
}

func skipDigits(b []byte, i int) int {
	for i < len(b) && IsDigit(b[i]) {
		i++
	}
	return i
}

// IsDigit reports whether c is a decimal digit.
func IsDigit(c byte) bool { return c >= '0' && c <= '9' }

// ScanLiteral reads true, false or null.
func ScanLiteral(b []byte, i int) (end int, err error) {
	word := "null"
	switch b[i] {
	case 't':
		word = "true"
	case 'f':
		word = "false"
	}
	if i+len(word) > len(b) || string(b[i:i+len(word)]) != word {
		return 0, syntaxError(i, "unexpected character")
	}
	return i + len(word), nil
}

// SkipSpace returns the index of the first byte from b[i] on that is no white space.
func SkipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}
