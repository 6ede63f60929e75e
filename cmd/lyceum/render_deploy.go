package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"lyceum/fleet"
	"lyceum/ops/deploy"
	"lyceum/ops/plan"
	"lyceum/ops/render"
	"lyceum/platform/conf"
	"lyceum/platform/disk"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/rooms"
)

type renderDeploy struct {
	sources    `embed:""`
	Users      float64  `help:"Concurrent users to size for, as lyceum plan does; 0: 300 for systemd, which one process serves, else 1000." default:"0"`
	Messages   float64  `help:"Messages per second; 0: as the plan derives them."`
	Capacities string   `help:"Capacities of the hardware, from lyceum bench calibrate." placeholder:"FILE" type:"existingfile"`
	Cores      float64  `help:"Compose and systemd: cores of the machine; a larger plan is warned of." default:"16"`
	Image      string   `help:"Container image." default:"lyceum"`
	Registry   string   `help:"Registry before the image." placeholder:"HOST"`
	Tag        string   `help:"Version of the image." placeholder:"X.Y.Z"`
	Namespace  string   `help:"Kubernetes namespace." default:"lyceum"`
	Ingress    string   `help:"Kubernetes: namespace of the gateway or ingress controller, which may reach the processes." default:"ingress"`
	Monitoring string   `help:"Kubernetes: namespace of Prometheus, which may read metrics." default:"monitoring"`
	Postgres   string   `help:"PostgreSQL, or the whole postgres:// URL; empty: postgres:5432, for systemd 127.0.0.1:5432, and SQLite where one process is enough." placeholder:"HOST:PORT"`
	RedisAt    string   `name:"redis" help:"Redis; empty: redis:6379, for systemd 127.0.0.1:6379." placeholder:"HOST:PORT"`
	RedisTLS   bool     `name:"redis-tls" help:"Redis speaks TLS."`
	S3         string   `name:"s3" help:"S3 store; empty: http://s3:9000, for systemd a directory of this machine." placeholder:"URL"`
	Bucket     string   `help:"Bucket; empty: lyceum." placeholder:"NAME"`
	AccessKey  string   `help:"Access key of the S3 store; its secret is a Secret. Empty: the machine's role gives both, and for a store in the cluster it is lyceum." placeholder:"KEY"`
	Prefix     string   `help:"Beginning of all keys in it." placeholder:"PREFIX"`
	Targets    []string `help:"Prometheus: ops listeners; empty: found through Kubernetes." placeholder:"HOST:PORT"`
	Monitor    bool     `name:"service-monitor" help:"Kubernetes: a ServiceMonitor for the Prometheus operator."`
	Revision   int      `help:"fleet.config_revision of the configuration: raise it when shared keys change."`
	Out        string   `short:"o" help:"Directory to write into." required:"" placeholder:"DIR"`
}

// Help is shown by lyceum render kubernetes --help and its sisters.
func (renderDeploy) Help() string {
	return "Files from the table of roles, with the sizes of lyceum plan --users N. manual/deploying.md says how to use them. " +
		"Keys of the configuration (--config, --set) are in the rendered lyceum.yaml, and its secrets in files of their own. " +
		"Secrets are made when they are not there yet, and never replaced."
}

