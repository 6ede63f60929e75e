package render

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"lyceum/accounts"
	"lyceum/fleet"
	"lyceum/ops/deploy"
	"lyceum/platform/conf"
)

// Target is what is rendered.
type Target struct {
	Kind  string // kubernetes, compose or systemd
	Alone bool   // one process, which needs no Redis
}

// derived are keys that the rendering decides, with the reason why another value is refused. What fits is taken by settle.
var derived = map[string]string{
	"fleet.roles":           "each process gets its roles from the plan",
	"fleet.machine_id":      "each process gets an id of its own",
	"fleet.advertise":       "each process says where it is reached",
	"fleet.internal_listen": "each process gets an address of its own",
	"fleet.ops_listen":      "each process gets an address of its own",
	"up.replicas":           "it is for lyceum up",
}

// settle is a configuration on its way into the input of a renderer.
type settle struct {
	in   *deploy.Input
	c    *fleet.Config
	to   Target
	errs []error
}

// Settle puts the keys that an operator gave into the input of a renderer: where the rendering derives one, the given value takes its
// place; secrets go to the files for them; the rest is a setting. A key that contradicts what is rendered is refused.
func Settle(in *deploy.Input, c *fleet.Config, given []conf.Given, to Target) error {
	s := &settle{in: in, c: c, to: to}
	if strings.Contains(in.PostgreSQL.Address, "://") {
		in.Secrets.DatabaseURL, in.PostgreSQL.Address = in.PostgreSQL.Address, ""
	}
	for i := range given {
		s.key(&given[i])
	}
	if in.Secrets.DatabaseURL != "" && s.to.Kind != "compose" {
		s.databaseAddress()
	}
	return errors.Join(s.errs...)
}

func (s *settle) refuse(g *conf.Given, format string, args ...any) {
	s.errs = append(s.errs, &conf.Error{Where: g.Where, Key: g.Key, Problem: fmt.Sprintf(format, args...)})
}

// choose takes a value that a flag may have given too.
func (s *settle) choose(g *conf.Given, at *string, value string) {
	if *at != "" && *at != value {
		s.refuse(g, "the command line says %s and this says %s: leave one out", *at, value)
		return
	}
	*at = value
}

// key takes one key.
func (s *settle) key(g *conf.Given) {
	section, _, _ := strings.Cut(g.Key, ".")
	switch reason, isDerived := derived[g.Key]; {
	case g.Secret:
		s.secret(g)
	case g.Holds:
		s.refuse(g, "it holds secrets, which are not written into lyceum.yaml: leave it out, and give it to the processes in %s", g.Env)
	case isDerived && s.to.Alone && s.to.Kind == "systemd" && g.Key != "up.replicas":
		if g.Key == "fleet.roles" && !slices.Equal(s.c.Fleet.Roles, []string{fleet.AllRoles}) {
			s.refuse(g, "one process has all roles: leave it out, or size a fleet with --users")
		} else if g.Key != "fleet.roles" {
			s.setting(g)
		}
	case isDerived:
		s.refuse(g, "%s: leave it out", reason)
	case section == "blob":
		s.blob(g)
	case section == "redis":
		s.redis(g)
	default:
		s.other(g)
	}
}

// other takes a key that is no secret and of no engine but the database.
func (s *settle) other(g *conf.Given) {
	in := s.in
	switch g.Key {
	case "server.name": // taken before
	case "server.data":
		if filepath.Clean(s.c.Server.Data) != "/var/lib/lyceum" {
			s.refuse(g, "the processes may write to /var/lib/lyceum alone: leave it out")
		}
	case "server.listen":
		switch listen := s.c.Server.Listen; {
		case s.to.Kind == "systemd" && listen != "":
			in.Listen = listen
		case s.to.Kind == "compose":
			s.refuse(g, "the variable LYCEUM_LISTEN of docker compose says where the port is published: leave it out")
		default:
			s.refuse(g, "clients are served on port %d: leave it out", deploy.PublicPort)
		}
	case "fleet.config_revision":
		in.Revision = cmp.Or(in.Revision, s.c.Fleet.Revision)
	case "database.connections":
		in.DatabaseConnections = s.c.Database.Connections
	case "http.trusted_proxies":
		in.TrustedProxies = networks(s.c.HTTP.TrustedProxies)
	case "http.drain_delay":
		in.Drain = s.c.HTTP.DrainDelay.D()
		s.setting(g)
	case "http.shutdown_timeout":
		in.Shutdown = s.c.HTTP.ShutdownTimeout.D()
		s.setting(g)
	case "accounts.well_known.client":
		in.PublicURL = fleet.SectionOf[accounts.Config](s.c).WellKnown.Client
	default:
		s.setting(g)
	}
}

// networks writes addresses as networks of one.
func networks(list []string) []string {
	var out []string
	for _, text := range list {
		switch ip := net.ParseIP(text); {
		case ip == nil:
			out = append(out, text)
		case ip.To4() != nil:
			out = append(out, text+"/32")
		default:
			out = append(out, text+"/128")
		}
	}
	return out
}

