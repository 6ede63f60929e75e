package matrix

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"sync"

	"lyceum/platform/jsontext"
)

// MaxDepth is how deep objects and arrays may nest in JSON from outside.
const MaxDepth = jsontext.MaxDepth

// ErrJSON is the reason of all refused JSON.
var ErrJSON = jsontext.ErrInvalid

// Limits bounds JSON from outside.
type Limits = jsontext.Limits

// ValidateJSON checks that raw is one JSON value in valid UTF-8 and within the limits. Floats are allowed. Errors wrap ErrJSON.
func ValidateJSON(raw []byte, lim Limits) error { return jsontext.Validate(raw, lim) }

func badJSON(offset int, reason string) error {
	return &jsontext.Error{Kind: jsontext.Syntax, Offset: offset, Reason: reason}
}

// CanonicalJSON gives the canonical form of one JSON value: the shortest
// UTF-8 text with keys in code point order (specification, appendices,
// "Canonical JSON"). It refuses what room version 6 and later refuse: floats,
// exponents, -0 and integers beyond ±(2^53-1); and also double keys, invalid
// UTF-8, lone surrogates and nesting beyond MaxDepth. Errors wrap ErrJSON.
//
// When raw is canonical already, the result is raw itself.
func CanonicalJSON(raw []byte) ([]byte, error) {
	if IsCanonicalJSON(raw) {
		return raw, nil
	}
	return canonicalise(raw, false)
}

// CanonicalJSONLenient is CanonicalJSON as events of room versions 1 to 5
// need it: integers of any size stay, floats are written in their shortest
// form, -0 becomes 0, and the last of double keys wins.
func CanonicalJSONLenient(raw []byte) ([]byte, error) {
	if IsCanonicalJSON(raw) {
		return raw, nil
	}
	return canonicalise(raw, true)
}

// IsCanonicalJSON reports whether raw is strictly canonical. It allocates
// nothing unless keys hold escapes.
func IsCanonicalJSON(raw []byte) bool {
	i, ok := checkValue(raw, 0, 0)
	return ok && i == len(raw)
}

func checkValue(b []byte, i, depth int) (int, bool) {
	if i >= len(b) {
		return 0, false
	}
	switch c := b[i]; {
	case c == '"':
		end, esc, err := jsontext.ScanString(b, i)
		return end, err == nil && esc != jsontext.OtherEscapes
	case c == '{':
		return checkObject(b, i, depth+1)
	case c == '[':
		if depth >= MaxDepth {
			return 0, false
		}
		if i++; i < len(b) && b[i] == ']' {
			return i + 1, true
		}
		for {
			var ok bool
			if i, ok = checkValue(b, i, depth+1); !ok || i >= len(b) {
				return 0, false
			}
			if b[i] == ']' {
				return i + 1, true
			}
			if b[i] != ',' {
				return 0, false
			}
			i++
		}
	case c == '-' || jsontext.IsDigit(c):
		end, integer, err := jsontext.ScanNumber(b, i)
		return end, err == nil && integer && canonicalInt(b[i:end])
	default:
		end, err := jsontext.ScanLiteral(b, i)
		return end, err == nil
	}
}

func checkObject(b []byte, i, depth int) (int, bool) {
	if depth > MaxDepth {
		return 0, false
	}
	if i++; i < len(b) && b[i] == '}' {
		return i + 1, true
	}
	var last []byte
	lastEsc := false
	for first := true; ; first = false {
		if i >= len(b) || b[i] != '"' {
			return 0, false
		}
		end, esc, err := jsontext.ScanString(b, i)
		if err != nil || esc == jsontext.OtherEscapes || end >= len(b) || b[end] != ':' {
			return 0, false
		}
		key, escaped := b[i+1:end-1], esc != jsontext.NoEscapes
		if !first && compareKeys(last, key, lastEsc || escaped) >= 0 {
			return 0, false
		}
		last, lastEsc = key, escaped
		var ok bool
		if i, ok = checkValue(b, end+1, depth); !ok || i >= len(b) {
			return 0, false
		}
		if b[i] == '}' {
			return i + 1, true
		}
		if b[i] != ',' {
			return 0, false
		}
		i++
	}
}

