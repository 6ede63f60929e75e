package deploy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"lyceum/platform/role"
)

// localProxy is where a proxy on the same machine comes from.
var localProxy = []string{"127.0.0.1/32", "::1/128"}

// Systemd renders the template unit lyceum@.service, whose instance is the machine id, a drop-in with the roles of
// each machine, lyceum.target, and lyceum.yaml with the files of its secrets. The names are those below /etc/systemd/system, and
// lyceum.yaml and the secrets belong to /etc/lyceum. Without an S3 store all processes are on one machine and share a directory.
func Systemd(in Input) ([]File, error) {
	in.TrustedProxies = append(slices.Clone(localProxy), in.TrustedProxies...)
	if in.S3.Endpoint == "" {
		in.BlobDirectory = cmp.Or(in.BlobDirectory, stateDirectory+"/blobs")
	}
	in, err := in.complete()
	if err != nil {
		return nil, err
	}
	machines := in.machines()
	if len(machines) > 1024 {
		return nil, fmt.Errorf("groups: expected at most 1024 processes, found %d: machine ids go from 0 to 1023", len(machines))
	}
	r := renderer{}
	secrets := in.secretFiles(true)
	data := map[string]any{
		"In": in, "Rest": r.hardening(&in), "Machines": machines, "Secrets": secrets, "Entry": in.entry(), "Blobs": in.stateBlobs(),
	}
	r.add("system/lyceum@.service", 0o644, "systemd/lyceum@.service.tmpl", data)
	r.add("system/lyceum.target", 0o644, "systemd/lyceum.target.tmpl", data)
	for _, m := range machines {
		r.add(fmt.Sprintf("system/lyceum@%d.service.d/role.conf", m.ID), 0o644, "systemd/role.conf.tmpl", m)
	}
	r.configuration(&in, place{secrets: secretsDirectory, files: secrets})
	return r.files, r.err
}

// SystemdOne renders one unit for one process, and its lyceum.yaml: over SQLite, or over PostgreSQL when the URL of the database or
// its address is given. size is what the process gets.
func SystemdOne(in Input, size Size) ([]File, error) {
	postgres := in.PostgreSQL.Address != "" || in.Secrets.DatabaseURL != ""
	in.TrustedProxies = append(slices.Clone(localProxy), in.TrustedProxies...)
	in.Roles = []role.Role{{Name: allRoles, Purpose: "everything"}}
	in.Sizes, in.Groups = map[string]Size{allRoles: size}, nil
	in, err := in.complete()
	if err != nil {
		return nil, err
	}
	size = in.Sizes[allRoles]
	r := renderer{}
	secrets := in.secretFiles(false)
	engine := "PostgreSQL"
	if !postgres {
		engine = "SQLite"
		secrets = slices.DeleteFunc(secrets, func(f secretFile) bool { return f.Key == keyDatabase })
	}
	r.add("system/lyceum.service", 0o644, "systemd/lyceum.service.tmpl", map[string]any{
		"In": in, "Rest": r.hardening(&in), "Secrets": secrets, "Engine": engine, "Blobs": in.stateBlobs(),
		"Memory": fmt.Sprintf("%dM", size.Memory/mebibyte), "GoMemory": fmt.Sprintf("%dMiB", size.MemoryRequest/mebibyte),
	})
	r.configuration(&in, place{secrets: secretsDirectory, files: secrets, alone: true, listen: in.Listen})
	return r.files, r.err
}

// secretsDirectory is where root keeps the secrets. A process gets them as credentials.
const secretsDirectory = "/etc/lyceum/secrets"

// stateBlobs reports whether files are in a directory that systemd makes.
func (in *Input) stateBlobs() bool { return in.BlobDirectory == stateDirectory+"/blobs" }

// hardening is how a unit restarts, ends and is confined.
func (r *renderer) hardening(in *Input) string {
	writable := in.BlobDirectory
	if in.stateBlobs() {
		writable = ""
	}
	text, err := render("systemd/hardening.tmpl", map[string]any{"KillAfter": in.killAfter(), "Writable": writable})
	r.note(err)
	return string(text)
}

// configuration adds lyceum.yaml, the files of its secrets, the user of the service and the units of backups.
func (r *renderer) configuration(in *Input, p place) {
	r.add("sysusers.d/lyceum.conf", 0o644, "systemd/sysusers.conf", nil)
	r.add("system/lyceum-backup.service", 0o644, "systemd/lyceum-backup.service.tmpl", map[string]any{"In": in, "Secrets": p.files})
	r.add("system/lyceum-backup.timer", 0o644, "systemd/lyceum-backup.timer", nil)
	config, err := in.config(p)
	r.note(err)
	r.files = append(r.files, File{Name: "lyceum/lyceum.yaml", Mode: 0o644, Body: config})
	for _, f := range p.files {
		r.files = append(r.files, File{
			Name: "lyceum/secrets/" + f.Name, Mode: 0o600, Body: []byte(f.Value + "\n"), Generated: f.Generated, Fill: f.Fill,
		})
	}
	slices.SortFunc(r.files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
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
		limit, aim := in.memory(g)
		for range g.Replicas {
			m := machine{ID: len(out), OpsPort: OpsPort + len(out), Name: g.Name, Roles: g.Roles}
			m.Memory, m.GoMemory = fmt.Sprintf("%dM", limit/mebibyte), fmt.Sprintf("%dMiB", aim/mebibyte)
			if !listening && slices.Contains(g.Roles, in.entry()) {
				m.Listen, listening = in.Listen, true
			}
			out = append(out, m)
		}
	}
	return out
}
