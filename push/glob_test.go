package push

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// TestGlobsMatchWhatTheirRegexpDoes compares with the meaning of the specification, written as a regular expression.
func TestGlobsMatchWhatTheirRegexpDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab?* é世]{1,12}`).Draw(t, "pattern")
		text := rapid.StringMatching(`[ab é世!]{0,14}`).Draw(t, "text")
		expr := strings.NewReplacer(`\*`, "(?s:.*)", `\?`, "(?s:.)").Replace(regexp.QuoteMeta(pattern))
		whole := regexp.MustCompile("^" + expr + "$")
		if got := compileGlob(pattern, false).match(text); got != whole.MatchString(text) {
			t.Errorf("the whole of %q by %q: found %v", text, pattern, got)
		}
		want := false
		for i := 0; i <= len(text); i++ {
			for j := i; j <= len(text); j++ {
				bound := utf8.ValidString(text[i:j]) && (i == 0 || !isWord(text[i-1])) && (j == len(text) || !isWord(text[j]))
				want = want || bound && whole.MatchString(text[i:j])
			}
		}
		if got := compileGlob(pattern, true).match(text); got != want {
			t.Errorf("words of %q by %q: found %v", text, pattern, got)
		}
	})
}

func TestLongPatterns(t *testing.T) {
	for _, n := range []int{1, 63, 64, 65, 127, 128, 254} {
		questions := compileGlob(strings.Repeat("?", n), false)
		for _, c := range []struct {
			text string
			want bool
		}{
			{strings.Repeat("a", n), true},
			{strings.Repeat("世", n), true},
			{strings.Repeat("a", n-1), false},
			{strings.Repeat("a", n+1), false},
		} {
			if questions.match(c.text) != c.want {
				t.Errorf("%d question marks on %d bytes: expected %v", n, len(c.text), c.want)
			}
		}
	}
	if compileGlob(strings.Repeat("?", 256), false) != nil {
		t.Error("a pattern of 256 bytes is too long")
	}
	if compileGlob(strings.Repeat("Ⱥ?", 63), false) == nil {
		t.Error("a pattern that grows in lower case")
	}
}

// hostileRules are as many rules as a user can store, all of one pattern.
func hostileRules(pattern string) *Rules {
	var list []string
	for i, size := 0, 0; i < maxRules && size < maxStored-1000; i++ {
		list = append(list, fmt.Sprintf(`{"rule_id":"r%d","enabled":true,"pattern":%q,"actions":["notify"]}`, i, pattern))
		size += len(list[i]) + 1
	}
	return Compile(me, json.RawMessage(`{"rules":{"content":[`+strings.Join(list, ",")+`]}}`))
}

// hostilePatterns match nothing in a text of a's, in the slowest ways.
var hostilePatterns = map[string]string{
	"question marks": strings.Repeat("?", 254) + "b",
	"stars":          strings.Repeat("a*", 120) + "b",
	"pairs":          strings.Repeat("a?", 120) + "b",
	"a word":         strings.Repeat("a", 250) + "b",
	"a long word":    strings.Repeat("a", 30_000),
	"half a word":    strings.Repeat("a", 120),
}

func TestHostileRulesEndSoon(t *testing.T) {
	for _, letter := range []string{"a", "!"} {
		e := message(t, `{"body":"`+strings.Repeat(letter, 60_000)+`a"}`)
		for name, pattern := range hostilePatterns {
			rules := hostileRules(strings.ReplaceAll(pattern, "a", letter))
			best := time.Hour // a busy machine makes some of them long
			for try := 0; try < 20 && best > 100*time.Millisecond; try++ {
				began := time.Now()
				Evaluate(rules, NewSubject(e), &Facts{DisplayName: pattern})
				best = min(best, time.Since(began))
			}
			if best > 100*time.Millisecond {
				t.Errorf("%s of %q: %d rules took %s for one event", name, letter, len(rules.list), best)
			}
		}
	}
}

// TestManyRulesCountForMessages: the limit of steps does not stop rules for messages that people write.
func TestManyRulesCountForMessages(t *testing.T) {
	rules := hostileRules("x?yz*w")
	last := &compiledRule{conds: []condition{bodyCondition("tea*me")}, result: Result{RuleID: "last"}}
	rules.list = append(rules.list[:maxRules:maxRules], last)
	e := message(t, `{"body":"`+strings.Repeat("some words, ", 12)+`teatime"}`)
	if got := Evaluate(rules, NewSubject(e), &Facts{}); got.RuleID != "last" {
		t.Errorf("behind %d rules: found %q", len(rules.list), got.RuleID)
	}
}

func BenchmarkHostileRules(b *testing.B) {
	e := message(b, `{"body":"`+strings.Repeat("a", 60_000)+`"}`)
	for name, pattern := range hostilePatterns {
		rules := hostileRules(pattern)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				Evaluate(rules, NewSubject(e), &Facts{})
			}
		})
	}
}

func BenchmarkGlob(b *testing.B) {
	text := strings.Repeat("Good morning, how are you all today? ", 3)
	for name, pattern := range map[string]string{"keyword": "tea*time", "question marks": strings.Repeat("?", 254)} {
		g := compileGlob(pattern, true)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				g.match(text)
			}
		})
	}
}
