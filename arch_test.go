package lyceum

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// floors are the packages from the lowest up; a package imports only lower ones.
var floors = []string{
	"platform/jsontext",
	"matrix textot ui platform/backoff platform/caller platform/disk platform/dial platform/confine",
	"matrix/* platform/conf platform/obs platform/engines ops/plan",
	"platform/db platform/blob platform/bus platform/lease",
	"platform/stream platform/web platform/rpc",
	"platform/role platform/owned",
	"platform/router platform/status platform/domain",
	"accounts fedclient",
	"devices media rooms projects",
	"receipts reports typing presence push directory compile gitbridge",
	"federation appservices syncapi admin ops/deploy ops/doctor",
	"ops/bench fleet",
	"ops/up",
	"ops/connect",
	"ops/users ops/backup ops/render",
	"cmd/* fleettest",
	"hostiletest",
}

// within are the exceptions inside a floor: engines of a seam stand on its neighbours.
var within = map[string][]string{
	"platform/lease":        {"platform/db"}, // leases are rows
	"platform/obs":          {"platform/conf"},
	"platform/blob":         {},
	"platform/bus/busfault": {"platform/bus"},
}

// largeInterfaces, longFiles and the like are empty: there are no exceptions.

type file struct {
	path, pkg string
	test      bool
	generated bool
	lines     int
	syntax    *ast.File
}

func readTree(t *testing.T) []file {
	t.Helper()
	var out []file
	set := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != "." || d.Name() == "node_modules" || d.Name() == "testdata" || p != "." &&
			exists(filepath.Join(p, "go.mod"))) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		syntax, err := parser.ParseFile(set, p, text, parser.ParseComments)
		if err != nil {
			return err
		}
		p = filepath.ToSlash(p)
		dir := path.Dir(p)
		out = append(out, file{
			path: p, pkg: dir, test: strings.HasSuffix(p, "_test.go") || strings.HasSuffix(dir, "test") && dir != "fleettest",
			generated: ast.IsGenerated(syntax), lines: strings.Count(string(text), "\n"), syntax: syntax,
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func floorOf(pkg string) int {
	top := pkg
	if parts := strings.Split(pkg, "/"); (parts[0] == "platform" || parts[0] == "ops") && len(parts) > 2 {
		top = parts[0] + "/" + parts[1]
	} else if parts[0] != "platform" && parts[0] != "ops" && parts[0] != "matrix" && parts[0] != "cmd" && len(parts) > 1 {
		top = parts[0]
	}
	for i, line := range floors {
		for _, name := range strings.Fields(line) {
			if name == top || strings.HasSuffix(name, "/*") && path.Dir(top) == strings.TrimSuffix(name, "/*") {
				return i
			}
		}
	}
	return -1
}

func imports(f file) []string {
	var out []string
	for _, im := range f.syntax.Imports {
		if name, ok := strings.CutPrefix(strings.Trim(im.Path.Value, `"`), "lyceum/"); ok {
			out = append(out, name)
		}
	}
	return out
}

func TestArrowsPointDownTheFloors(t *testing.T) {
	for _, f := range readTree(t) {
		if f.test || f.pkg == "." {
			continue
		}
		from := floorOf(f.pkg)
		if from < 0 {
			t.Errorf("%s: package %s stands on no floor: add it to floors in arch_test.go", f.path, f.pkg)
			continue
		}
		for _, to := range imports(f) {
			below := strings.HasPrefix(to, f.pkg+"/")
			inFamily := strings.HasPrefix(f.pkg, to+"/") // a part may use its whole's data only under matrix
			switch {
			case below || slices.Contains(within[f.pkg], to) || inFamily && strings.HasPrefix(to, "matrix"):
			case strings.HasPrefix(f.pkg, "matrix/") && strings.HasPrefix(to, "matrix/"): // event, then auth, then stateres
			case floorOf(to) >= from:
				t.Errorf("%s (floor %d) imports %s (floor %d): calls go down, news goes up by streams", f.path, from, to, floorOf(to))
			}
			if strings.HasPrefix(f.pkg, "platform/") && strings.HasPrefix(to, "matrix") {
				t.Errorf("%s imports %s: platform knows no Matrix", f.path, to)
			}
			if whole, _, nested := strings.Cut(to, "/"); nested && whole != "platform" && whole != "matrix" && whole != "ops" &&
				f.pkg != whole && !strings.HasPrefix(f.pkg, whole+"/") && !allowedPart[to] {
				t.Errorf("%s imports %s: only %s may", f.path, to, whole)
			}
		}
	}
}

// allowedPart are parts that are the vocabulary of their whole.
var allowedPart = map[string]bool{
	"rooms/state": true, // ids and keys of room state appear in what rooms gives to others
}

func TestOnePackageCommentInDocFile(t *testing.T) {
	comments := map[string]int{}
	packages := map[string]bool{}
	for _, f := range readTree(t) {
		if strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		packages[f.pkg] = true
		if f.syntax.Doc != nil {
			comments[f.pkg]++
		}
	}
	for pkg := range packages {
		if comments[pkg] != 1 {
			t.Errorf("package %s has %d package comments, expected one", pkg, comments[pkg])
		}
	}
}

func TestFilesAndPackagesAreShort(t *testing.T) {
	total := map[string]int{}
	for _, f := range readTree(t) {
		if f.test || f.generated {
			continue
		}
		total[f.pkg] += f.lines
		if f.lines > 600 {
			t.Errorf("%s has %d lines, at most 600 are allowed: split it by subject", f.path, f.lines)
		}
	}
	for pkg, n := range total {
		if n > 8000 {
			t.Errorf("package %s has %d lines, at most 8,000 are allowed", pkg, n)
		}
	}
}

func TestInterfacesAreSmall(t *testing.T) {
	for _, f := range readTree(t) {
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if i, ok := spec.Type.(*ast.InterfaceType); ok && i.Methods.NumFields() > 8 {
				t.Errorf("%s: interface %s has %d methods, at most 8 are allowed", f.path, spec.Name, i.Methods.NumFields())
			}
			return true
		})
	}
}

