package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"lyceum/fleet"
	"lyceum/ops/deploy"
	"lyceum/ops/plan"
	"lyceum/ops/render"
	"lyceum/platform/disk"
	"lyceum/platform/obs"
	"lyceum/platform/role"
)

type renderCommands struct {
	HAProxy    renderProxy  `cmd:"" name:"haproxy" help:"Configuration of HAProxy 2.6 or newer."`
	Nginx      renderProxy  `cmd:"" help:"Configuration of nginx 1.22 or newer."`
	Caddy      renderProxy  `cmd:"" help:"Caddyfile for Caddy 2.6 or newer."`
	Gateway    renderProxy  `cmd:"" help:"HTTPRoutes of the Kubernetes Gateway API."`
	Kubernetes renderDeploy `cmd:"" help:"Manifests for kubectl apply -k."`
	Compose    renderDeploy `cmd:"" help:"A compose file with PostgreSQL, Redis and an S3 server."`
	Systemd    renderDeploy `cmd:"" help:"Units of systemd: one process for each machine id."`
	Prometheus renderDeploy `cmd:"" help:"Scrape configuration and alert rules."`
	Grafana    renderDeploy `cmd:"" help:"A dashboard."`
	S3Policy   renderS3     `cmd:"" name:"s3-policy" help:"Least-privilege policies of a bucket."`
}

// target is the word after render.
func target() string {
	for i, arg := range os.Args {
		if arg == "render" && i+1 < len(os.Args) {
			return os.Args[i+1]
		}
	}
	return ""
}

func commandLine() string { return "lyceum " + strings.Join(os.Args[1:], " ") }

type renderProxy struct {
	sources `embed:""`
	Backend []string `help:"Where the processes of a role listen: ROLE=HOST:PORT,HOST:PORT or ROLE=dns:NAME:PORT. One of router, all or client is needed; more roles save hops." placeholder:"ROLE=PLACES" sep:"none"`
	Live    bool     `help:"Take the processes that live now, from the fleet that the configuration describes."`
	Port    string   `help:"Address on which clients are served; empty: :443 with TLS, :80 without." placeholder:"ADDR:PORT"`
	Cert    string   `help:"File of the certificate on the balancer's machine; empty: no TLS, but Caddy gets one for each of --host by itself." placeholder:"FILE"`
	Key     string   `help:"File of its private key, for nginx and Caddy." placeholder:"FILE"`
	HSTS    bool     `name:"hsts" help:"Tell browsers to come by TLS alone for two years; there is no way back until then."`
	Host    string   `help:"Host names that clients use." placeholder:"NAMES"`
	User    string   `help:"User that HAProxy becomes." default:"haproxy"`
	Trust   []string `help:"Proxies before this balancer whose X-Forwarded-For is kept." placeholder:"CIDR"`
	Name    string   `help:"Gateway: its name." default:"lyceum"`
	Space   string   `help:"Gateway: namespace of the routes." placeholder:"NAMESPACE"`
	Out     string   `short:"o" help:"File to write; empty: standard output." placeholder:"FILE"`
}

// Help is shown by lyceum render haproxy --help and its sisters.
func (renderProxy) Help() string {
	return "The routing of the role router, for a load balancer that is there already, from the table of routes. " +
		"Render again after an upgrade, and after " +
		"processes without an address of their own were restarted: an old file of HAProxy and nginx falls back to the routers, " +
		"one of Caddy in part."
}