// compareKeys orders keys by code point. UTF-8 keeps that order in its bytes;
// only escapes must be undone first.
func compareKeys(a, b []byte, escaped bool) int {
	if escaped {
		a, b = appendUnescaped(nil, a), appendUnescaped(nil, b)
	}
	return bytes.Compare(a, b)
}

// member is one "key":value in canon.out.
type member struct {
	start, keyEnd, end int
	escaped            bool
}

type canon struct {
	in      []byte
	pos     int
	out     []byte
	lenient bool
	members []member // of all open objects, innermost last
	scratch []byte
}

var canons = sync.Pool{New: func() any { return new(canon) }}

func canonicalise(raw []byte, lenient bool) ([]byte, error) {
	c := canons.Get().(*canon)
	defer func() {
		c.in, c.out = nil, nil
		if cap(c.scratch) > 1<<20 {
			c.scratch = nil
		}
		c.members = c.members[:0]
		canons.Put(c)
	}()
	c.in, c.pos, c.lenient = raw, 0, lenient
	c.out = make([]byte, 0, len(raw))
	if err := c.value(0); err != nil {
		return nil, err
	}
	if c.pos = jsontext.SkipSpace(raw, c.pos); c.pos != len(raw) {
		return nil, badJSON(c.pos, "text after the value")
	}
	return c.out, nil
}

func (c *canon) value(depth int) error {
	c.pos = jsontext.SkipSpace(c.in, c.pos)
	if c.pos >= len(c.in) {
		return badJSON(c.pos, "unexpected end")
	}
	switch ch := c.in[c.pos]; {
	case ch == '"':
		_, err := c.string()
		return err
	case ch == '{' || ch == '[':
		if depth >= MaxDepth {
			return badJSON(c.pos, "nested too deep")
		}
		if ch == '{' {
			return c.object(depth + 1)
		}
		return c.array(depth + 1)
	case ch == '-' || jsontext.IsDigit(ch):
		return c.number()
	default:
		end, err := jsontext.ScanLiteral(c.in, c.pos)
		if err == nil {
			c.copyTo(end)
		}
		return err
	}
}

func (c *canon) copyTo(end int) {
	c.out = append(c.out, c.in[c.pos:end]...)
	c.pos = end
}

func (c *canon) string() (escaped bool, err error) {
	end, esc, err := jsontext.ScanString(c.in, c.pos)
	if err != nil {
		return false, err
	}
	if esc != jsontext.OtherEscapes {
		c.copyTo(end)
		return esc == jsontext.CanonicalEscapes, nil
	}
	c.scratch = appendUnescaped(c.scratch[:0], c.in[c.pos+1:end-1])
	start := len(c.out)
	c.out = AppendString(c.out, c.scratch)
	c.pos = end
	return bytes.IndexByte(c.out[start:], '\\') >= 0, nil
}

func (c *canon) number() error {
	end, integer, err := jsontext.ScanNumber(c.in, c.pos)
	if err != nil {
		return err
	}
	n := c.in[c.pos:end]
	if integer && (canonicalInt(n) || c.lenient && string(n) != "-0") {
		c.copyTo(end)
		return nil
	}
	if !c.lenient {
		return badJSON(c.pos, "number is not an integer within 2^53")
	}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil {
		return badJSON(c.pos, "number out of range")
	}
	c.pos = end
	if f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		c.out = strconv.AppendInt(c.out, int64(f), 10)
		return nil
	}
	c.out = strconv.AppendFloat(c.out, f, 'g', -1, 64)
	return nil
}

func (c *canon) array(depth int) error {
	c.out = append(c.out, '[')
	c.pos = jsontext.SkipSpace(c.in, c.pos+1)
	if c.pos < len(c.in) && c.in[c.pos] == ']' {
		c.pos++
		c.out = append(c.out, ']')
		return nil
	}
	for {
		if err := c.value(depth); err != nil {
			return err
		}
		more, err := c.separator(']')
		if err != nil || !more {
			return err
		}
	}
}

// separator reads and writes a comma or the closing bracket.
func (c *canon) separator(closing byte) (more bool, err error) {
	c.pos = jsontext.SkipSpace(c.in, c.pos)
	if c.pos >= len(c.in) {
		return false, badJSON(c.pos, "unexpected end")
	}
	ch := c.in[c.pos]
	if ch != ',' && ch != closing {
		return false, badJSON(c.pos, "expected a comma")
	}
	c.pos++
	c.out = append(c.out, ch)
	return ch == ',', nil
}

