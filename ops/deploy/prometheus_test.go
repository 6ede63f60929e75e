package deploy

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestRulesHaveWhatPeopleNeed(t *testing.T) {
	files, err := Prometheus(input())
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []struct {
				Record      string            `yaml:"record"`
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				For         string            `yaml:"for"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	text := find(t, files, "lyceum.rules.yml")
	if err := yaml.UnmarshalWithOptions(text, &rules, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("testdata/lyceum.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[string]bool{}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			recorded[r.Record] = true
			if r.Alert == "" {
				continue
			}
			if !regexp.MustCompile(`\b` + r.Alert + `\b`).Match(tests) {
				t.Errorf("%s has no test in testdata/lyceum.test.yml", r.Alert)
			}
			if r.For == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" ||
				!slices.Contains([]string{"warning", "critical"}, r.Labels["severity"]) {
				t.Errorf("%s does not say how grave it is, since when, what it means and what to do", r.Alert)
			}
		}
	}
	for _, name := range regexp.MustCompile(`lyceum:[a-z_:0-9]+`).FindAllString(string(text), -1) {
		if !recorded[name] {
			t.Errorf("%s is read and not recorded", name)
		}
	}
}

func TestPromtoolTakesTheRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: prometheus); the rules are read in TestRulesHaveWhatPeopleNeed")
	}
	in := input()
	files, err := Prometheus(in)
	if err != nil {
		t.Fatal(err)
	}
	in.Targets, in.Alertmanagers = []string{"10.0.0.1:8010"}, []string{"10.0.0.2:9093"}
	static, err := Prometheus(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"check", "config", filepath.Join(write(t, files), "prometheus.yml")},
		{"check", "config", filepath.Join(write(t, static), "prometheus.yml")},
	} {
		out, err := exec.Command(promtool, args...).CombinedOutput()
		if strings.Contains(string(out), "field kubernetes_sd_configs not found") {
			t.Log("this promtool is built without Kubernetes, as Debian's is: the configuration with addresses is checked alone")
			continue
		}
		if err != nil || strings.Contains(string(out), "WARN") {
			t.Errorf("promtool %v: %v\n%s", args[:2], err, out)
		}
	}
	dir := write(t, files)
	tests, err := os.ReadFile("testdata/lyceum.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "lyceum.test.yml")
	if err := os.WriteFile(name, tests, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "test", "rules", name).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestDashboardExpressionsParse gives the queries of the dashboard to promtool, as rules.
func TestDashboardExpressionsParse(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: prometheus)")
	}
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var out []rule
	for _, p := range panels(t) {
		for _, target := range p.Targets {
			out = append(out, rule{"panel:" + regexp.MustCompile(`[^a-z]`).ReplaceAllString(strings.ToLower(p.Title), "_") + ":" +
				strings.ToLower(target.RefID), strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")})
		}
	}
	body, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": out}}})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(name, body, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", name).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// panels are those of the dashboard, of closed rows too.
func panels(t *testing.T) []panel {
	t.Helper()
	files, err := Grafana(input())
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(find(t, files, "lyceum.json"), &d); err != nil {
		t.Fatal(err)
	}
	var out []panel
	for _, p := range d.Panels {
		out = append(append(out, p), p.Panels...)
	}
	return out
}

// TestTheAdapterGivesWhatAutoscalersAskFor compares the rules of the adapter with the metrics of autoscalers.
func TestTheAdapterGivesWhatAutoscalersAskFor(t *testing.T) {
	c, files := readCluster(t, input())
	given := Metrics([]File{{Body: find(t, files, "prometheus-adapter.yaml")}})
	var asked []string
	for _, h := range c.scalers {
		for _, m := range h.Spec.Metrics {
			if m.Pods != nil && !slices.Contains(asked, m.Pods.Metric.Name) {
				asked = append(asked, m.Pods.Metric.Name)
			}
		}
	}
	slices.Sort(asked)
	if !slices.Equal(given, asked) {
		t.Errorf("the adapter gives %v, the autoscalers ask for %v", given, asked)
	}
}

func TestDashboardIsWhole(t *testing.T) {
	files, err := Grafana(input())
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(find(t, files, "lyceum.json"), &d); err != nil {
		t.Fatal(err)
	}
	variables := map[string]bool{}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
	}
	for _, v := range regexp.MustCompile(`\$\{?([a-z]+)`).FindAllStringSubmatch(string(find(t, files, "lyceum.json")), -1) {
		if !variables[v[1]] {
			t.Errorf("the variable %s is nowhere", v[1])
		}
	}
	ids := map[int]bool{}
	var titles []string
	taken := map[[2]int]int{}
	for _, p := range panels(t) {
		if ids[p.ID] {
			t.Errorf("two panels have the number %d", p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			titles = append(titles, p.Title)
			continue
		}
		if len(p.Targets) == 0 || p.FieldConfig.Defaults.Unit == "" || p.Datasource == nil {
			t.Errorf("%s has no query, unit or data source", p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if x >= 24 || taken[[2]int{x, y}] != 0 {
					t.Fatalf("%s lies over another panel or beside the page", p.Title)
				}
				taken[[2]int{x, y}] = p.ID
			}
		}
	}
	if want := "Overview Sync Events Streams by shard Database Redis Blob store Media Processes"; strings.Join(titles, " ") != want {
		t.Errorf("rows: %v", titles)
	}
}

// TestMetricsExist looks for every metric of rules, dashboards and autoscalers in the sources of the tree;
// package fleet compares them with the registry of a real process.
func TestMetricsExist(t *testing.T) {
	var known []string
	quoted := regexp.MustCompile(`"(lyceum_[a-z_]+)"`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "node_modules" || d.Name() == "deploy" ||
			strings.HasPrefix(d.Name(), ".") && path != "../..") {
			if err == nil {
				err = filepath.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range quoted.FindAllSubmatch(text, -1) {
			known = append(known, string(m[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	// Of the Go and process collectors of the client library.
	known = append(known, "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds",
		"go_sched_gomaxprocs_threads", "go_gc_gomemlimit_bytes", "go_goroutines")
	for _, render := range []func(Input) ([]File, error){Prometheus, Grafana, Kubernetes} {
		files, err := render(input())
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckMetrics(files, known); err != nil {
			t.Error(err)
		}
	}
}
