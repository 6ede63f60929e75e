package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Headline is the result in a line: what is broken or open, if anything is, and the bottleneck.
func Headline(list []Finding) string {
	n := map[Severity]int{}
	for _, f := range list {
		n[f.Severity]++
	}
	if len(list) == 0 {
		return "Nothing was examined."
	}
	worst := list[0]
	switch worst.Severity {
	case OK:
		return fmt.Sprintf("All is well: %d checks passed.", n[OK])
	case Note:
		return fmt.Sprintf("All is well: %d checks passed, %d notes.", n[OK], n[Note])
	}
	var parts []string
	if !load[worst.Rule] {
		what := "Look first at"
		if worst.Severity == Critical {
			what = "Broken or open:"
		}
		parts = append(parts, fmt.Sprintf("%s %s: %s.", what, worst.Where, worst.What))
	}
	if f, ok := Bottleneck(list); ok {
		parts = append(parts, fmt.Sprintf("The bottleneck is %s: %s.", f.Where, f.What))
	} else {
		parts = append(parts, "No bottleneck.")
	}
	return fmt.Sprintf("%s (%d critical, %d warnings)", strings.Join(parts, " "), n[Critical], n[Warning])
}

// Bottleneck is the first finding that limits what the fleet can carry.
func Bottleneck(list []Finding) (Finding, bool) {
	for _, f := range list {
		if load[f.Rule] && (f.Severity == Critical || f.Severity == Warning) {
			return f, true
		}
	}
	return Finding{}, false
}

// load are the rules that tell of a bottleneck.
var load = map[string]bool{
	"database-write": true, "database-trip": true, "pool": true, "pool-wait": true, "queue": true, "cpu": true, "memory": true,
	"stream-delivery": true, "sync": true,
	"replication": true, "redis": true, "blob": true, "blob-trip": true, "api": true, "media": true, "request-rate": true, "connections": true,
}

// Failed tells whether a program that asks should fail: something is critical.
func Failed(list []Finding) bool {
	return len(list) > 0 && list[0].Severity == Critical
}

var colours = map[Severity]string{Critical: "\x1b[1;31m", Warning: "\x1b[33m", Note: "\x1b[36m", OK: "\x1b[32m"}

// Text writes the findings for people, the headline first and the checks that passed last.
func Text(w io.Writer, list []Finding, colour bool) error {
	paint := func(s Severity, text string) string {
		if !colour {
			return text
		}
		return colours[s] + text + "\x1b[0m"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", Headline(list))
	width := 0
	for _, f := range list {
		if f.Severity == OK {
			width = max(width, utf8.RuneCountInString(f.Rule))
		}
	}
	passed := false
	for _, f := range list {
		if f.Severity == OK {
			if !passed {
				b.WriteString("\n")
				passed = true
			}
			fmt.Fprintf(&b, "%s  %-*s  %s\n", paint(OK, "ok      "), width, f.Rule, f.What)
			continue
		}
		fmt.Fprintf(&b, "\n%s  %s: %s\n", paint(f.Severity, fmt.Sprintf("%-8s", f.Severity)), f.Where, f.What)
		if f.Why != "" {
			fmt.Fprintf(&b, "          why  %s\n", f.Why)
		}
		if f.Do != "" {
			fmt.Fprintf(&b, "          do   %s\n", f.Do)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// JSON writes the findings for programs.
func JSON(w io.Writer, list []Finding) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(map[string]any{"headline": Headline(list), "findings": list})
}