func (c *renderProxy) Run(ctx context.Context) error {
	config, err := c.load()
	if err != nil {
		return err
	}
	routes, err := render.RouteTable(ctx, config)
	if err != nil {
		return err
	}
	in := deploy.Balancer{
		Command: commandLine(), Roles: fleet.Roles, Routes: routes, Listen: c.Port, ServerName: c.Host, TLSCertificate: c.Cert, TLSKey: c.Key,
		User:    c.User,
		MaxBody: config.HTTP.MaxBody.Bytes(), IdleTimeout: config.HTTP.IdleTimeout.D(), TrustedProxies: c.Trust, Gateway: c.Name,
		Namespace: c.Space,
	}
	kind := target()
	in.HSTS, in.Automatic = c.HSTS, kind == "caddy" && c.Cert == "" && c.Host != "" && (c.Port == "" || strings.HasSuffix(c.Port, ":443"))
	tls := c.Cert != "" || in.Automatic
	switch {
	case in.Listen == "" && tls:
		in.Listen = ":443"
	case in.Listen == "":
		in.Listen = ":80"
	}
	if c.Cert != "" && strings.HasSuffix(in.Listen, ":443") {
		in.Redirect = ":80"
	}
	in.Backends, err = c.backends(ctx, config, kind)
	if err != nil {
		return err
	}
	text, err := map[string]func(deploy.Balancer) ([]byte, error){
		"haproxy": deploy.HAProxy, "nginx": deploy.Nginx, "caddy": deploy.Caddy, "gateway": deploy.Gateway,
	}[kind](in)
	if err != nil {
		return err
	}
	if c.Out == "" {
		_, err = os.Stdout.Write(text)
		return err
	}
	return disk.WriteFile(c.Out, text, 0o644)
}

// backends are where the processes of each role listen.
func (c *renderProxy) backends(ctx context.Context, config *fleet.Config, kind string) (map[string]deploy.Backend, error) {
	switch {
	case c.Live:
		return render.LiveBackends(ctx, config)
	case len(c.Backend) > 0:
		return render.ParseBackends(c.Backend)
	case kind == "gateway":
		backends := map[string]deploy.Backend{}
		for _, r := range fleet.Roles {
			if r.Pool == "" {
				backends[r.Name] = deploy.Backend{DNS: "lyceum-" + r.Name, Port: deploy.PublicPort}
			}
		}
		return backends, nil
	}
	return nil, errors.New("where are the processes? Give --backend ROLE=HOST:PORT,… for router, " +
		"all or client and for roles with processes of " +
		"their own, or --live to take those of a running fleet")
}

type renderDeploy struct {
	sources    `embed:""`
	Users      float64  `help:"Concurrent users to size for, as lyceum plan does." default:"1000"`
	Messages   float64  `help:"Messages per second; 0: as the plan derives them."`
	Capacities string   `help:"Capacities of the hardware, from lyceum bench calibrate." placeholder:"FILE" type:"existingfile"`
	Image      string   `help:"Container image." default:"lyceum"`
	Registry   string   `help:"Registry before the image." placeholder:"HOST"`
	Tag        string   `help:"Version of the image." placeholder:"X.Y.Z"`
	Namespace  string   `help:"Kubernetes namespace." default:"lyceum"`
	Postgres   string   `help:"PostgreSQL; empty: postgres:5432, for systemd 127.0.0.1:5432, and SQLite where one process is enough." placeholder:"HOST:PORT"`
	RedisAt    string   `name:"redis" help:"Redis; empty: redis:6379, for systemd 127.0.0.1:6379." placeholder:"HOST:PORT"`
	RedisTLS   bool     `name:"redis-tls" help:"Redis speaks TLS."`
	S3         string   `name:"s3" help:"S3 store." default:"http://s3:9000" placeholder:"URL"`
	Bucket     string   `help:"Bucket." default:"lyceum"`
	AccessKey  string   `help:"Access key of the S3 store; its secret is a Secret. Empty: the machine's role gives both."`
	Prefix     string   `help:"Beginning of all keys in it." placeholder:"PREFIX"`
	Targets    []string `help:"Prometheus: ops listeners; empty: found through Kubernetes." placeholder:"HOST:PORT"`
	Monitor    bool     `name:"service-monitor" help:"Kubernetes: a ServiceMonitor for the Prometheus operator."`
	Revision   int      `help:"fleet.config_revision of the configuration: raise it when shared keys change."`
	Out        string   `short:"o" help:"Directory to write into." required:"" placeholder:"DIR"`
}