func TestNoInitAndFewParameters(t *testing.T) {
	for _, f := range readTree(t) {
		if f.test {
			continue
		}
		for _, d := range f.syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if fn.Name.Name == "init" && fn.Recv == nil {
				t.Errorf("%s has an init function: do it where it is visible", f.path)
			}
			n := fn.Type.Params.NumFields()
			if n > 0 && isContext(fn.Type.Params.List[0].Type) {
				n--
			}
			if n > 5 {
				t.Errorf("%s: %s has %d parameters, at most 5 beside the context are allowed: name them in a struct", f.path, fn.Name, n)
			}
		}
	}
}

func isContext(e ast.Expr) bool {
	s, ok := e.(*ast.SelectorExpr)
	return ok && s.Sel.Name == "Context"
}

func TestPackagesHaveTellingNames(t *testing.T) {
	bad := []string{"util", "utils", "common", "types", "shared", "api", "models", "helpers", "misc", "base"}
	for _, f := range readTree(t) {
		if slices.Contains(bad, path.Base(f.pkg)) {
			t.Errorf("package %s: its name tells nothing", f.pkg)
		}
	}
}

// TestClockAndEnvironmentAreReadInPlatform holds that a domain's time and settings are given to it. What makes a process, operates
// it or puts load on it stands outside.
func TestClockAndEnvironmentAreReadInPlatform(t *testing.T) {
	for _, f := range readTree(t) {
		if f.test || strings.HasPrefix(f.pkg, "platform/") || strings.HasPrefix(f.pkg, "cmd/") || floorOf(f.pkg) >= floorOf("fleet") {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok && (x.Name == "time" && s.Sel.Name == "Now" || x.Name == "os" && (s.Sel.Name == "Getenv" ||
				s.Sel.Name == "LookupEnv")) {
				t.Errorf("%s calls %s.%s: the clock and the environment are read in platform", f.path, x.Name, s.Sel.Name)
			}
			return true
		})
	}
}

