package deploy

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"lyceum/platform/role"
)

// Ports of a process, the same in all files.
const (
	PublicPort   = 8008
	InternalPort = 8009
	OpsPort      = 8010
)

// Times of a graceful shutdown. Load balancers learn of it first, then requests under way finish, then the process hands over what it owns;
// only after all that may it be killed.
const (
	preStop         = 5 * time.Second
	drainDelay      = 2 * time.Second
	shutdownTimeout = 25 * time.Second
	handOver        = 13 * time.Second
)

// killAfter is when a process that was told to end may be killed.
func (in *Input) killAfter() int { return seconds(preStop + in.Drain + in.Shutdown + handOver) }

// File is one rendered file.
type File struct {
	Name      string // relative, with slashes
	Mode      fs.FileMode
	Body      []byte
	Generated bool   // a secret that nobody gave was generated: the file of an earlier rendering stays
	Fill      string // what the operator has to write into the file; "" when it is complete
}

// Size is the number and the resources of the processes of a role.
type Size struct {
	Min, Max      int   // processes
	CPU           int   // millicores that are reserved for each
	CPULimit      int   // millicores that each may use; 0: no limit, so nothing is throttled
	Memory        int64 // bytes at which a process is killed
	MemoryRequest int64 // bytes that are reserved, and the aim of the garbage collector; 0: three quarters of Memory
}

// Group is a kind of process that has several roles.
type Group struct {
	Name     string
	Roles    []string
	Replicas int
}

// Place says where an engine is. With Namespace or Networks, network policies are as narrow as that; else
// they are derived from the host name: "postgres" is a Service in the fleet's namespace, "db.data.svc" one in
// the namespace data, and any other host is somewhere outside.
type Place struct {
	Address   string // host:port
	Namespace string
	Labels    map[string]string // of its pods
	Networks  []string          // CIDR
}

// S3 says where files are kept.
type S3 struct {
	Place            // Address is not read
	Endpoint, Region string
	Bucket, Prefix   string
	AccessKey        string // empty: from the machine's role
	VirtualHost      bool   // the bucket is in the host name, not in the path
	MakeBucket       bool
	NoSecretKey      bool // the machine's role gives the key
}

// Input is the data from which the files are rendered. Most fields have defaults for their zero values.
type Input struct {
	ServerName string // required
	PublicURL  string // where clients find the server; empty: https://ServerName
	Image      string // of the container; a tag or digest may be part of it ("lyceum")
	Registry   string // put before Image, when given
	Version    string // the tag of Image when it has none
	Namespace  string // of Kubernetes ("lyceum")
	Binary     string // path of the program in systemd units ("/usr/local/bin/lyceum")
	Host       string // address by which other machines reach this one, for systemd ("127.0.0.1": all are on one)

	Roles  []role.Role     // required
	Sizes  map[string]Size // by role; what is missing is a small default. A role with a pool gets processes only when it is here
	Groups []Group         // for compose and systemd; empty: router, reading, sync, events, other writers

	ConcurrentUsers int   // that Sizes were made for; 0: not known
	Revision        int   // fleet.config_revision; 0: none
	PostgreSQL      Place // default postgres:5432
	Redis           Place // default redis:6379
	RedisTLS        bool
	S3              S3     // default http://s3:9000, bucket lyceum
	SecretName      string // Kubernetes Secret ("lyceum-secrets")
	Secrets         Secrets
	TrustedProxies  []string // CIDR; empty: where the proxy of the rendering comes from

	// What the operator's configuration says besides: RedisAddresses replaces the address of Redis, and BlobDirectory replaces S3. Settings
	// are all keys that are not derived.
	RedisAddresses  []string
	BlobDirectory   string
	Listen          string        // of the process that clients reach, for systemd ("127.0.0.1:8008")
	Drain, Shutdown time.Duration // http.drain_delay and http.shutdown_timeout
	Settings        []Setting
	Given           []string // names of secret files that Compose is given and not made for it

	DatabaseConnections int   // of each process; 0: the default of database.connections
	SharedBuffers       int64 // of PostgreSQL, in bytes

	Ingress        string   // namespace of the gateway or ingress controller ("ingress")
	Monitoring     string   // namespace of Prometheus ("monitoring")
	ServiceMonitor bool     // render one for the Prometheus operator
	Resources      []File   // more Kubernetes resources, such as Gateway API routes
	Targets        []string // host:port of ops listeners; empty: Prometheus asks Kubernetes
	Alertmanagers  []string // host:port
}