func (s *settle) setting(g *conf.Given) {
	if text := fmt.Sprint(g.Value); conf.Redact(text) != text {
		s.refuse(g, "it holds a password, and lyceum.yaml holds none: leave it out, and give it to the processes in %s", g.Env)
		return
	}
	s.in.Settings = append(s.in.Settings, deploy.Setting{Key: g.Key, Value: g.Value})
}

// secret puts a secret where it belongs.
func (s *settle) secret(g *conf.Given) {
	text, _ := g.Value.(string)
	at := map[string]*string{
		"database.url": &s.in.Secrets.DatabaseURL, "redis.password": &s.in.Secrets.RedisPassword,
		"blob.s3.secret_key": &s.in.Secrets.S3SecretKey, "fleet.secret": &s.in.Secrets.Fleet,
	}[g.Key]
	switch {
	case text == "":
	case g.Key == "database.url" && s.to.Kind == "compose":
		s.refuse(g, "compose.yaml has a PostgreSQL of its own: leave it out, or render systemd or kubernetes")
	case g.Key == "redis.password" && s.to.Alone && s.to.Kind == "systemd":
		s.refuse(g, "one process needs no Redis: leave it out, or size a fleet with --users")
	case at != nil:
		if *at != "" && *at != text {
			s.refuse(g, "the command line gives another one: leave one out")
		}
		*at = text
	default:
		if s.in.Secrets.Other == nil {
			s.in.Secrets.Other = map[string]string{}
		}
		s.in.Secrets.Other[g.Key] = text
	}
}

// databaseAddress takes the address of PostgreSQL from its URL.
func (s *settle) databaseAddress() {
	u, err := url.Parse(s.in.Secrets.DatabaseURL)
	if err != nil || u.Hostname() == "" {
		return // a socket, or several hosts: no network policy can name them
	}
	address := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "5432"))
	if given := s.in.PostgreSQL.Address; given != "" && given != address {
		s.errs = append(s.errs, fmt.Errorf("--postgres %s: database.url names %s: leave one out", given, address))
	}
	s.in.PostgreSQL.Address = address
}

// redis takes a key of the bus.
func (s *settle) redis(g *conf.Given) {
	own := s.to.Kind == "compose" &&
		slices.Contains([]string{"redis.addresses", "redis.tls", "redis.username", "redis.sentinel_master"}, g.Key)
	switch {
	case own:
		s.refuse(g, "compose.yaml has a Redis of its own: leave it out, or render systemd or kubernetes")
	case s.to.Alone && s.to.Kind == "systemd" && g.Key == "redis.addresses":
		s.refuse(g, "one process needs no Redis: leave it out, or size a fleet with --users")
	case g.Key == "redis.tls":
		s.in.RedisTLS = s.c.Redis.TLS
	case g.Key != "redis.addresses" || len(s.c.Redis.Addresses) == 0:
		s.setting(g)
	default:
		first := s.c.Redis.Addresses[0]
		if conf.Redact(fmt.Sprint(s.c.Redis.Addresses)) != fmt.Sprint(s.c.Redis.Addresses) {
			s.refuse(g, "lyceum.yaml holds no passwords: give it as redis.password")
			return
		}
		if u, err := url.Parse(first); err == nil && u.Host != "" {
			first = u.Host
		}
		s.choose(g, &s.in.Redis.Address, first)
		s.in.RedisAddresses = s.c.Redis.Addresses
	}
}

// blob takes a key of the blob store.
func (s *settle) blob(g *conf.Given) {
	store, c := &s.in.S3, s.c.Blob.S3
	switch g.Key {
	case "blob.directory":
		switch {
		case s.to.Kind != "systemd":
			s.refuse(g, "the processes share no directory here: leave it out, so that files are in the S3 store")
		case !filepath.IsAbs(s.c.Blob.Directory):
			s.refuse(g, "expected an absolute path, found %s", s.c.Blob.Directory)
		default:
			s.in.BlobDirectory = s.c.Blob.Directory
		}
	case "blob.directory_shared": // follows from the directory
	case "blob.s3.endpoint":
		if s.to.Kind == "compose" {
			s.refuse(g, "compose.yaml has an S3 store of its own: leave it out, or render systemd or kubernetes")
			return
		}
		s.choose(g, &store.Endpoint, c.Endpoint)
	case "blob.s3.region":
		store.Region = c.Region
	case "blob.s3.bucket":
		s.choose(g, &store.Bucket, c.Bucket)
	case "blob.s3.prefix":
		s.choose(g, &store.Prefix, c.Prefix)
	case "blob.s3.access_key":
		s.choose(g, &store.AccessKey, c.AccessKey)
	case "blob.s3.path_style":
		store.VirtualHost = !c.PathStyle
	case "blob.s3.make_bucket":
		store.MakeBucket = c.MakeBucket
	default:
		s.setting(g)
	}
}
