package matrix

import (
	"bytes"
	"errors"
	"unicode/utf16"
	"unicode/utf8"

	"lyceum/platform/jsontext"
)

// Member is one member of a canonical JSON object. All slices point into the
// text of the object.
type Member struct {
	Key   []byte // without quotes, escapes not undone
	Value []byte // canonical JSON
	Raw   []byte // "key":value
}

// NextMember gives the member of the canonical object obj that starts at
// offset i, and the offset of the next one. Start with i = 1; ok is false at
// the end. The text must be canonical: nothing is checked.
func NextMember(obj []byte, i int) (m Member, next int, ok bool) {
	if i >= len(obj) || obj[i] != '"' {
		return Member{}, i, false
	}
	keyEnd := skipString(obj, i)
	end := skipValue(obj, keyEnd+1)
	m = Member{Key: obj[i+1 : keyEnd-1], Value: obj[keyEnd+1 : end], Raw: obj[i:end]}
	if end < len(obj) && obj[end] == ',' {
		end++
	}
	return m, end, true
}

// NextElement is NextMember for a canonical array.
func NextElement(arr []byte, i int) (value []byte, next int, ok bool) {
	if i >= len(arr) || arr[i] == ']' {
		return nil, i, false
	}
	end := skipValue(arr, i)
	value = arr[i:end]
	if end < len(arr) && arr[end] == ',' {
		end++
	}
	return value, end, true
}

// Lookup gives the value of key in the canonical object obj, nil when obj is
// no object or has no such key. key is compared with escapes not undone.
func Lookup(obj []byte, key string) []byte {
	if len(obj) == 0 || obj[0] != '{' {
		return nil
	}
	for i := 1; ; {
		m, next, ok := NextMember(obj, i)
		if !ok {
			return nil
		}
		if string(m.Key) == key {
			return m.Value
		}
		i = next
	}
}

// LookupString gives the string under key; ok is false when it is absent or
// not a string.
func LookupString(obj []byte, key string) (s string, ok bool) {
	return Unquote(Lookup(obj, key))
}

// Unquote gives the value of a JSON string taken from canonical JSON; ok is
// false when raw is not a string.
func Unquote(raw []byte) (s string, ok bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	raw = raw[1 : len(raw)-1]
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw), true
	}
	return string(appendUnescaped(nil, raw)), true
}

func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// skipValue gives the offset behind the value at b[i].
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return len(b)
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
				if depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return len(b)
	}
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' {
		i++
	}
	return i
}

// appendUnescaped undoes the escapes of a scanned string without quotes.
func appendUnescaped(dst, s []byte) []byte {
	for i := 0; i < len(s); {
		if s[i] != '\\' || i+1 >= len(s) {
			dst = append(dst, s[i])
			i++
			continue
		}
		switch c := s[i+1]; c {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'u':
			r, _ := jsontext.Hex4(s, i+2)
			i += 6
			if utf16.IsSurrogate(r) {
				lo, _ := jsontext.Hex4(s, i+2)
				r = utf16.DecodeRune(r, lo)
				i += 6
			}
			dst = utf8.AppendRune(dst, r)
			continue
		default:
			dst = append(dst, c)
		}
		i += 2
	}
	return dst
}

// validRune gives the length of the first rune of s, 0 when it is broken.
func validRune(s string) int {
	r, n := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && n <= 1 {
		return 0
	}
	return n
}

var errNoObject = errors.New("expected a JSON object")

// AppendWithout appends the canonical object obj without the top-level keys
// in drop. The result is canonical.
func AppendWithout(dst, obj []byte, drop ...string) []byte {
	dst = append(dst, '{')
	open := len(dst)
next:
	for i := 1; ; {
		m, n, ok := NextMember(obj, i)
		if !ok {
			return append(dst, '}')
		}
		i = n
		for _, d := range drop {
			if string(m.Key) == d {
				continue next
			}
		}
		if len(dst) > open {
			dst = append(dst, ',')
		}
		dst = append(dst, m.Raw...)
	}
}