//go:embed kubernetes compose systemd prometheus
var texts embed.FS

var (
	dnsLabel   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	imageName  = regexp.MustCompile(`^[A-Za-z0-9][-A-Za-z0-9._:/@]*$`)
	serverName = regexp.MustCompile(`^[-A-Za-z0-9.:\[\]]+$`)
	bucketName = regexp.MustCompile(`^[a-z0-9][-a-z0-9.]{1,61}[a-z0-9]$`)
	filePath   = regexp.MustCompile(`^/[-A-Za-z0-9._/]+$`)
)

// complete fills what is empty and returns all errors in what was given.
func (in Input) complete() (Input, error) {
	in.setDefaults()
	errs := slices.Concat(in.check(), in.completeSizes())
	if len(in.Groups) == 0 {
		in.Groups = defaultGroups(in.Roles, in.Sizes)
	}
	return in, errors.Join(append(errs, in.checkGroups()...)...)
}

// setDefaults fills what is empty, but for Sizes and Groups.
func (in *Input) setDefaults() {
	def := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	def(&in.PublicURL, "https://"+in.ServerName)
	def(&in.Image, "lyceum")
	def(&in.Version, "latest")
	def(&in.Namespace, "lyceum")
	def(&in.Binary, "/usr/local/bin/lyceum")
	def(&in.Host, "127.0.0.1")
	def(&in.PostgreSQL.Address, "postgres:5432")
	def(&in.Redis.Address, "redis:6379")
	def(&in.S3.Region, "us-east-1")
	def(&in.S3.Bucket, "lyceum")
	def(&in.SecretName, "lyceum-secrets")
	def(&in.Ingress, "ingress")
	def(&in.Monitoring, "monitoring")
	def(&in.Listen, fmt.Sprintf("127.0.0.1:%d", PublicPort))
	in.Drain, in.Shutdown = cmp.Or(in.Drain, drainDelay), cmp.Or(in.Shutdown, shutdownTimeout)
	in.SharedBuffers = cmp.Or(in.SharedBuffers, 512*mebibyte)
	in.Image = in.ImageName()
}

// ImageName is the whole name of the image: with the registry, and with the version where it has no tag.
func (in *Input) ImageName() string {
	name := in.Image
	if in.Registry != "" {
		name = strings.TrimSuffix(in.Registry, "/") + "/" + name
	}
	if last := name[strings.LastIndex(name, "/")+1:]; !strings.ContainsAny(last, ":@") {
		name += ":" + in.Version
	}
	return name
}

// completeSizes gives every role a size, with defaults for what is empty, but for roles with a pool that nobody gave one.
func (in *Input) completeSizes() (errs []error) {
	sizes := map[string]Size{}
	for _, r := range in.Roles {
		given, named := in.Sizes[r.Name]
		if r.Pool == "" || named {
			sizes[r.Name] = given.withDefaults(r)
		}
	}
	for name, s := range in.Sizes {
		if _, known := sizes[name]; !known {
			errs = append(errs, fmt.Errorf("sizes: %q is no role: lyceum roles lists them", name))
		}
		if d := sizes[name]; d.Min > d.Max || s.Min < 0 || s.Memory < 0 || s.CPU < 0 {
			errs = append(errs, fmt.Errorf("sizes: %s: expected 0 < min <= max, found %d and %d", name, d.Min, d.Max))
		}
	}
	in.Sizes = sizes
	return errs
}

