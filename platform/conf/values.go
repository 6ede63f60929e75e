package conf

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
)

// hidden stands for a secret wherever it is printed.
const hidden = "(secret)"

// Secret is a string that does not print itself. Beside every key K of this type there is a key
// K_file with the path of a file that holds the value.
type Secret string

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }

// String hides the value.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// Format hides the value from every verb of package fmt.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'q' || f.Flag('#') {
		fmt.Fprint(f, s.GoString())
		return
	}
	fmt.Fprint(f, s.String())
}

// MarshalText hides the value from encoders of JSON, YAML and XML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON hides the value.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(s.String())), nil }

// LogValue hides the value from package slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Duration is a time span written as "30s", "1h30m" or "7d".
type Duration time.Duration

// D returns the span as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

const day = 24 * time.Hour

// String writes whole days as "7d" and all else as time.Duration does, without zero parts.
func (d Duration) String() string {
	t := time.Duration(d)
	if t != 0 && t%day == 0 {
		return strconv.FormatInt(int64(t/day), 10) + "d"
	}
	text := t.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText writes the form that UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

var errDuration = errors.New(`expected a duration such as "30s", "5m", "1h30m" or "7d"`)

// UnmarshalText reads "30s", "5m", "1h30m", "7d", "1d12h" and "0".
func (d *Duration) UnmarshalText(text []byte) error {
	rest := strings.TrimSpace(string(text))
	var sum time.Duration
	if number, tail, found := strings.Cut(rest, "d"); found {
		days, err := strconv.ParseInt(number, 10, 64)
		if err != nil || days > int64(math.MaxInt64/day) || days < -int64(math.MaxInt64/day) {
			return errDuration
		}
		sum, rest = time.Duration(days)*day, tail
		if rest == "" {
			*d = Duration(sum)
			return nil
		}
	}
	t, err := time.ParseDuration(rest)
	if err != nil || (sum > 0 && t > math.MaxInt64-sum) || (sum < 0 && t < math.MinInt64-sum) {
		return errDuration
	}
	*d = Duration(sum + t)
	return nil
}

// Size is a number of bytes written as "512", "50MiB" or "1.5GB".
type Size int64

// Bytes returns the number.
func (s Size) Bytes() int64 { return int64(s) }

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"KB", 1e3},
	{"B", 1},
}

// String uses the largest unit that divides the size.
func (s Size) String() string {
	if s != 0 {
		for _, u := range sizeUnits {
			if u.bytes > 1 && int64(s)%u.bytes == 0 {
				return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
			}
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText writes the form that UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

var errSize = errors.New(`expected a size such as "512", "64KiB", "50MiB" or "1GB"`)

// UnmarshalText reads a number with an optional unit. KiB, MiB … are powers of 1024; kB, MB … of 1000.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := strings.TrimSpace(string(text)), int64(1)
	for _, u := range sizeUnits {
		if head, found := strings.CutSuffix(number, u.name); found {
			number, unit = strings.TrimSpace(head), u.bytes
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n < 0 || n > math.MaxInt64/unit {
			return errSize
		}
		*s = Size(n * unit)
		return nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f < 0 || f*float64(unit) >= math.MaxInt64 || math.IsNaN(f) {
		return errSize
	}
	*s = Size(f * float64(unit))
	return nil
}
