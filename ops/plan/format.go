package plan

import (
	"math"
	"strconv"
	"strings"
)

// number writes a figure with at most three significant digits behind the point and commas between thousands.
func number(v float64) string {
	prec := 0
	if a := math.Abs(v); a != 0 && a < 100 && v != math.Trunc(v) {
		prec = 1
		if a < 10 {
			prec = 2
		}
		if a < 0.1 {
			prec = 3
		}
	}
	s := strconv.FormatFloat(v, 'f', prec, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	whole, frac, _ := strings.Cut(s, ".")
	sign := strings.HasPrefix(whole, "-")
	whole = strings.TrimPrefix(whole, "-")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if frac != "" {
		whole += "." + frac
	}
	if sign {
		whole = "-" + whole
	}
	return whole
}

// size writes bytes with a binary unit.
func size(bytes float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	i := 0
	for ; math.Abs(bytes) >= 1024 && i < len(units)-1; i++ {
		bytes /= 1024
	}
	if bytes < 10 && i > 0 {
		return strconv.FormatFloat(bytes, 'f', 1, 64) + " " + units[i]
	}
	return strconv.FormatFloat(math.Round(bytes), 'f', 0, 64) + " " + units[i]
}

func ceil(v float64) int { return int(math.Ceil(v - 1e-9)) }

func count(n int, one, many string) string {
	if n == 1 {
		return "one " + one
	}
	words := []string{"no", "one", "two", "three", "four"}
	if n < len(words) {
		return words[n] + " " + many
	}
	return strconv.Itoa(n) + " " + many
}

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// plural makes the unit of an operation plural: its first noun.
func plural(unit string) string {
	first, rest, _ := strings.Cut(unit, " ")
	switch {
	case unit == "":
		return "operations"
	case strings.HasPrefix(unit, "read receipt"), strings.HasPrefix(unit, "typing notice"), strings.HasPrefix(unit, "first sync"),
		strings.HasPrefix(unit, "first thumbnail"):
		second, more, _ := strings.Cut(rest, " ")
		return strings.TrimSpace(first + " " + second + "s " + more)
	case strings.HasSuffix(first, "y"):
		return strings.TrimSpace(strings.TrimSuffix(first, "y") + "ies " + rest)
	}
	return strings.TrimSpace(first + "s " + rest)
}
