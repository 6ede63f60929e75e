package lyceum

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tag is the beginning of a struct tag.
var tag = regexp.MustCompile("`[a-z]+:\"")

// Limits of what a reader can hold in the head at once. Tests are bound by the first only.
const (
	maxColumns    = 140 // tabs count as one
	maxStatements = 80  // lines of a function
	maxComplexity = 20  // ways through a function, as McCabe counts them
	maxParameters = 5
)

func TestLinesAndFunctionsAreShort(t *testing.T) {
	set := token.NewFileSet()
	for _, f := range readTree(t) {
		text, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			// A tag is one literal, and a route is one line of a table.
			if tag.MatchString(line) || strings.HasSuffix(f.path, "/routes.go") {
				continue
			}
			if n := len([]rune(line)); n > maxColumns && !f.generated {
				t.Errorf("%s:%d: a line of %d columns; at most %d", f.path, i+1, n, maxColumns)
			}
		}
		if f.test || f.generated {
			continue
		}
		syntax, err := parser.ParseFile(set, f.path, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if n := set.Position(fn.End()).Line - set.Position(fn.Pos()).Line + 1; n > maxStatements {
				t.Errorf("%s: %s has %d lines; at most %d", f.path, fn.Name.Name, n, maxStatements)
			}
			if n := complexity(fn.Body); n > maxComplexity {
				t.Errorf("%s: %s has %d ways through it; at most %d", f.path, fn.Name.Name, n, maxComplexity)
			}
			if n := fn.Type.Params.NumFields(); n > maxParameters {
				t.Errorf("%s: %s has %d parameters; at most %d", f.path, fn.Name.Name, n, maxParameters)
			}
		}
	}
}

// complexity counts the ways through a function: one, and one more for each branch.
func complexity(body *ast.BlockStmt) int {
	n := 1
	ast.Inspect(body, func(x ast.Node) bool {
		switch x := x.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if x.List != nil {
				n++
			}
		case *ast.CommClause:
			if x.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if x.Op == token.LAND || x.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}

// plainWords are invented words that stood in this tree, and what says the same to everybody. CONTRIBUTING.md has the glossary.
var plainWords = map[string]string{
	"hush":      "degraded",
	"farewell":  "pending clean-up",
	"goodbye":   "pending clean-up",
	"tobetold":  "subscribers",
	"tellers":   "subscribers",
	"mourn":     "say what is done when it is lost",
	"players":   "members, processes that have the role",
	"misplaced": "of another owner",
	"zerofirst": "machine 0 first",
	"upward":    "notifier",
	"minted":    "made, new",
	"mint":      "make, new",
	"sighting":  "device use",
	"mates":     "who shares a room",
	"sift":      "filter, remove",
	"tally":     "count, verdicts",
	"poke":      "wake, signal",
	"horizon":   "visible ranges",
	"lonely":    "alone, without members",
	"untold":    "not sent yet",
	"strayed":   "of another owner",
	"moody":     "what fails, and when",
	"stubborn":  "what fails, and when",
}

// storedNames are names in databases, which stay: a column is not renamed. Each stands in one constant.
var storedNames = strings.NewReplacer(`"farewell"`, "")

// word splits an identifier or a sentence: highWaterMark is high, water and mark.
var word = regexp.MustCompile(`[A-Z]?[a-z]+|[A-Z]+`)

func TestWordsAreThoseOfTheField(t *testing.T) {
	for _, f := range readTree(t) {
		if f.path == "style_test.go" {
			continue
		}
		text, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			line = storedNames.Replace(line)
			words := word.FindAllString(line, -1)
			for j := range words {
				words[j] = strings.ToLower(words[j])
			}
			whole := strings.ToLower(line)
			for bad, good := range plainWords {
				if slices.Contains(words, bad) || len(bad) > 7 && strings.Contains(whole, bad) {
					t.Errorf("%s:%d: %q is a word of its own: say %q, or what it is", f.path, i+1, bad, good)
				}
			}
		}
	}
}