func (c *renderDeploy) Run(ctx context.Context) error {
	config, given, err := fleet.LoadGiven(conf.Sources{File: c.file(), Flags: c.flags()})
	if err != nil {
		return err
	}
	capacities, err := plan.LoadCapacities(c.Capacities)
	if err != nil {
		return err
	}
	kind := target()
	if c.Users == 0 {
		c.Users = map[bool]float64{true: 300, false: 1000}[kind == "systemd"]
	}
	p := plan.Make(plan.Load{
		ConcurrentUsers: c.Users, MessagesPerSecond: c.Messages,
		MaxInFlight: float64(config.HTTP.MaxInFlight), OwnerMemory: float64(fleet.SectionOf[rooms.Config](config).OwnerMemory),
	}, capacities, fleet.PlanRoles())
	in := c.input(config, p)
	one := p.Shape == "one" // then a role is no reason for a process
	if one {
		in.Roles = []role.Role{{Name: plan.AllRoles, Purpose: "everything"}}
		in.Sizes = map[string]deploy.Size{plan.AllRoles: {Min: 1, Max: 3, CPU: int(p.Whole.CPU * 1000), Memory: int64(p.Whole.Memory)}}
	}
	if kind == "kubernetes" || kind == "compose" || kind == "systemd" {
		if config.Server.Name == "" {
			return errors.New("server.name: expected the name of the server, found none: give --server-name NAME; it can not be changed later")
		}
		if err := config.CheckNewName(); err != nil {
			return err
		}
		if err := c.checkEngines(kind, one); err != nil {
			return err
		}
		if err := render.Settle(&in, config, given, render.Target{Kind: kind, Alone: one}); err != nil {
			return err
		}
	}
	files, err := c.render(ctx, config, kind, one, in)
	if err != nil {
		return err
	}
	if err := checkSameEngine(c.Out, files); err != nil {
		return err
	}
	if err := writeFiles(c.Out, files); err != nil {
		return err
	}
	warnOfLeftOvers(os.Stderr, c.Out, kind, files)
	switch kind {
	case "compose":
		err = copyProgram(filepath.Join(c.Out, "lyceum")) // of which the image is built
	case "systemd":
		err = copyProgram(filepath.Join(c.Out, "bin", "lyceum"))
	}
	if err != nil {
		return err
	}
	c.warnOfSize(kind, p)
	connections, err := deploy.MaxConnections(in)
	nextSteps(os.Stdout, steps{c.Out, kind, c.Namespace, in.ImageName(), one, connections, p.Database.SharedBuffers}, files)
	return err
}

// input is what the plan and the flags say.
func (c *renderDeploy) input(config *fleet.Config, p *plan.Plan) deploy.Input {
	in := deploy.Input{
		ServerName: cmp.Or(config.Server.Name, "localhost"), Image: c.Image, Registry: c.Registry, Version: cmp.Or(c.Tag, obs.Version),
		Namespace: c.Namespace, Ingress: c.Ingress, Monitoring: c.Monitoring,
		Roles: fleet.Roles, Sizes: render.Sizes(p), ConcurrentUsers: int(c.Users), Revision: c.Revision,
		PostgreSQL: deploy.Place{Address: c.Postgres}, Redis: deploy.Place{Address: c.RedisAt}, RedisTLS: c.RedisTLS,
		S3:             deploy.S3{Endpoint: c.S3, Bucket: c.Bucket, Prefix: c.Prefix, AccessKey: c.AccessKey},
		ServiceMonitor: c.Monitor, Targets: c.Targets, SharedBuffers: int64(p.Database.SharedBuffers),
	}
	if p.Shape != "one" {
		in.DatabaseConnections = p.Database.Connections
	}
	return in
}

// checkEngines refuses flags for engines that are not there.
func (c *renderDeploy) checkEngines(kind string, one bool) error {
	for _, f := range []struct{ flag, value string }{{"--postgres", c.Postgres}, {"--redis", c.RedisAt}, {"--s3", c.S3}} {
		if kind == "compose" && f.value != "" {
			return fmt.Errorf("%s: compose.yaml has PostgreSQL, Redis and an S3 store of its own: leave it out, or render systemd or kubernetes",
				f.flag)
		}
	}
	if kind == "systemd" && one && (c.RedisAt != "" || c.RedisTLS) {
		return fmt.Errorf("--redis: one process, which is enough for %.0f users, needs no Redis: leave it out, or size a fleet with --users",
			c.Users)
	}
	return nil
}