func (c *canon) object(depth int) error {
	base, open := len(c.members), len(c.out)
	c.out = append(c.out, '{')
	c.pos = jsontext.SkipSpace(c.in, c.pos+1)
	if c.pos < len(c.in) && c.in[c.pos] == '}' {
		c.pos++
		c.out = append(c.out, '}')
		return nil
	}
	sorted := true
	for {
		c.pos = jsontext.SkipSpace(c.in, c.pos)
		if c.pos >= len(c.in) || c.in[c.pos] != '"' {
			return badJSON(c.pos, "expected a key")
		}
		m := member{start: len(c.out)}
		var err error
		if m.escaped, err = c.string(); err != nil {
			return err
		}
		m.keyEnd = len(c.out)
		c.pos = jsontext.SkipSpace(c.in, c.pos)
		if c.pos >= len(c.in) || c.in[c.pos] != ':' {
			return badJSON(c.pos, "expected a colon")
		}
		c.pos++
		c.out = append(c.out, ':')
		if err := c.value(depth); err != nil {
			return err
		}
		m.end = len(c.out)
		c.members = append(c.members, m)
		if n := len(c.members); n > base+1 && sorted {
			sorted = c.compare(c.members[n-2], m) < 0
		}
		more, err := c.separator('}')
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	if !sorted {
		if err := c.sort(base, open); err != nil {
			return err
		}
	}
	c.members = c.members[:base]
	return nil
}

func (c *canon) compare(a, b member) int {
	return compareKeys(c.out[a.start+1:a.keyEnd-1], c.out[b.start+1:b.keyEnd-1], a.escaped || b.escaped)
}

// sort rewrites the object that starts at c.out[open] in key order.
func (c *canon) sort(base, open int) error {
	ms := c.members[base:]
	slices.SortFunc(ms, func(a, b member) int {
		if d := c.compare(a, b); d != 0 {
			return d
		}
		return a.start - b.start
	})
	c.scratch = append(c.scratch[:0], '{')
	for i, m := range ms {
		if i+1 < len(ms) && c.compare(m, ms[i+1]) == 0 {
			if !c.lenient {
				return badJSON(c.pos, "double key "+strconv.Quote(string(c.out[m.start+1:m.keyEnd-1])))
			}
			continue
		}
		if len(c.scratch) > 1 {
			c.scratch = append(c.scratch, ',')
		}
		c.scratch = append(c.scratch, c.out[m.start:m.end]...)
	}
	c.scratch = append(c.scratch, '}')
	c.out = append(c.out[:open], c.scratch...)
	return nil
}

const maxSafeInteger = "9007199254740991" // 2^53-1

// canonicalInt reports whether the integer literal n may stand in canonical JSON: it is within ±(2^53-1) and not -0.
func canonicalInt(n []byte) bool {
	if n[0] == '-' {
		n = n[1:]
		if n[0] == '0' {
			return false
		}
	}
	return len(n) < 16 || len(n) == 16 && string(n) <= maxSafeInteger
}

// Hex digits of the escapes of control characters.
const hexDigits = "0123456789abcdef"

// AppendString appends s as a canonical JSON string. Invalid UTF-8 becomes
// U+FFFD, as in encoding/json.
func AppendString[S ~string | ~[]byte](dst []byte, s S) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		if jsontext.IsPlain(s[i]) {
			i++
			continue
		}
		if c := s[i]; c >= 0x80 {
			// Only a broken sequence needs the slow way.
			n := validRune(string(s[i:min(i+4, len(s))]))
			if n > 0 {
				i += n
				continue
			}
			dst = append(dst, s[start:i]...)
			dst = append(dst, "\ufffd"...)
			i++
			start = i
			continue
		}
		dst = append(dst, s[start:i]...)
		dst = appendEscape(dst, s[i])
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\b':
		return append(dst, '\\', 'b')
	case '\f':
		return append(dst, '\\', 'f')
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// AppendStrings appends list as a JSON array of strings.
func AppendStrings(dst []byte, list []string) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, s)
	}
	return append(dst, ']')
}
