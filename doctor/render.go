package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Headline is the result in one sentence: what is broken or the bottleneck, before all else.
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
	what := "Look first at"
	if load[worst.Rule] {
		what = "The bottleneck is"
	} else if worst.Severity == Critical {
		what = "Broken or open:"
	}
	return fmt.Sprintf("%s %s: %s. (%d critical, %d warnings)", what, worst.Where, worst.What, n[Critical], n[Warning])
}

// load are the rules that tell of a bottleneck.
var load = map[string]bool{
	"database-write": true, "database-trip": true, "pool": true, "pool-wait": true, "queue": true, "cpu": true, "memory": true, "stream-delivery": true, "sync": true,
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