// render makes the files.
func (c *renderDeploy) render(ctx context.Context, config *fleet.Config, kind string, one bool, in deploy.Input) ([]deploy.File, error) {
	in.S3.NoSecretKey = in.S3.AccessKey == "" && in.Secrets.S3SecretKey == ""
	switch kind {
	case "systemd":
		if one {
			if in.Secrets.Fleet == "" && (in.PostgreSQL.Address != "" || in.Secrets.DatabaseURL != "") {
				var err error
				if in.Secrets.Fleet, err = keptFleetSecret(os.Stderr, c.Out); err != nil {
					return nil, err
				}
			}
			return deploy.SystemdOne(in, in.Sizes[plan.AllRoles])
		}
		in.PostgreSQL.Address = cmp.Or(in.PostgreSQL.Address, "127.0.0.1:5432")
		in.Redis.Address = cmp.Or(in.Redis.Address, "127.0.0.1:6379")
		return deploy.Systemd(in)
	case "compose":
		for name, value := range map[string]*string{
			"redis-password": &in.Secrets.RedisPassword, "s3-secret-key": &in.Secrets.S3SecretKey, "fleet-secret": &in.Secrets.Fleet,
		} {
			if *value != "" {
				in.Given = append(in.Given, name)
			}
		}
		fresh := deploy.FreshSecrets()
		in.Secrets.DatabaseURL = fresh.DatabaseURL
		in.Secrets.RedisPassword = cmp.Or(in.Secrets.RedisPassword, fresh.RedisPassword)
		in.Secrets.S3SecretKey = cmp.Or(in.Secrets.S3SecretKey, fresh.S3SecretKey)
		in.Secrets.Fleet = cmp.Or(in.Secrets.Fleet, fresh.Fleet)
		return deploy.Compose(in)
	case "kubernetes":
		gateway, err := c.gateway(ctx, config, in)
		if err != nil {
			return nil, err
		}
		files, err := deploy.Kubernetes(in)
		return append(files, gateway), err
	case "prometheus":
		return deploy.Prometheus(in)
	}
	return deploy.Grafana(in)
}

// gateway is the file with the routes of the Kubernetes Gateway API.
func (c *renderDeploy) gateway(ctx context.Context, config *fleet.Config, in deploy.Input) (deploy.File, error) {
	routes, err := render.RouteTable(ctx, config)
	if err != nil {
		return deploy.File{}, err
	}
	backends := map[string]deploy.Backend{}
	for name := range in.Sizes {
		backends[name] = deploy.Backend{DNS: "lyceum-" + name, Port: deploy.PublicPort}
	}
	text, err := deploy.Gateway(deploy.Balancer{
		Command: commandLine(), Roles: fleet.Roles, Routes: routes, Backends: backends,
		ServerName: in.ServerName, Namespace: c.Namespace, File: "gateway/httproutes.yaml",
	})
	return deploy.File{Name: "gateway/httproutes.yaml", Mode: 0o644, Body: text}, err
}

// warnOfSize says when a plan is larger than the machine that is to carry it.
func (c *renderDeploy) warnOfSize(kind string, p *plan.Plan) {
	needs := p.CPU
	if kind == "compose" {
		needs += p.Database.CPU + p.Redis.CPU
	}
	if (kind == "compose" || kind == "systemd") && needs > c.Cores {
		fmt.Fprintf(os.Stderr, "lyceum: the plan for %.0f users wants %.0f cores, and this is rendered for one machine with %.0f (--cores): "+
			"take several machines with lyceum render kubernetes, or read \"A fleet on many machines\" in manual/running.md\n",
			c.Users, needs, c.Cores)
	}
}

// steps is what the next steps depend on.
type steps struct {
	dir, kind     string
	namespace     string
	image         string
	one           bool
	connections   int
	sharedBuffers float64 // bytes
}

