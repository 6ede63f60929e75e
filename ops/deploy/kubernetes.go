package deploy

import (
	"cmp"
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
	in.storeDefaults()
	if len(in.TrustedProxies) == 0 {
		in.TrustedProxies = privateNetworks
	}
	in, err := in.complete()
	if err != nil {
		return nil, err
	}
	r := renderer{}
	r.add("fleet.yaml", 0o644, "kubernetes/fleet.yaml.tmpl", map[string]any{"In": in})
	files, secret := in.secretFiles(true), len(in.Secrets.keys()) > 0
	if secret {
		r.add("secret.yaml", 0o600, "kubernetes/secret.yaml.tmpl", map[string]any{"In": in, "Files": files})
		last := &r.files[len(r.files)-1]
		for _, f := range files {
			if f.Fill != "" {
				last.Fill = strings.TrimPrefix(last.Fill+", "+f.Name+": "+f.Fill, ", ")
			}
		}
	} else {
		files = append(files, secretFile{Key: keyRedis, Name: secretName(keyRedis)})
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
			"PreStop": seconds(preStop), "DrainDelay": seconds(in.Drain), "Shutdown": seconds(in.Shutdown), "KillAfter": in.killAfter(),
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
	r.add("kustomization.yaml", 0o644, "kubernetes/kustomization.yaml.tmpl", map[string]any{
		"In": in, "Files": names, "Secret": secret, "S3Key": in.S3.AccessKey != "",
	})
	r.add("prometheus-adapter.yaml", 0o644, "kubernetes/prometheus-adapter.yaml", nil)
	config, err := in.config(place{secrets: "/run/secrets/lyceum", files: files, everywhere: true})
	r.note(err)
	r.files = append(r.files, File{Name: "lyceum.yaml", Mode: 0o644, Body: config})
	return r.files, r.err
}

// privateNetworks are those that pods, and so gateways, have addresses of. The network policy lets none but the gateway and the fleet in.
var privateNetworks = []string{"10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"}

// storeDefaults gives the S3 store beside the fleet, which no role of a machine opens, unless another one is given.
func (in *Input) storeDefaults() {
	in.S3.Endpoint = cmp.Or(in.S3.Endpoint, "http://s3:9000")
	if in.S3.AccessKey == "" && in.S3.inside() {
		in.S3.AccessKey, in.S3.NoSecretKey = "lyceum", false
	}
}

// inside reports whether the store is a Service of the cluster.
func (s *S3) inside() bool {
	endpoint, err := url.Parse(s.Endpoint)
	return err == nil && (Place{Address: net.JoinHostPort(endpoint.Hostname(), "1"), Namespace: s.Namespace}).engine("").Inside
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
	r.files = append(r.files, File{Name: name, Mode: mode, Body: body})
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
