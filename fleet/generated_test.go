package fleet

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lyceum/matrix"
	"lyceum/platform/blob"
	"lyceum/platform/conf"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
)

// wired are the domains of a process that is not run.
func wired(t *testing.T) *domains {
	t.Helper()
	c := &Config{}
	if err := conf.Load(conf.Sources{Environ: []string{"LYCEUM_SERVER_NAME=localhost"}}, c.Sections()...); err != nil {
		t.Fatal(err)
	}
	blobs, err := blob.OpenDirectory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key, err := matrix.NewSigningKey("test", make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	p := roletest.New(t, dbtest.Open(t, "sqlite:"+filepath.Join(t.TempDir(), "routes.db"), Migrations()...))
	d, err := wire(dependencies{process: p, blobs: blobs, key: key}, c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// allRoutes are the routes of a process with everything in it.
func allRoutes(t *testing.T) []web.Route {
	t.Helper()
	s, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.Add(wired(t).routes...)
	return s.Routes()
}

// generated compares a page of the manual with what the program says, or writes it (make generate).
func generated(t *testing.T, name string, text []byte) {
	t.Helper()
	path := filepath.Join("..", "manual", name)
	if os.Getenv("LYCEUM_GENERATE") != "" {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, text) {
		t.Errorf("manual/%s is not what the program says: type make generate", name)
	}
}

func TestGeneratedPages(t *testing.T) {
	head := func(title, about string) string {
		return "# " + title + "\n\n" + about + " Printed by `make generate`.\n\n"
	}
	routes := allRoutes(t)
	generated(t, "routes.md", append(append([]byte(head("Routes", "Every endpoint, from the routes.go of each package.")),
		web.RoutesMarkdown(routes)...), oldPathsMarkdown()...))
	roles := head("Roles", "The roles that each domain.go declares; `lyceum roles` prints it too.")
	generated(t, "roles.md", append([]byte(roles), RolesMarkdown()...))
	generated(t, "config.md", append([]byte(head("Configuration", "Every key; `lyceum config --reference` prints it too.")),
		conf.Reference((&Config{}).Sections())...))
	generated(t, "missing.md", missing(t, routes))
}

// oldPathsMarkdown is the table of older paths.
func oldPathsMarkdown() []byte {
	var out bytes.Buffer
	out.WriteString("\n## Older paths\n\nA path that no route takes is read as one of today:\n\n| begins with | is read as |\n|---|---|\n")
	for _, old := range oldPaths() {
		fmt.Fprintf(&out, "| `%s` | `%s` |\n", old.Prefix, old.Now)
	}
	return out.Bytes()
}

var pathParameter = regexp.MustCompile(`\{[^}]*\}`)

// shapeOf is a path without the names of its parameters.
func shapeOf(path string) string {
	path = strings.TrimSuffix(strings.TrimSuffix(path, "{$}"), "/")
	return pathParameter.ReplaceAllString(path, "{}")
}

// missing lists the endpoints of the specification that no route serves, with the reason for each.
func missing(t *testing.T, routes []web.Route) []byte {
	t.Helper()
	f, err := os.Open("testdata/endpoints.tsv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.LazyQuotes = '\t', true
	rows, err := r.ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, route := range routes {
		served[route.Method()+" "+shapeOf(route.Path())] = true
	}
	reasons := reasonsForMissing(t)
	var b strings.Builder
	parts, err := os.ReadFile("testdata/missing_parts.md")
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString("# What is missing\n\n")
	b.Write(parts)
	b.WriteString("Endpoints of the Matrix specification that are not there yet, " +
		"from the route table. Printed by `make generate`.\n\n| endpoint | why |\n|---|---|\n")
	var lines []string
	count := 0
	for _, row := range rows[1:] {
		endpoint := row[1] + " " + row[2]
		if served[row[1]+" "+shapeOf(row[2])] {
			count++
			continue
		}
		why := ""
		for _, reason := range reasons {
			if reason.pattern.MatchString(row[0] + " " + endpoint) {
				why = reason.why
				break
			}
		}
		if why == "" {
			t.Errorf("%s is neither routed nor has a reason in fleet/testdata/missing.tsv", endpoint)
		}
		lines = append(lines, fmt.Sprintf("| `%s` | %s |\n", endpoint, why))
	}
	slices.Sort(lines)
	for _, line := range lines {
		b.WriteString(line)
	}
	fmt.Fprintf(&b, "\n%d of %d endpoints are served.\n", count, len(rows)-1)
	return []byte(b.String())
}

type reason struct {
	pattern *regexp.Regexp
	why     string
}

func reasonsForMissing(t *testing.T) []reason {
	t.Helper()
	text, err := os.ReadFile("testdata/missing.tsv")
	if err != nil {
		t.Fatal(err)
	}
	var out []reason
	for line := range strings.Lines(string(text)) {
		pattern, why, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			t.Fatalf("testdata/missing.tsv: expected PATTERN<tab>WHY, found %q", line)
		}
		out = append(out, reason{regexp.MustCompile(pattern), why})
	}
	return out
}