// nextSteps prints what is left to do, which manual/deploying.md explains.
func nextSteps(w io.Writer, s steps, files []deploy.File) {
	fmt.Fprintln(w, "\nWhat is left to do:")
	for _, f := range files {
		path := filepath.Join(s.dir, filepath.FromSlash(f.Name))
		if text, err := os.ReadFile(path); f.Fill != "" && err == nil && bytes.Contains(text, []byte(deploy.Placeholder)) {
			fmt.Fprintf(w, "  write into %s: %s (it has %s there)\n", path, f.Fill, deploy.Placeholder)
		}
	}
	switch s.kind {
	case "systemd":
		unit := "lyceum.target"
		if s.one {
			unit = "lyceum"
		} else {
			fmt.Fprintf(w, "  set in postgresql.conf: max_connections = %d, shared_buffers = %.0fMB\n",
				s.connections, s.sharedBuffers/(1<<20))
		}
		fmt.Fprintf(w, "  as root: cd %s && cp bin/lyceum /usr/local/bin/ && cp -r sysusers.d /etc/ && systemd-sysusers lyceum.conf\n", s.dir)
		fmt.Fprintln(w, "  cp -r system/* /etc/systemd/system/ && cp -r lyceum /etc/")
		fmt.Fprintf(w, "  systemctl daemon-reload && systemctl enable --now %s\n", unit)
		fmt.Fprintln(w, "  lyceum user add --admin NAME --config /etc/lyceum/lyceum.yaml")
	case "compose":
		service := "router"
		if s.one {
			service = "lyceum"
		}
		fmt.Fprintf(w, "  cd %s && docker compose up --detach --wait\n", s.dir)
		fmt.Fprintf(w, "  docker compose exec %s lyceum user add --admin NAME --config /etc/lyceum/lyceum.yaml\n", service)
	case "kubernetes":
		if !slices.ContainsFunc(files, func(f deploy.File) bool { return f.Name == "secret.yaml" }) {
			fmt.Fprintf(w, "  make the Secret, as the head of %s says\n", filepath.Join(s.dir, "kustomization.yaml"))
		}
		role := "router"
		if s.one {
			role = "all"
		}
		fmt.Fprintf(w, "  have the image %s where the cluster pulls it (\"The image\" in manual/deploying.md builds it)\n", s.image)
		fmt.Fprintf(w, "  set in PostgreSQL: max_connections = %d, shared_buffers = %.0fMB; make its database, and the bucket of the S3 store\n",
			s.connections, s.sharedBuffers/(1<<20))
		fmt.Fprintf(w, "  send clients, with TLS, to the Service lyceum of namespace %s by your gateway or ingress controller, or apply %s\n",
			s.namespace, filepath.Join(s.dir, "gateway", "httproutes.yaml"))
		fmt.Fprintf(w, "  kubectl apply --server-side -k %s\n", s.dir)
		fmt.Fprintf(w, "  kubectl exec --namespace %s deploy/lyceum-%s -- lyceum user add --admin NAME --config /etc/lyceum/lyceum.yaml\n",
			s.namespace, role)
	default:
		fmt.Fprintf(w, "  see manual/deploying.md\n")
	}
}

// copyProgram copies this program.
func copyProgram(to string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	from, err := os.Open(program)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	err = disk.Write(to, 0o755, func(w io.Writer) error {
		_, err := io.Copy(w, from)
		return err
	})
	if err == nil {
		fmt.Println("wrote", to)
	}
	return err
}

// keptFleetSecret is the secret of the fleet that was rendered into a directory before: one process in its place needs it too, as what is
// in the database is sealed with it.
func keptFleetSecret(w io.Writer, dir string) (string, error) {
	path := filepath.Join(dir, "lyceum", "secrets", "fleet-secret")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	fmt.Fprintf(w, "lyceum: the process takes the secret of the fleet that was here, %s: if that fleet never came up, remove the file and "+
		"render again\n", path)
	return strings.TrimSpace(string(text)), nil
}

// isOverPostgres reports whether a configuration, which an operator may have edited, has the address of PostgreSQL or the file that holds
// it. known is false when it can not be read.
func isOverPostgres(config []byte) (is, known bool) {
	var c struct {
		Database struct {
			URL  string `yaml:"url"`
			File string `yaml:"url_file"`
		} `yaml:"database"`
	}
	err := yaml.Unmarshal(config, &c)
	return c.Database.URL != "" || c.Database.File != "", err == nil
}

