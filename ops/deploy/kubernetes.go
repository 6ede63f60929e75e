package deploy

import (
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strings"
)

// Kubernetes renders a directory for `kubectl apply -k`: for each role a Deployment, a Service, an autoscaler and
// a disruption budget, the network policies, the configuration, and the Secret when Input.Secrets has the URL of
// the database. prometheus-adapter.yaml stands beside them and is not applied.
func Kubernetes(in Input) ([]File, error) {
	in, err := in.withDefaults()
	if err != nil {
		return nil, err
	}
	r := renderer{}
	r.add("fleet.yaml", 0o644, "kubernetes/fleet.yaml.tmpl", map[string]any{"In": in})
	secret := in.Secrets.DatabaseURL != ""
	if secret {
		r.add("secret.yaml", 0o600, "kubernetes/secret.yaml.tmpl", map[string]any{"In": in, "Values": in.Secrets.files()})
	}
	r.add("network.yaml", 0o644, "kubernetes/network.yaml.tmpl", map[string]any{
		"In": in, "Public": PublicPort, "Internal": InternalPort, "Ops": OpsPort, "Engines": in.engines(), "Outside": in.outside(),
	})
	r.add("public.yaml", 0o644, "kubernetes/public.yaml.tmpl", map[string]any{"Entry": in.entry(), "Public": PublicPort})
	for _, role := range in.Roles {
		size, ok := in.Sizes[role.Name]
		if !ok {
			continue
		}
		r.add("role-"+role.Name+".yaml", 0o644, "kubernetes/role.yaml.tmpl", map[string]any{
			"In": in, "Role": role, "Size": size, "Name": "lyceum-" + role.Name, "Writes": writes(role), "Decodes": decodes(role),
			"Public": PublicPort, "Internal": InternalPort, "InternalPort": InternalPort, "Ops": OpsPort,
			"PreStop": seconds(preStop), "DrainDelay": seconds(drainDelay), "Shutdown": seconds(shutdownTimeout), "KillAfter": seconds(killAfter),
		})
	}
	if in.ServiceMonitor {
		r.add("servicemonitor.yaml", 0o644, "kubernetes/servicemonitor.yaml.tmpl", nil)
	}
	r.files = append(r.files, in.Resources...)
	var names []string
	for _, f := range r.files {
		names = append(names, f.Name)
	}
	r.add("kustomization.yaml", 0o644, "kubernetes/kustomization.yaml.tmpl", map[string]any{"In": in, "Files": names, "Secret": secret})
	r.add("prometheus-adapter.yaml", 0o644, "kubernetes/prometheus-adapter.yaml", nil)
	config, err := in.config("/run/secrets/lyceum", "/var/lib/lyceum", true)
	r.note(err)
	r.files = append(r.files, File{"lyceum.yaml", 0o644, config})
	return r.files, r.err
}

// renderer gathers files and remembers the first error.
type renderer struct {
	files []File
	err   error
}

func (r *renderer) note(err error) {
	if r.err == nil {
		r.err = err
	}
}

func (r *renderer) add(name string, mode fs.FileMode, text string, data any) {
	var body []byte
	var err error
	if strings.HasSuffix(text, ".tmpl") {
		body, err = render(text, data)
	} else {
		body, err = texts.ReadFile(text)
	}
	r.note(err)
	r.files = append(r.files, File{name, mode, body})
}

// entry is the role that takes the requests of clients.
func (in *Input) entry() string {
	for _, r := range in.Roles {
		if r.Name == "router" {
			return r.Name
		}
	}
	return in.Roles[0].Name
}

func (in *Input) outside() []string {
	var out []string
	for _, r := range in.Roles {
		if _, has := in.Sizes[r.Name]; has && reachesOut(r) {
			out = append(out, r.Name)
		}
	}
	return out
}

// engine is what a network policy says of an engine.
type engine struct {
	Name, Namespace, Port string
	Labels                map[string]string
	Networks              []string
	Inside                bool // it is in pods
}

func (in *Input) engines() []engine {
	endpoint, _ := url.Parse(in.S3.Endpoint) // checked before
	port := endpoint.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[endpoint.Scheme]
	}
	store := in.S3.Place
	store.Address = net.JoinHostPort(endpoint.Hostname(), port)
	return []engine{in.PostgreSQL.engine("PostgreSQL"), in.Redis.engine("Redis"), store.engine("the S3 store")}
}

func (p Place) engine(name string) engine {
	host, port, _ := net.SplitHostPort(p.Address) // checked before
	e := engine{Name: name, Port: port, Labels: p.Labels, Networks: slices.Clone(p.Networks), Namespace: p.Namespace}
	parts := strings.Split(strings.TrimSuffix(host, ".cluster.local"), ".")
	switch {
	case p.Namespace != "" || len(p.Networks) > 0:
		e.Inside = p.Namespace != ""
	case net.ParseIP(host) != nil:
		bits := "/32"
		if strings.Contains(host, ":") {
			bits = "/128"
		}
		e.Networks = []string{host + bits}
	case len(parts) == 1: // a Service in the namespace of the fleet
		e.Inside = true
	case parts[len(parts)-1] == "svc" && len(parts) >= 3:
		e.Inside, e.Namespace = true, parts[len(parts)-2]
	default:
		e.Networks = []string{"0.0.0.0/0", "::/0"} // somewhere; the port and the engine's password guard it
	}
	return e
}
