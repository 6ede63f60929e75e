package deploy

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lyceum/platform/role"
)

// table is a table of roles of every kind; package fleet tests the real one.
var table = []role.Role{
	{Name: "router", Purpose: "passes requests on"},
	{Name: "client", Purpose: "answers"},
	{Name: "sync", Purpose: "keeps clients up to date", Key: "user"},
	{Name: "events", Purpose: "orders events", Stream: "events", Key: "room"},
	{Name: "receipts", Purpose: "stores what was read", Stream: "receipts", Key: "room"},
	{Name: "push", Purpose: "tells gateways"},
	{Name: "media", Purpose: "files"},
	{Name: "thumbnails", Purpose: "makes thumbnails", Pool: "media"},
	{Name: "admin", Purpose: "answers operators", Pool: "client"},
}

func input() Input {
	return Input{
		ServerName: "example.org", Version: "1.2.3", Registry: "registry.example.org/apps", Roles: table, Revision: 7, ConcurrentUsers: 5000,
		Sizes: map[string]Size{
			"events":     {Min: 3, Max: 9, CPU: 500, CPULimit: 2000, Memory: 1 << 30},
			"thumbnails": {Min: 1, Max: 4},
		},
		Secrets:        FreshSecrets(),
		TrustedProxies: []string{"10.0.0.0/8"},
	}
}

// write puts rendered files into a directory.
func write(t *testing.T, files []File) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Body, f.Mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func find(t *testing.T, files []File, name string) []byte {
	t.Helper()
	for _, f := range files {
		if f.Name == name {
			return f.Body
		}
	}
	t.Fatalf("%s was not rendered", name)
	return nil
}

// all are the functions that render a directory.
var all = map[string]func(Input) ([]File, error){
	"kubernetes": Kubernetes, "compose": Compose, "systemd": Systemd, "prometheus": Prometheus, "grafana": Grafana,
}

func TestEverythingIsRenderedAlikeTwice(t *testing.T) {
	in := input()
	for name, renderAll := range all {
		first, err := renderAll(in)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		second, _ := renderAll(in)
		seen := map[string]bool{}
		for i, f := range first {
			if f.Name != second[i].Name || !bytes.Equal(f.Body, second[i].Body) {
				t.Errorf("%s: %s differs from one time to the next", name, f.Name)
			}
			if seen[f.Name] || strings.HasPrefix(f.Name, "/") || strings.Contains(f.Name, "..") {
				t.Errorf("%s: a file is called %q, or two are", name, f.Name)
			}
			seen[f.Name] = true
			if bytes.Contains(f.Body, []byte("[[")) || bytes.Contains(f.Body, []byte("<no value>")) {
				t.Errorf("%s: %s has parts that were not filled in", name, f.Name)
			}
			if bytes.HasSuffix(f.Body, []byte("\n\n")) || regexp.MustCompile(`(?m)[ \t]+$`).Match(f.Body) {
				t.Errorf("%s: %s has blanks at the end of lines, or of itself", name, f.Name)
			}
		}
	}
}

func TestSecretsAreOnlyInFilesForThem(t *testing.T) {
	in := input()
	for name, renderAll := range all {
		files, err := renderAll(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			for key, value := range in.Secrets.files() {
				holds := bytes.Contains(f.Body, []byte(value))
				if holds && !strings.Contains(f.Name, "secret") {
					t.Errorf("%s: %s holds %s", name, f.Name, key)
				}
			}
			if strings.Contains(f.Name, "secret") && f.Mode&0o222 != 0o200 && f.Mode != 0o444 {
				t.Errorf("%s: %s has mode %o", name, f.Name, f.Mode)
			}
		}
	}
}