// TestFilesAreWrittenDurably holds that files are written by platform/disk, so that none is half there after the
// loss of power. Streams of bytes, such as logs, blobs and archives, have their own ways.
func TestFilesAreWrittenDurably(t *testing.T) {
	for _, f := range readTree(t) {
		if f.test || f.pkg == "fleettest" {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "os" && s.Sel.Name == "WriteFile" {
					t.Errorf("%s calls os.WriteFile, which may leave half a file: use disk.WriteFile", f.path)
				}
			}
			return true
		})
	}
}

// domains are the packages that own tables, streams and routes.
var domains = strings.Fields(`accounts devices media rooms projects receipts reports typing presence push directory compile gitbridge
	federation appservices syncapi admin`)

func domainOf(pkg string) string {
	whole, _, _ := strings.Cut(pkg, "/")
	if slices.Contains(domains, whole) {
		return whole
	}
	return ""
}

// TestDomainsAreAskedByExportedTypes holds that who may call a domain can also write what it is asked: a parameter of an
// unexported type can be made by the domain alone.
func TestDomainsAreAskedByExportedTypes(t *testing.T) {
	files := readTree(t)
	own := map[string]bool{} // package and name of unexported types
	for _, f := range files {
		for _, d := range f.syntax.Decls {
			if g, ok := d.(*ast.GenDecl); ok {
				for _, s := range g.Specs {
					if s, ok := s.(*ast.TypeSpec); ok && !s.Name.IsExported() {
						own[f.pkg+" "+s.Name.Name] = true
					}
				}
			}
		}
	}
	for _, f := range files {
		if f.test || domainOf(f.pkg) == "" {
			continue
		}
		for _, d := range f.syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || !fn.Name.IsExported() || !receiverExported(fn) {
				continue
			}
			for _, p := range fn.Type.Params.List {
				ast.Inspect(p.Type, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok && own[f.pkg+" "+id.Name] {
						t.Errorf("%s: %s takes %s, which no other package can write: export and describe the type", f.path, fn.Name, id.Name)
					}
					_, qualified := n.(*ast.SelectorExpr)
					return !qualified
				})
			}
		}
	}
}

func receiverExported(fn *ast.FuncDecl) bool {
	exported := true
	if fn.Recv != nil {
		ast.Inspect(fn.Recv.List[0].Type, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				exported = id.IsExported()
				return false
			}
			return exported
		})
	}
	return exported
}

// statements are the calls that take SQL, and where it stands among the arguments.
var statements = map[string]int{"Query": 1, "QueryRow": 1, "Exec": 1, "Bulk": 1, "Do": 0, "Must": 1, "Require": 2}

var looksLikeSQL = regexp.MustCompile(`\b(SELECT|WHERE|FROM|JOIN|ORDER BY|LIMIT|LIKE|ANY\()|[=<>(] ?\$\d|[a-z_]+ (=|<|>|IN) `)

// TestNoSQLBetweenDomains holds that a domain is asked for what is wanted, in Go, and writes its own SQL: no exported
// function makes SQL of a text that it is given, and no call of another domain carries SQL.
func TestNoSQLBetweenDomains(t *testing.T) {
	files := readTree(t)
	exported := map[string][]string{} // name of a function -> the domains that export it
	for _, f := range files {
		if f.test || domainOf(f.pkg) == "" {
			continue
		}
		for _, d := range f.syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.IsExported() {
				exported[fn.Name.Name] = append(exported[fn.Name.Name], domainOf(f.pkg))
				if receiverExported(fn) {
					givenSQL(t, f, fn)
				}
			}
		}
	}
	for _, f := range files {
		if f.test || domainOf(f.pkg) == "" {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			s, ok := call.Fun.(*ast.SelectorExpr)
			if _, statement := statements[selected(s, ok)]; !ok || statement || slices.Contains(exported[s.Sel.Name], domainOf(f.pkg)) {
				return true
			}
			for _, arg := range call.Args {
				if text := textIn(arg); len(exported[s.Sel.Name]) > 0 && looksLikeSQL.MatchString(text) {
					t.Errorf("%s gives the SQL %q to %s of %s: let it be asked by a type of its own", f.path, text, s.Sel.Name,
						strings.Join(exported[s.Sel.Name], " or "))
				}
			}
			return true
		})
	}
}

