package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"lyceum/fleet"
	"lyceum/ops/deploy"
	"lyceum/ops/plan"
	"lyceum/ops/render"
	"lyceum/platform/disk"
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
	if c.Live && len(c.Backend) > 0 {
		return errors.New("--live and --backend both say where the processes are: remove one")
	}
	load := c.load
	if c.Live {
		load = c.loadFor
	}
	config, err := load()
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
		Namespace: c.Space, File: c.Out,
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

// isService reports whether a backend may be a Service of Kubernetes.
func isService(b deploy.Backend) bool {
	name := b.DNS
	if len(b.Servers) == 1 {
		name, _, _ = strings.Cut(b.Servers[0], ":")
	}
	return len(b.Servers) < 2 && regexp.MustCompile(`^[a-z][-a-z0-9]*$`).MatchString(name)
}

// backends are where the processes of each role listen.
func (c *renderProxy) backends(ctx context.Context, config *fleet.Config, kind string) (map[string]deploy.Backend, error) {
	switch {
	case c.Live && kind == "gateway":
		return nil, errors.New("--live: a Gateway sends to Services of Kubernetes, and the processes know their addresses alone: leave it out")
	case c.Live:
		return render.LiveBackends(ctx, config)
	case len(c.Backend) > 0:
		backends, err := render.ParseBackends(c.Backend)
		for role, b := range backends {
			if err == nil && kind == "gateway" && !isService(b) {
				err = fmt.Errorf("--backend %s: a Gateway sends to a Service of its namespace: give %s=NAME:PORT", role, role)
			}
		}
		return backends, err
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