func (in *Input) checkGroups() (errs []error) {
	for _, g := range in.Groups {
		if !dnsLabel.MatchString(g.Name) || len(g.Roles) == 0 || g.Replicas < 1 {
			errs = append(errs, fmt.Errorf("groups: expected a name, roles and at least one process, found %+v", g))
		}
		for _, name := range g.Roles {
			if !slices.ContainsFunc(in.Roles, func(r role.Role) bool { return r.Name == name }) {
				errs = append(errs, fmt.Errorf("groups: %q is no role: lyceum roles lists them", name))
			}
		}
	}
	return errs
}

// check returns the errors in names, addresses and files.
func (in *Input) check() (errs []error) {
	must := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	must(serverName.MatchString(in.ServerName), "server name: expected a host name such as example.org, found %q", in.ServerName)
	must(len(in.Roles) > 0, "roles: expected the table of roles, found none")
	must(imageName.MatchString(in.Image), "image: expected a name such as registry.example.org/lyceum:1.2.3, found %q", in.Image)
	for name, value := range map[string]string{
		"namespace": in.Namespace, "secret": in.SecretName, "ingress namespace": in.Ingress,
		"monitoring namespace": in.Monitoring,
	} {
		must(dnsLabel.MatchString(value), "%s: expected lower-case letters, digits and dashes, found %q", name, value)
	}
	must(filePath.MatchString(in.Binary), "binary: expected an absolute path, found %q", in.Binary)
	must(!strings.ContainsAny(in.Host, " \t\n\"'%$:"), "host: expected an address without a port, found %q", in.Host)
	must(bucketName.MatchString(in.S3.Bucket), "bucket: expected 3 to 63 lower-case letters, digits, dots and dashes, found %q", in.S3.Bucket)
	must(!strings.ContainsAny(in.S3.Prefix, "*?$\" \n"), "prefix: expected a plain path such as lyceum/, found %q", in.S3.Prefix)
	must(in.Secrets.Fleet == "" || len(in.Secrets.Fleet) >= 16, "fleet secret: expected at least 16 characters: "+
		"make one with `openssl rand -hex 32`")
	must(in.BlobDirectory == "" || in.S3.Endpoint == "", "files: expected a directory or an S3 store, found both: leave one out")
	u, err := url.Parse(in.S3.Endpoint)
	if in.S3.Endpoint != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "") {
		must(false, "s3 endpoint: expected a URL such as https://s3.example.org, found %q", in.S3.Endpoint)
	}
	for name, p := range map[string]Place{"postgresql": in.PostgreSQL, "redis": in.Redis} {
		_, _, err := net.SplitHostPort(p.Address)
		must(err == nil, "%s: expected host:port, found %q", name, p.Address)
	}
	for _, list := range [][]string{in.TrustedProxies, in.PostgreSQL.Networks, in.Redis.Networks, in.S3.Networks} {
		for _, network := range list {
			_, err := netip.ParsePrefix(network)
			must(err == nil, "network: expected a CIDR such as 10.0.0.0/8, found %q", network)
		}
	}
	for _, r := range in.Roles {
		must(dnsLabel.MatchString(r.Name), "role: expected a lower-case name, found %q", r.Name)
	}
	return errs
}

const mebibyte = 1 << 20

// withDefaults fills what is empty, for a small fleet that survives the loss of any one machine.
func (s Size) withDefaults(r role.Role) Size {
	d := Size{Min: 2, Max: 10, CPU: 250, Memory: 1024 * mebibyte}
	switch {
	case writes(r):
		d = Size{Min: 2, Max: 6, CPU: 250, Memory: 1024 * mebibyte}
	case decodes(r):
		d.Memory = 2048 * mebibyte
	case r.Name == "sync":
		d.CPU, d.Memory = 500, 2048*mebibyte
	}
	if s.Min == 0 {
		s.Min = min(d.Min, max(s.Max, 1))
		if s.Max == 0 {
			s.Min = d.Min
		}
	}
	if s.Max == 0 {
		s.Max = max(d.Max, 2*s.Min)
	}
	if s.CPU == 0 {
		s.CPU = d.CPU
	}
	if s.Memory == 0 {
		s.Memory = max(d.Memory, 4*s.MemoryRequest/3)
	}
	if s.MemoryRequest == 0 {
		s.MemoryRequest = s.Memory / 4 * 3
		if decodes(r) {
			s.MemoryRequest = s.Memory / 2 // the rest is for the processes that decode pictures
		}
	}
	return s
}