// Help is shown by lyceum render kubernetes --help and its sisters.
func (renderDeploy) Help() string {
	return "Files from the table of roles, with the sizes of lyceum plan --users N. manual/deploying.md says how to use them. " +
		"Secrets are made when they " +
		"are not there yet, and never replaced."
}

func (c *renderDeploy) Run(ctx context.Context) error {
	config, err := c.load()
	if err != nil {
		return err
	}
	capacities, err := plan.LoadCapacities(c.Capacities)
	if err != nil {
		return err
	}
	p := plan.Make(plan.Load{ConcurrentUsers: c.Users, MessagesPerSecond: c.Messages}, capacities, fleet.PlanRoles())
	version := c.Tag
	if version == "" {
		version = obs.Version
	}
	name := cmp.Or(config.Server.Name, "localhost")
	in := deploy.Input{
		ServerName: name, Image: c.Image, Registry: c.Registry, Version: version, Namespace: c.Namespace,
		Roles: fleet.Roles, Sizes: render.Sizes(p), ConcurrentUsers: int(c.Users), Revision: c.Revision,
		RedisTLS:       c.RedisTLS,
		S3:             deploy.S3{Endpoint: c.S3, Bucket: c.Bucket, Prefix: c.Prefix, AccessKey: c.AccessKey, NoSecretKey: c.AccessKey == ""},
		ServiceMonitor: c.Monitor, Targets: c.Targets, TrustedProxies: config.HTTP.TrustedProxies,
	}
	kind := target()
	one := p.Shape == "one" // then a role is no reason for a process
	if one {
		in.Roles = []role.Role{{Name: plan.AllRoles, Purpose: "everything"}}
		in.Sizes = map[string]deploy.Size{plan.AllRoles: {Min: 1, Max: 3, CPU: int(p.Whole.CPU * 1000), Memory: int64(p.Whole.Memory)}}
	}
	if kind == "systemd" && one && c.Postgres == "" {
		files, err := deploy.SystemdOne(in, in.Sizes[plan.AllRoles])
		if err != nil {
			return err
		}
		return writeFiles(c.Out, files)
	}
	engine := func(given *string, name, port string) {
		if host := name; *given == "" {
			if kind == "systemd" {
				host = "127.0.0.1"
			}
			*given = host + ":" + port
		}
	}
	engine(&c.Postgres, "postgres", "5432")
	engine(&c.RedisAt, "redis", "6379")
	in.PostgreSQL, in.Redis = deploy.Place{Address: c.Postgres}, deploy.Place{Address: c.RedisAt}
	if kind == "compose" {
		in.Secrets = deploy.FreshSecrets()
		in.S3.AccessKey, in.S3.NoSecretKey, in.S3.MakeBucket = cmp.Or(c.AccessKey, "lyceum"), false, true
	}
	if kind == "kubernetes" {
		if err := c.writeGateway(ctx, config, in, name); err != nil {
			return err
		}
	}
	files, err := map[string]func(deploy.Input) ([]deploy.File, error){
		"kubernetes": deploy.Kubernetes, "compose": deploy.Compose, "systemd": deploy.Systemd, "prometheus": deploy.Prometheus,
		"grafana": deploy.Grafana,
	}[kind](in)
	if err != nil {
		return err
	}
	if err := writeFiles(c.Out, files); err != nil || kind != "compose" {
		return err
	}
	return copyProgram(filepath.Join(c.Out, "lyceum")) // of which the image is built
}

