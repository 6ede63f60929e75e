package push

import (
	"strings"
	"unicode/utf8"
)

// glob is a pattern with * and ? in lower case, cut at its stars. Patterns come from users, so matching
// never goes back: each part is looked for after the one before it, as a star takes anything.
type glob struct {
	parts                 []string
	freeStart, freeEnd    bool // the pattern starts or ends with a star
	boundStart, boundStop func(text string, at int) bool
}

const maxPattern = 255 // bytes of a pattern with wildcards; a longer one matches nothing

func hasWildcard(pattern string) bool { return strings.ContainsAny(pattern, "*?") }

// compileGlob makes a glob that matches the whole text, or with words any part of it between word
// boundaries. It gives nil for a pattern that is too long.
func compileGlob(pattern string, words bool) *glob {
	if len(pattern) > maxPattern {
		return nil
	}
	g := &glob{
		freeStart: strings.HasPrefix(pattern, "*"), freeEnd: strings.HasSuffix(pattern, "*"),
		boundStart: func(_ string, at int) bool { return at == 0 },
		boundStop:  func(text string, at int) bool { return at == len(text) },
	}
	if words {
		g.boundStart = func(text string, at int) bool { return at == 0 || !isWord(text[at-1]) }
		g.boundStop = func(text string, at int) bool { return at == len(text) || !isWord(text[at]) }
	}
	for part := range strings.SplitSeq(strings.ToLower(pattern), "*") {
		if part != "" {
			g.parts = append(g.parts, part)
		}
	}
	return g
}

// match tells whether a text in lower case matches.
func (g *glob) match(text string) bool {
	at := 0
	for i, part := range g.parts {
		start := i > 0 || g.freeStart
		stop := i < len(g.parts)-1 || g.freeEnd
		found := -1
		for from := at; found < 0; {
			if !strings.Contains(part, "?") {
				k := strings.Index(text[from:], part)
				if k < 0 {
					return false
				}
				from += k
			}
			end := partAt(text, from, part)
			if end >= 0 && (start || g.boundStart(text, from)) && (stop || g.boundStop(text, end)) {
				found = end
				break
			}
			if from >= len(text) {
				return false
			}
			_, size := utf8.DecodeRuneInString(text[from:])
			from += size
		}
		at = found
	}
	return len(g.parts) > 0 || g.freeStart || text == ""
}

// partAt gives where a part without stars ends that begins at an offset of text, -1 when it is not there.
func partAt(text string, at int, part string) int {
	for i := 0; i < len(part); i++ {
		if at >= len(text) {
			return -1
		}
		if part[i] == '?' {
			_, size := utf8.DecodeRuneInString(text[at:])
			at += size
			continue
		}
		if text[at] != part[i] {
			return -1
		}
		at++
	}
	return at
}