func selected(s *ast.SelectorExpr, ok bool) string {
	if ok {
		return s.Sel.Name
	}
	return ""
}

// textIn joins the literals of an expression.
func textIn(e ast.Expr) (text string) {
	ast.Inspect(e, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			part, err := strconv.Unquote(lit.Value)
			if err == nil {
				text += part
			}
		}
		_, inner := n.(*ast.FuncLit)
		return !inner
	})
	return text
}

// givenSQL fails where a text that a function is given becomes part of a statement. Parts of the text of a statement are
// looked through, so also one that is put together before.
func givenSQL(t *testing.T, f file, fn *ast.FuncDecl) {
	t.Helper()
	if fn.Body == nil {
		return
	}
	given := map[string]bool{}
	for _, p := range fn.Type.Params.List {
		id, text := p.Type.(*ast.Ident)
		for _, name := range p.Names {
			given[name.Name] = text && id.Name == "string"
		}
	}
	part := func(e ast.Expr) (out string) {
		for {
			switch x := e.(type) {
			case *ast.BinaryExpr:
				if id, ok := x.Y.(*ast.Ident); ok && given[id.Name] {
					return id.Name
				}
				e = x.X
				continue
			case *ast.ParenExpr:
				e = x.X
				continue
			case *ast.Ident:
				if given[x.Name] {
					return x.Name
				}
			}
			return ""
		}
	}
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		var texts []ast.Expr
		switch x := n.(type) {
		case *ast.CallExpr:
			s, ok := x.Fun.(*ast.SelectorExpr)
			if at, statement := statements[selected(s, ok)]; statement && at < len(x.Args) {
				texts = append(texts, x.Args[at])
			}
		case *ast.AssignStmt:
			for _, e := range x.Rhs {
				if looksLikeSQL.MatchString(textIn(e)) {
					texts = append(texts, e)
				}
			}
		}
		for _, e := range texts {
			if name := part(e); name != "" {
				t.Errorf("%s: %s makes SQL of its parameter %s: take what is wanted in a type, and write the SQL here", f.path, fn.Name, name)
			}
		}
		return true
	})
}

// TestOutboundConnectionsAreChecked holds that domains reach what users name by platform/dial alone.
func TestOutboundConnectionsAreChecked(t *testing.T) {
	makes := map[string][]string{
		"http": {"Client", "Transport", "DefaultClient", "DefaultTransport", "Get", "Head", "Post", "PostForm"},
		"net":  {"Dialer", "Dial", "DialTimeout", "DialTCP", "DialUDP"}, "tls": {"Dial", "Dialer", "DialWithDialer"},
	}
	for _, f := range readTree(t) {
		if f.test || domainOf(f.pkg) == "" && f.pkg != "fedclient" {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if star, ok := n.(*ast.StarExpr); ok { // the type of a field or parameter
				if s, ok := star.X.(*ast.SelectorExpr); ok && s.Sel.Name == "Client" {
					return false
				}
			}
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && slices.Contains(makes[x.Name], s.Sel.Name) {
					t.Errorf("%s uses %s.%s: connections outward are made by platform/dial, which refuses private addresses", f.path, x.Name, s.Sel.Name)
				}
			}
			return true
		})
	}
}

