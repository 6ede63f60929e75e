package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lyceum/platform/role"
)

// TestSystemdOneIsOneUnitOverSQLite, confined as the units of a fleet are.
func TestSystemdOneIsOneUnitOverSQLite(t *testing.T) {
	in := input()
	in.Roles = []role.Role{{Name: "all", Purpose: "everything"}}
	in.Sizes, in.Secrets, in.TrustedProxies = nil, Secrets{}, nil
	in.Binary = "/bin/true"
	files, err := SystemdOne(in, Size{Memory: 800 * mebibyte})
	if err != nil || len(files) != 5 {
		t.Fatalf("%v, %v", files, err)
	}
	body := find(t, files, "system/lyceum.service")
	service := unit(body)
	for key, want := range map[string]string{
		"Service.ExecStart": "/bin/true serve --config /etc/lyceum/lyceum.yaml", "Service.User": "lyceum", "Service.StateDirectory": "lyceum",
		"Service.NoNewPrivileges": "yes", "Service.MemoryMax": "800M", "Install.WantedBy": "multi-user.target", "Service.KillMode": "mixed",
	} {
		if got := service[key]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %v, expected %s", key, got, want)
		}
	}
	config := string(find(t, files, "lyceum/lyceum.yaml"))
	if strings.Contains(config, "database") || !strings.Contains(config, `data: "/var/lib/lyceum"`) ||
		!strings.Contains(config, "workers: 1") || !strings.Contains(config, "- 127.0.0.1/32") {
		t.Errorf("the configuration:\n%s", config)
	}
	if len(service["Service.LoadCredential"]) > 0 {
		t.Error("a process over SQLite loads secrets")
	}
	backup := unit(find(t, files, "system/lyceum-backup.service"))
	if user := backup["Service.User"]; len(user) != 1 || user[0] != service["Service.User"][0] || len(backup["Service.ExecStart"]) != 2 {
		t.Errorf("the backup: %v", backup)
	}
	find(t, files, "system/lyceum-backup.timer")
	program := ofSystemd(t, "systemd-analyze")
	path := filepath.Join(t.TempDir(), "lyceum.service")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "verify", path).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "RestartSteps") && !strings.Contains(line, "RestartMaxDelaySec") { // keys of systemd 254
			t.Errorf("systemd-analyze: %v %s", err, line)
		}
	}
}

// TestSystemdOneOverPostgreSQLNeedsItsURLOnly, and names a file that the operator fills where it was not given.
func TestSystemdOneOverPostgreSQLNeedsItsURLOnly(t *testing.T) {
	in := input()
	in.Secrets = Secrets{}
	in.PostgreSQL.Address = "db.internal:5432"
	files, err := SystemdOne(in, Size{Memory: 800 * mebibyte})
	if err != nil {
		t.Fatal(err)
	}
	service := unit(find(t, files, "system/lyceum.service"))
	if got := service["Service.LoadCredential"]; len(got) != 1 || got[0] != "database-url:/etc/lyceum/secrets/database-url" {
		t.Errorf("the unit loads %v", got)
	}
	config := string(find(t, files, "lyceum/lyceum.yaml"))
	if strings.Contains(config, "redis") || strings.Contains(config, "s3") || !strings.Contains(config, "url_file") {
		t.Errorf("the configuration:\n%s", config)
	}
	for _, f := range files {
		if f.Name == "lyceum/secrets/database-url" &&
			(f.Fill == "" || f.Mode != 0o600 || strings.TrimSpace(string(f.Body)) != "postgres://lyceum:REPLACE-THIS@db.internal:5432/lyceum") {
			t.Errorf("%+v %s", f.Fill, f.Body)
		}
	}
}

// TestOneProcessIsOneWorkload in compose and Kubernetes, and compose builds its image.
func TestOneProcessIsOneWorkload(t *testing.T) {
	in := input()
	in.Roles, in.Groups = []role.Role{{Name: "all", Purpose: "everything"}}, nil
	in.Sizes = map[string]Size{"all": {Min: 1, Max: 3, Memory: 800 * mebibyte}}
	files, err := Kubernetes(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name, "role-") && f.Name != "role-all.yaml" {
			t.Errorf("found %s", f.Name)
		}
	}
	in.Secrets = FreshSecrets()
	if files, err = Compose(in); err != nil {
		t.Fatal(err)
	}
	compose := string(find(t, files, "compose.yaml"))
	parts := []string{"\n  lyceum:\n", `LYCEUM_FLEET_ROLES: "all"`, "build: {context: ., dockerfile: Containerfile}", ":8008\"\n"}
	for _, part := range parts {
		if !strings.Contains(compose, part) {
			t.Errorf("compose.yaml lacks %q", part)
		}
	}
	if strings.Contains(compose, "LYCEUM_FLEET_ROLES: \"events") {
		t.Error("a role has a service of its own")
	}
}
