package deploy

import (
	"fmt"
	"slices"
	"strings"

	"lyceum/platform/role"
)

// Systemd renders the template unit lyceum@.service, whose instance is the machine id, a drop-in with the roles of
// each machine, lyceum.target, and lyceum.yaml. The names are those below /etc/systemd/system, and lyceum.yaml and
// the secrets belong to /etc/lyceum. Secrets are rendered when Input.Secrets has them.
func Systemd(in Input) ([]File, error) {
	in, err := in.withDefaults()
	if err != nil {
		return nil, err
	}
	machines := in.machines()
	if len(machines) > 1024 {
		return nil, fmt.Errorf("groups: expected at most 1024 processes, found %d: machine ids go from 0 to 1023", len(machines))
	}
	type credential struct{ Name, Variable string }
	credentials := []credential{
		{secretDatabase, "LYCEUM_DATABASE_URL_FILE"},
		{secretRedis, "LYCEUM_REDIS_PASSWORD_FILE"},
		{secretFleet, "LYCEUM_FLEET_SECRET_FILE"},
	}
	if !in.S3.NoSecretKey {
		credentials = append(credentials, credential{secretS3, "LYCEUM_BLOB_S3_SECRET_KEY_FILE"})
	}
	r := renderer{}
	rest, err := hardening()
	r.note(err)
	data := map[string]any{"In": in, "Rest": rest, "Machines": machines, "Credentials": credentials, "Entry": in.entry()}
	r.add("system/lyceum@.service", 0o644, "systemd/lyceum@.service.tmpl", data)
	r.add("system/lyceum.target", 0o644, "systemd/lyceum.target.tmpl", data)
	for _, m := range machines {
		r.add(fmt.Sprintf("system/lyceum@%d.service.d/role.conf", m.ID), 0o644, "systemd/role.conf.tmpl", m)
	}
	config, err := in.config("", "/var/lib/lyceum", false)
	r.note(err)
	r.files = append(r.files, File{"lyceum/lyceum.yaml", 0o644, config})
	for name, value := range in.Secrets.files() {
		r.files = append(r.files, File{"lyceum/secrets/" + name, 0o600, []byte(value)})
	}
	slices.SortFunc(r.files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return r.files, r.err
}

// SystemdOne renders one unit for one process over SQLite, and its lyceum.yaml. size is what the process gets.
func SystemdOne(in Input, size Size) ([]File, error) {
	in, err := in.withDefaults()
	if err != nil {
		return nil, err
	}
	size = size.withDefaults(role.Role{Name: allRoles})
	r := renderer{}
	rest, err := hardening()
	r.note(err)
	r.add("system/lyceum.service", 0o644, "systemd/lyceum.service.tmpl", map[string]any{
		"In": in, "Rest": rest, "Memory": fmt.Sprintf("%dM", size.Memory/mebibyte), "GoMemory": fmt.Sprintf("%dMiB", size.MemoryRequest/mebibyte),
	})
	r.add("lyceum/lyceum.yaml", 0o644, "systemd/one.yaml.tmpl", map[string]any{"In": in, "Public": PublicPort})
	return r.files, r.err
}

// hardening is how a unit restarts, ends and is confined.
func hardening() (string, error) {
	text, err := render("systemd/hardening.tmpl", map[string]any{"KillAfter": seconds(killAfter)})
	return string(text), err
}

type machine struct {
	ID, OpsPort      int
	Name             string
	Roles            []string
	Listen           string
	Memory, GoMemory string
}

// machines gives each process of the groups an id, from 0.
func (in *Input) machines() []machine {
	var out []machine
	listening := false
	for _, g := range in.Groups {
		limit, aim := in.memory(g.Roles)
		for range g.Replicas {
			m := machine{ID: len(out), OpsPort: OpsPort + len(out), Name: g.Name, Roles: g.Roles}
			m.Memory, m.GoMemory = fmt.Sprintf("%dM", limit/mebibyte), fmt.Sprintf("%dMiB", aim/mebibyte)
			if !listening && slices.Contains(g.Roles, in.entry()) {
				m.Listen, listening = fmt.Sprintf("127.0.0.1:%d", PublicPort), true
			}
			out = append(out, m)
		}
	}
	return out
}
