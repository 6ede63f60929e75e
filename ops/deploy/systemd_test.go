package deploy

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// unit reads a systemd unit: the values of each key.
func unit(body []byte) map[string][]string {
	out := map[string][]string{}
	section := ""
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
		} else if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			out[section+"."+key] = append(out[section+"."+key], value)
		}
	}
	return out
}

func TestSystemdGivesEachMachineItsRoles(t *testing.T) {
	in := input()
	files, err := Systemd(in)
	if err != nil {
		t.Fatal(err)
	}
	service := unit(find(t, files, "system/lyceum@.service"))
	env := service["Service.Environment"]
	if !slices.Contains(env, "MACHINE_ID=%i") {
		t.Errorf("the instance is not the machine id: %v", env)
	}
	for _, load := range service["Service.LoadCredential"] {
		name, _, _ := strings.Cut(load, ":")
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasSuffix(e, "_FILE=%d/"+name) }) {
			t.Errorf("credential %s reaches no variable", name)
		}
		find(t, files, "lyceum/secrets/"+name)
	}
	if stop := service["Service.TimeoutStopSec"][0]; stop != "45" {
		t.Errorf("TimeoutStopSec is %s", stop)
	}
	target := unit(find(t, files, "system/lyceum.target"))["Unit.Wants"]
	listens, roles, ports := 0, map[string]int{}, map[string]bool{}
	for id, wanted := range target {
		if wanted != fmt.Sprintf("lyceum@%d.service", id) {
			t.Errorf("the target wants %s as its %d-th", wanted, id)
		}
		conf := unit(find(t, files, fmt.Sprintf("system/lyceum@%d.service.d/role.conf", id)))
		if after := conf["Unit.After"]; (id == 0) != (len(after) == 0) {
			t.Errorf("machine %d starts after %v", id, after)
		}
		for _, e := range conf["Service.Environment"] {
			key, value, _ := strings.Cut(e, "=")
			switch key {
			case "LYCEUM_FLEET_ROLES":
				for _, r := range strings.Split(value, ",") {
					roles[r]++
				}
			case "LYCEUM_SERVER_LISTEN":
				listens++
			case "LYCEUM_FLEET_OPS_LISTEN":
				if ports[value] {
					t.Errorf("%s is there twice", value)
				}
				ports[value] = true
			}
		}
	}
	if listens != 1 {
		t.Errorf("%d machines take requests of clients on one port", listens)
	}
	for _, r := range table {
		_, named := in.Sizes[r.Name]
		if has := roles[r.Name] > 0; has != (r.Pool == "" || named) {
			t.Errorf("role %s has %d machines", r.Name, roles[r.Name])
		}
	}
	if roles["events"] != 3 {
		t.Errorf("%d machines with events, 3 were asked for", roles["events"])
	}
}

// ofSystemd finds a program of systemd.
func ofSystemd(t *testing.T, name string) string {
	t.Helper()
	program, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("this test needs systemd, which make packages installs: %v", err)
	}
	return program
}

func TestSystemdTakesTheUnits(t *testing.T) {
	analyze, in := ofSystemd(t, "systemd-analyze"), input()
	var err error
	if in.Binary, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	files, err := Systemd(in)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(write(t, files), "system")
	for _, name := range []string{"lyceum@0.service", "lyceum@3.service", "lyceum.target", "lyceum-backup.service", "lyceum-backup.timer"} {
		cmd := exec.Command(analyze, "verify", "--man=no", filepath.Join(dir, name))
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
		out, err := cmd.CombinedOutput()
		var wrong []string
		for _, line := range strings.Split(string(bytes.TrimSpace(out)), "\n") {
			// Other units of the machine may have faults; and systemd before 254 has no growing pause before a restart.
			if strings.Contains(line, "lyceum") && !strings.Contains(line, "RestartSteps") && !strings.Contains(line, "RestartMaxDelaySec") {
				wrong = append(wrong, line)
			}
		}
		if err != nil || len(wrong) > 0 {
			t.Errorf("%s: %v\n%s", name, err, strings.Join(wrong, "\n"))
		}
	}
	// What the hardening leaves open, of 10.
	cmd := exec.Command(analyze, "security", "--offline=yes", "--threshold=30", "--no-pager", filepath.Join(dir, "lyceum@.service"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the unit is more exposed than 3 of 10: %v\n%s", err, out[max(0, len(out)-500):])
	}
}

// TestASystemdFleetOfOneMachineSharesADirectory where no S3 store is named, and loads the secrets that it needs only.
func TestASystemdFleetOfOneMachineSharesADirectory(t *testing.T) {
	in := input()
	in.Secrets = Secrets{}
	files, err := Systemd(in)
	if err != nil {
		t.Fatal(err)
	}
	config := string(find(t, files, "lyceum/lyceum.yaml"))
	for _, want := range []string{
		`directory: "/var/lib/lyceum/blobs"`, "directory_shared: true", "- 127.0.0.1/32", "url_file", "secret_file",
	} {
		if !strings.Contains(config, want) {
			t.Errorf("there is no %s in\n%s", want, config)
		}
	}
	service := unit(find(t, files, "system/lyceum@.service"))
	if got := strings.Join(service["Service.LoadCredential"], " "); got !=
		"database-url:/etc/lyceum/secrets/database-url fleet-secret:/etc/lyceum/secrets/fleet-secret" {
		t.Errorf("the units load %s", got)
	}
	if got := service["Service.StateDirectory"]; len(got) != 1 || !strings.HasSuffix(got[0], " lyceum/blobs") {
		t.Errorf("StateDirectory is %v", got)
	}
	in.S3 = S3{Endpoint: "https://s3.example.org", AccessKey: "key"}
	if files, err = Systemd(in); err != nil {
		t.Fatal(err)
	}
	if config = string(find(t, files, "lyceum/lyceum.yaml")); strings.Contains(config, "directory") ||
		!strings.Contains(config, `endpoint: "https://s3.example.org"`) || !strings.Contains(config, "s3-secret-key") {
		t.Errorf("with an S3 store:\n%s", config)
	}
	find(t, files, "lyceum/secrets/s3-secret-key")
}

// TestSystemdMakesTheUser of the units, as the manual says.
func TestSystemdMakesTheUser(t *testing.T) {
	program := ofSystemd(t, "systemd-sysusers")
	files, err := Systemd(input())
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "etc", "sysusers.d"), os.DirFS(filepath.Join(write(t, files), "sysusers.d"))); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "--root="+root, "lyceum.conf").CombinedOutput()
	users, readErr := os.ReadFile(filepath.Join(root, "etc", "passwd"))
	if user := unit(find(t, files, "system/lyceum@.service"))["Service.User"][0]; err != nil || readErr != nil ||
		!strings.Contains(string(users), user+":") {
		t.Errorf("%v %v %s\n%s", err, readErr, out, users)
	}
}