// writeGateway writes the routes of the Kubernetes Gateway API.
func (c *renderDeploy) writeGateway(ctx context.Context, config *fleet.Config, in deploy.Input, name string) error {
	routes, err := render.RouteTable(ctx, config)
	if err != nil {
		return err
	}
	backends := map[string]deploy.Backend{}
	for name := range in.Sizes {
		backends[name] = deploy.Backend{DNS: "lyceum-" + name, Port: deploy.PublicPort}
	}
	gateway, err := deploy.Gateway(deploy.Balancer{
		Command: commandLine(), Roles: fleet.Roles, Routes: routes, Backends: backends,
		ServerName: name, Namespace: c.Namespace,
	})
	if err != nil {
		return err
	}
	return writeFiles(c.Out, []deploy.File{{Name: "gateway/httproutes.yaml", Mode: 0o644, Body: gateway}})
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
	err = disk.Write(to, 0o755, func(w io.Writer) error {
		_, err := io.Copy(w, from)
		return err
	})
	if err == nil {
		fmt.Println("wrote", to)
	}
	return err
}

// writeFiles writes what was rendered; files of secrets that are there stay as they are.
func writeFiles(dir string, files []deploy.File) error {
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		secret := f.Mode.Perm()&0o077 == 0 || strings.Contains(f.Name, "secrets/")
		if _, err := os.Stat(path); err == nil && secret {
			fmt.Println("kept ", path)
			continue
		}
		mode := os.FileMode(0o755)
		if secret {
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

type renderS3 struct {
	Bucket string `arg:"" help:"Bucket."`
	Prefix string `help:"Beginning of all keys in it." placeholder:"PREFIX"`
	Access string `help:"read, write, or make-bucket." enum:"read,write,make-bucket" default:"write"`
}

func (c *renderS3) Run() error {
	f, err := deploy.S3Policy(c.Bucket, c.Prefix, deploy.Access(c.Access))
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(f.Body)
	return err
}

type planCommand struct {
	Users      float64 `help:"Concurrent users: clients that wait for news." required:""`
	Messages   float64 `help:"Messages per second; 0: from the examples of the Synapse guide."`
	Uploads    float64 `help:"Uploads a day; 0: one for each concurrent user."`
	UploadSize float64 `help:"Mean size of an upload in bytes; 0: 1 MiB."`
	Federated  float64 `help:"Other servers that share rooms."`
	Hosted     float64 `help:"Matrix servers whose media one repository keeps, for the guide's figure."`
	Editors    float64 `help:"People who type in documents at once."`
	Compiles   float64 `help:"Documents compiled at once."`
	Cores      float64 `help:"Most cores of a process; 0: the plan chooses."`
	Capacities string  `help:"Capacities of the hardware, from lyceum bench calibrate; empty: those measured with the release." placeholder:"FILE" type:"existingfile"`
	Format     string  `help:"text, json, markdown or svg." enum:"text,json,markdown,svg" default:"text"`
}

// Help is shown by lyceum plan --help.
func (planCommand) Help() string {
	return "Gives processes, CPU, memory, connections and storage for a load, per role, and what the guides of other systems say for the " +
		"same load. " +
		"For example: lyceum plan --users 5000   or   lyceum plan --users 20000 --messages 800 --format svg > plan.svg"
}

func (c *planCommand) Run() error {
	capacities, err := plan.LoadCapacities(c.Capacities)
	if err != nil {
		return err
	}
	r, err := plan.NewReport(plan.Load{
		ConcurrentUsers: c.Users, MessagesPerSecond: c.Messages, FederatedServers: c.Federated, HostedServers: c.Hosted,
		UploadsPerDay: c.Uploads, UploadSize: c.UploadSize, Editors: c.Editors, Compiles: c.Compiles, Cores: c.Cores,
	}, capacities, fleet.PlanRoles())
	if err != nil {
		return err
	}
	switch c.Format {
	case "json":
		return r.JSON(os.Stdout)
	case "markdown":
		return r.Markdown(os.Stdout)
	case "svg":
		return r.SVG(os.Stdout)
	}
	return r.Text(os.Stdout)
}