func TestWhatIsWrongIsNamed(t *testing.T) {
	for want, change := range map[string]func(*Input){
		"server name":      func(in *Input) { in.ServerName = "exa mple" },
		"roles":            func(in *Input) { in.Roles = nil },
		"image":            func(in *Input) { in.Image = "a b" },
		"namespace":        func(in *Input) { in.Namespace = "A" },
		"bucket":           func(in *Input) { in.S3.Bucket = "x" },
		"prefix":           func(in *Input) { in.S3.Prefix = "*" },
		"s3 endpoint":      func(in *Input) { in.S3.Endpoint = "s3:9000" },
		"postgresql":       func(in *Input) { in.PostgreSQL.Address = "db" },
		"network":          func(in *Input) { in.Redis.Networks = []string{"10.0.0.1"} },
		`sizes: "nothing"`: func(in *Input) { in.Sizes = map[string]Size{"nothing": {}} },
		"sizes: sync":      func(in *Input) { in.Sizes = map[string]Size{"sync": {Min: 5, Max: 2}} },
		"groups":           func(in *Input) { in.Groups = []Group{{Name: "x", Roles: []string{"none"}, Replicas: 1}} },
		"fleet secret":     func(in *Input) { in.Secrets.Fleet = "short" },
		"binary":           func(in *Input) { in.Binary = "lyceum" },
		"host":             func(in *Input) { in.Host = "a b" },
	} {
		in := input()
		change(&in)
		if _, err := Kubernetes(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error about %s, found %v", want, err)
		}
	}
}

func TestSizesHaveDefaults(t *testing.T) {
	writer, reader, decoder := role.Role{Name: "events", Stream: "events"}, role.Role{Name: "client"},
		role.Role{Name: "thumbnails", Pool: "media"}
	for _, c := range []struct {
		given Size
		role  role.Role
		want  Size
	}{
		{Size{}, writer, Size{Min: 2, Max: 6, CPU: 250, Memory: 1 << 30, MemoryRequest: 768 << 20}},
		{Size{}, reader, Size{Min: 2, Max: 10, CPU: 250, Memory: 1 << 30, MemoryRequest: 768 << 20}},
		{Size{}, decoder, Size{Min: 2, Max: 10, CPU: 250, Memory: 2 << 30, MemoryRequest: 1 << 30}},
		{Size{Max: 1}, reader, Size{Min: 1, Max: 1, CPU: 250, Memory: 1 << 30, MemoryRequest: 768 << 20}},
		{Size{Min: 8}, reader, Size{Min: 8, Max: 16, CPU: 250, Memory: 1 << 30, MemoryRequest: 768 << 20}},
		{
			Size{Min: 1, Max: 2, CPU: 9, CPULimit: 10, Memory: 4096, MemoryRequest: 100},
			reader,
			Size{Min: 1, Max: 2, CPU: 9, CPULimit: 10, Memory: 4096, MemoryRequest: 100},
		},
	} {
		if got := c.given.withDefaults(c.role); got != c.want {
			t.Errorf("%+v of %s: expected %+v, found %+v", c.given, c.role.Name, c.want, got)
		}
	}
}

func TestConfigTellsWhatAllHaveAlike(t *testing.T) {
	text, err := Config(input(), "/run/secrets/lyceum")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`name: "example.org"`, `secret_file: "/run/secrets/lyceum/fleet-secret"`, `url_file: "/run/secrets/lyceum/database-url"`,
		"config_revision: 7", "- redis:6379", "workers: 2", "- 10.0.0.0/8",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
}

func TestMetricsAreFoundInExpressions(t *testing.T) {
	files := []File{{Body: []byte("# lyceum_not_this\nexpr: rate(lyceum_a_seconds_bucket[5m]) / go_b + " +
		"lyceum:recorded:p95{x=\"process_c_total\"}")}}
	if got := strings.Join(Metrics(files), " "); got != "go_b lyceum_a_seconds process_c_total" {
		t.Errorf("found %q", got)
	}
	if err := CheckMetrics(files, []string{"go_b", "process_c_total"}); err == nil || !strings.Contains(err.Error(), "lyceum_a_seconds") {
		t.Errorf("a metric that does not exist is not named: %v", err)
	}
}
