package push

import (
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxPattern = 255               // bytes of a pattern with wildcards; a longer one matches nothing
	globWords  = maxPattern/64 + 1 // of a set of states: one more than a pattern has characters
	anyClass   = 0                 // of characters that the pattern does not name
	asciiEnd   = utf8.RuneSelf     // characters below it are looked up in a table
)

// glob is a pattern with * and ? in lower case, as an automaton whose set of states is a set of bits: state n is
// that the first n characters of the pattern, stars not counted, were found. Patterns and texts come from users, so
// matching takes the same few steps for each character of a text, whatever the pattern is.
type glob struct {
	words   bool   // the match may be a part of the text between word boundaries
	n       int    // characters of the pattern, without stars
	used    int    // words of states that are used
	stars   states // at which a star takes any character
	ascii   [asciiEnd]uint8
	others  []rune   // characters beyond ASCII; the class of others[i] is class[i]
	class   []uint8  // of others
	classes []states // by class: states that a character of it leads on from
}

type states [globWords]uint64

func (s *states) set(i int) { s[i/64] |= 1 << (i % 64) }

func hasWildcard(pattern string) bool { return strings.ContainsAny(pattern, "*?") }

// compileGlob makes a glob that matches the whole text, or with words any part of it between word boundaries. It returns nil for a pattern
// that is too long.
func compileGlob(pattern string, words bool) *glob {
	if len(pattern) > maxPattern {
		return nil
	}
	g := &glob{words: words, classes: make([]states, 1)}
	var whatever states // that any character leads on from
	for _, r := range strings.ToLower(pattern) {
		switch {
		case g.n >= maxPattern: // lower case may be longer
			return nil
		case r == '*':
			g.stars.set(g.n)
			continue
		case r == '?':
			whatever.set(g.n)
		default:
			g.classes[g.classFor(r)].set(g.n)
		}
		g.n++
	}
	for i := range g.classes {
		for w := range whatever {
			g.classes[i][w] |= whatever[w]
		}
	}
	g.used = g.n/64 + 1
	return g
}

// classFor finds or makes the class of a character of the pattern.
func (g *glob) classFor(r rune) uint8 {
	if c := g.classOf(r); c != anyClass {
		return c
	}
	c := uint8(len(g.classes)) // a pattern has at most 255 characters
	g.classes = append(g.classes, states{})
	if r < asciiEnd {
		g.ascii[r] = c
		return c
	}
	i, _ := slices.BinarySearch(g.others, r)
	g.others, g.class = slices.Insert(g.others, i, r), slices.Insert(g.class, i, c)
	return c
}

func (g *glob) classOf(r rune) uint8 {
	if r < asciiEnd {
		return g.ascii[r]
	}
	if i, ok := slices.BinarySearch(g.others, r); ok {
		return g.class[i]
	}
	return anyClass
}

// cost is about how many steps a match takes.
func (g *glob) cost(text string) int { return len(text) * (g.used + 3) }

// match tells whether a text in lower case matches.
func (g *glob) match(text string) bool {
	var at states
	last, bit := g.n/64, uint64(1)<<(g.n%64)
	wordBefore := false // a word may not begin here
	for i := 0; ; {
		if !wordBefore {
			at[0] |= 1
		}
		if at[last]&bit != 0 && (i == len(text) || g.words && !isWord(text[i])) {
			return true
		}
		if i == len(text) {
			return false
		}
		class, size := uint8(anyClass), 1
		if c := text[i]; c < asciiEnd {
			class = g.ascii[c]
			wordBefore = !g.words || isWord(c)
		} else {
			var r rune
			r, size = utf8.DecodeRuneInString(text[i:])
			class = g.classOf(r)
			wordBefore = !g.words
		}
		i += size
		on := &g.classes[class]
		var carry, alive uint64
		for w := range g.used {
			led := at[w] & on[w]
			at[w] = led<<1 | carry | at[w]&g.stars[w]
			carry = led >> 63
			alive |= at[w]
		}
		if alive == 0 && !g.words {
			return false
		}
	}
}