// checkSameEngine refuses to render over SQLite where PostgreSQL was, and the other way: the processes would serve an empty database.
func checkSameEngine(dir string, files []deploy.File) error {
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if filepath.Base(path) != "lyceum.yaml" {
			continue
		}
		old, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		was, known := isOverPostgres(old)
		is, _ := isOverPostgres(f.Body) // what is rendered can be read
		switch {
		case !known: // it tells nothing, and is written anew
		case was && !is:
			return fmt.Errorf("%s is of a server over PostgreSQL, and this rendering is one over SQLite, which would be empty: "+
				"give --postgres as before (and --users for a fleet), or another directory with -o", path)
		case is && !was:
			return fmt.Errorf("%s is of a server over SQLite, and this rendering is one over PostgreSQL, which would be empty: render into another "+
				"directory with -o, and move the server there: stop it, lyceum backup FILE, then with the new configuration lyceum restore FILE", path)
		}
	}
	return nil
}

// renderedNames are the names of files that a renderer writes for some sizes, keys and flags, and for others not. The Secret of Kubernetes
// is not one of them: without the file it is still used.
var renderedNames = map[string][]string{
	"kubernetes": {"role-*.yaml", "servicemonitor.yaml"},
	"compose":    {"secrets/*"},
	"systemd":    {"lyceum/secrets/*", "system/lyceum*", "system/lyceum@*.service.d/role.conf"},
}

// warnOfLeftOvers names the files of an earlier rendering into the same directory that this one has no more.
func warnOfLeftOvers(w io.Writer, dir, kind string, files []deploy.File) {
	for _, names := range renderedNames[kind] {
		found, _ := filepath.Glob(filepath.Join(dir, filepath.FromSlash(names))) // the patterns are right
		for _, path := range found {
			info, err := os.Stat(path)
			if err != nil || info.IsDir() || slices.ContainsFunc(files, func(f deploy.File) bool {
				return filepath.Join(dir, filepath.FromSlash(f.Name)) == path
			}) {
				continue
			}
			fmt.Fprintf(w, "lyceum: %s is of an earlier rendering and is not used any more: remove it, and its copy where it was installed\n", path)
		}
	}
}

// secretKey is a key of a Secret of Kubernetes, in its rendered form.
var secretKey = regexp.MustCompile(`(?m)^  ([a-z0-9-]+): "`)

func keysOf(secret []byte) (out []string) {
	for _, m := range secretKey.FindAllSubmatch(secret, -1) {
		out = append(out, string(m[1]))
	}
	return out
}

// writeFiles writes what was rendered. Files of secrets that are there stay as they are, but for those that the operator had yet to
// fill: a given secret is written there.
func writeFiles(dir string, files []deploy.File) error {
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		secret := f.Mode.Perm()&0o077 == 0 || strings.Contains(f.Name, "secrets/")
		if old, err := os.ReadFile(path); err == nil && secret {
			same := bytes.Equal(bytes.TrimSpace(old), bytes.TrimSpace(f.Body))
			switch {
			case same || f.Generated || f.Name == "secret.yaml":
				for _, key := range keysOf(f.Body) {
					if f.Name == "secret.yaml" && !slices.Contains(keysOf(old), key) {
						return fmt.Errorf("%s lacks %s: add it, or remove the file to make it anew", path, key)
					}
				}
				fmt.Println("kept ", path)
				continue
			case !bytes.Contains(old, []byte(deploy.Placeholder)):
				return fmt.Errorf("%s holds another secret than the one that is given: remove the file to replace it, or leave the given one out", path)
			}
		}
		mode := os.FileMode(0o755)
		if secret && strings.Contains(f.Name, "/") {
			mode = 0o700
		}
		if err := os.MkdirAll(filepath.Dir(path), mode); err != nil {
			return err
		}
		if err := disk.WriteFile(path, f.Body, f.Mode.Perm()); err != nil {
			return err
		}
		fmt.Println("wrote", path)
	}
	return nil
}