// TestDialectsAreFew counts the places that ask which SQL engine runs.
func TestDialectsAreFew(t *testing.T) {
	n := 0
	for _, f := range readTree(t) {
		if f.test {
			continue
		}
		ast.Inspect(f.syntax, func(node ast.Node) bool {
			if call, ok := node.(*ast.CallExpr); ok {
				if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Postgres" && len(call.Args) == 0 {
					n++
				}
			}
			return true
		})
	}
	if n > 20 {
		t.Errorf("%d places ask for the SQL engine, at most 20 are allowed", n)
	}
}

// TestEachDomainIsInTheList holds that a package with tables or routes declares itself in its domain.go and is in the list of
// fleet/domains.go, and that it says which of its columns name blobs when it keeps some.
func TestEachDomainIsInTheList(t *testing.T) {
	listed, declared, needs := map[string]bool{}, map[string]*ast.CompositeLit{}, map[string]string{}
	for _, f := range readTree(t) {
		if f.test || f.pkg == "platform/domain" {
			continue
		}
		if _, err := os.Stat(path.Join(f.pkg, "migrations")); err == nil && f.pkg != "platform/lease" { // fleet declares that one
			needs[f.pkg] = "it has migrations"
		}
		for _, d := range f.syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "Routes" && fn.Recv != nil && fn.Name.IsExported() && !strings.HasPrefix(f.pkg,
				"platform/") {
				needs[f.pkg] = "it has routes"
			}
			vars, ok := d.(*ast.GenDecl)
			if !ok || vars.Tok != token.VAR {
				continue
			}
			for _, s := range vars.Specs {
				v := s.(*ast.ValueSpec)
				switch {
				case v.Names[0].Name == "Domain" && len(v.Values) == 1:
					declared[f.pkg], _ = v.Values[0].(*ast.CompositeLit)
					needs[f.pkg] = "it declares a Domain"
					if path.Base(f.path) != "domain.go" {
						t.Errorf("%s declares a Domain: expected it in %s/domain.go", f.path, f.pkg)
					}
				case f.path == "fleet/domains.go" && v.Names[0].Name == "Domains":
					for _, e := range v.Values[0].(*ast.CompositeLit).Elts {
						if x, ok := e.(*ast.SelectorExpr); ok && x.Sel.Name == "Domain" {
							listed[x.X.(*ast.Ident).Name] = true
						}
					}
				}
			}
		}
	}
	if len(listed) == 0 {
		t.Fatal("the list Domains was not found in fleet/domains.go")
	}
	for pkg, why := range needs {
		if declared[pkg] == nil || !listed[path.Base(pkg)] {
			t.Errorf("package %s: %s, so expected %s/domain.go with a Domain, and a line for it in fleet/domains.go", pkg, why, pkg)
		}
	}
	for _, f := range readTree(t) {
		if d := declared[f.pkg]; d != nil && !f.test && slices.Contains(imports(f), "platform/blob") && !slices.ContainsFunc(d.Elts,
			func(e ast.Expr) bool {
				pair, ok := e.(*ast.KeyValueExpr)
				return ok && pair.Key.(*ast.Ident).Name == "Blobs"
			}) {
			t.Errorf("%s keeps blobs, and the Domain of %s does not say which columns name them (Blobs)", f.path, f.pkg)
		}
	}
}

// TestEachDependencyIsExplained holds that every direct dependency has a line in design/dependencies.md.
func TestEachDependencyIsExplained(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("design/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mod)) {
		fields := strings.Fields(line)
		if len(fields) == 2 && strings.Contains(fields[0], ".") && !strings.Contains(line, "// indirect") {
			name := strings.TrimSuffix(fields[0], "/otel/sdk")
			name = strings.TrimSuffix(name, "/otel/trace")
			if strings.Contains(name, "opentelemetry") {
				name = "go.opentelemetry.io/otel"
			}
			if !strings.Contains(string(page), name) {
				t.Errorf("%s has no line in design/dependencies.md", fields[0])
			}
		}
	}
}

// exists says that there is such a file: with go.mod, that a folder is a module of its own.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