// allRoles is the name of a process that has every role.
const allRoles = "all"

// writes reports whether the work of a role comes from a stream: it owns the shards of one, or is push, which consumes events.
func writes(r role.Role) bool { return r.Stream != "" || r.Name == "push" }

// decodes reports whether the processes of a role start workers that decode pictures.
func decodes(r role.Role) bool {
	return r.Name == "media" || r.Name == "thumbnails" || r.Name == allRoles
}

// reachesOut reports whether a role calls servers on the internet.
func reachesOut(r role.Role) bool {
	return r.Name == "push" || r.Name == allRoles
}

// decodingMemory is media.thumbnails.memory, the most that one picture may take.
const decodingMemory = 512 * mebibyte

// decodes reports whether processes of the fleet decode pictures.
func (in *Input) decodes() bool {
	return slices.ContainsFunc(in.Roles, func(r role.Role) bool {
		_, has := in.Sizes[r.Name]
		return has && decodes(r)
	})
}

// thumbnailWorkers is how many pictures fit at once beside the process in the memory it has. The key is
// shared by the fleet, so the smallest decides.
func (in *Input) thumbnailWorkers() int {
	n := 0
	for _, r := range in.Roles {
		if s, ok := in.Sizes[r.Name]; ok && decodes(r) {
			fits := max(1, int((s.Memory-s.MemoryRequest)/decodingMemory))
			if n == 0 || fits < n {
				n = fits
			}
		}
	}
	return max(n, 1)
}

// defaultGroups puts roles together that wait for the same thing.
func defaultGroups(roles []role.Role, sizes map[string]Size) []Group {
	var out []Group
	add := func(group string, r role.Role) {
		i := slices.IndexFunc(out, func(g Group) bool { return g.Name == group })
		if i < 0 {
			i = len(out)
			out = append(out, Group{Name: group})
		}
		out[i].Roles = append(out[i].Roles, r.Name)
		out[i].Replicas = max(out[i].Replicas, sizes[r.Name].Min)
	}
	for _, r := range roles {
		if _, has := sizes[r.Name]; !has {
			continue
		}
		switch {
		case r.Name == allRoles:
			add("lyceum", r)
		case r.Name == "router" || r.Name == "events" || r.Pool != "":
			add(r.Name, r)
		case r.Name == "sync" || r.Name == "push":
			add("sync", r)
		case r.Stream != "":
			add("writers", r)
		default:
			add("client", r)
		}
	}
	for i, g := range out {
		if g.Name == "router" {
			out[i].Replicas = 1 // one process can have a port of a machine
		}
	}
	return out
}

// funcs are what the texts may call.
var funcs = template.FuncMap{
	"quote":  quote,
	"join":   strings.Join,
	"indent": indent,
}

// quote returns a text as a double-quoted scalar: JSON strings are YAML.
func quote(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(fmt.Sprint(v))
	return strings.TrimSpace(b.String()), err
}

func indent(n int, text string) string {
	space := strings.Repeat(" ", n)
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			b.WriteString(space)
		}
		b.WriteString(line)
	}
	return b.String()
}

// render executes one template. The delimiters are [[ and ]], since rules of Prometheus have braces of their own.
func render(name string, data any) ([]byte, error) {
	text, err := texts.ReadFile(name)
	if err != nil {
		return nil, err
	}
	t, err := template.New(name).Delims("[[", "]]").Funcs(funcs).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	return b.Bytes(), nil
}
