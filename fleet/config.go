package fleet

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/media"
	"lyceum/platform/blob"
	"lyceum/platform/bus"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/platform/web"
)

// Config is the configuration of a process: a section for each package. Those of the domains are found by their
// types, with SectionOf.
type Config struct {
	Server   ServerConfig
	Fleet    ProcessConfig
	Database DatabaseConfig
	Redis    bus.Config
	HTTP     web.Config
	Obs      obs.Config
	Blob     blob.Config
	Up       UpConfig
	domains  []conf.Section

	secretFiles []string // from which secrets were read
}

// SectionOf is the section of the domain whose Config is C.
func SectionOf[C any](c *Config) *C {
	for _, s := range c.Sections() {
		if into, ok := s.Into.(*C); ok {
			return into
		}
	}
	panic(fmt.Sprintf("no domain in the list has a section of type %T: say so in its Domain", *new(C)))
}

// ServerConfig is the section "server".
type ServerConfig struct {
	Name   string `yaml:"name" help:"Server name: the part of user ids after the colon. The first start keeps it in the database (localhost without one) and it can not be changed later; after that it may be left out, and another name is refused."`
	Listen string `yaml:"listen" own:"true" default:"127.0.0.1:8008" help:"Address of the public listener; empty for a process that takes no requests of clients."`
	Data   string `yaml:"data" own:"true" default:"data" help:"Directory for what this process keeps: all of it when embedded, scratch in a fleet."`
}

// Validate checks the section.
func (c *ServerConfig) Validate() error {
	if c.Name != "" && !matrix.ValidServerName(c.Name) {
		return fmt.Errorf("name: expected a host name such as example.org, found %q", c.Name)
	}
	return nil
}

// ProcessConfig is the section "fleet": what this process is among others.
type ProcessConfig struct {
	Roles     []string    `yaml:"roles" own:"true" default:"all" help:"Roles of this process; lyceum roles lists them."`
	MachineID string      `yaml:"machine_id" env:"MACHINE_ID" own:"true" default:"auto" help:"0 to 1023, different for each process, or auto. MACHINE_ID in the environment is taken too."`
	Secret    conf.Secret `yaml:"secret" help:"Secret that all processes share; at least 16 characters. One process alone, and lyceum up, make it at the first start and keep it in the file secret of the data directory."`
	Internal  string      `yaml:"internal_listen" own:"true" default:"127.0.0.1:0" help:"Address of the listener for the other processes; TLS with keys derived from the secret."`
	Advertise string      `yaml:"advertise" own:"true" help:"host:port under which the others reach the internal listener, where it is not the listener's own address."`
	Revision  int         `yaml:"config_revision" own:"true" default:"0" min:"0" help:"Number of this configuration. A process whose shared keys differ from those of the others starts only with a higher one: so a changed configuration is rolled out on purpose, never by accident."`
	Ops       string      `yaml:"ops_listen" own:"true" help:"Address of a plain listener with /health, /ready, /metrics and profiles, for the operator's network only; empty: none."`
}

// Validate checks the section.
func (c *ProcessConfig) Validate() error {
	var errs []error
	if _, err := ParseRoles(c.Roles); err != nil {
		errs = append(errs, err)
	}
	if _, err := c.Machine(); err != nil {
		errs = append(errs, err)
	}
	if s := c.Secret.Reveal(); s != "" && len(s) < minSecret {
		errs = append(errs, errors.New("secret: expected at least 16 characters: make one with `openssl rand -hex 32`"))
	}
	if _, _, err := net.SplitHostPort(c.Internal); err != nil {
		errs = append(errs, fmt.Errorf("internal_listen: expected host:port, found %q", c.Internal))
	}
	return errors.Join(errs...)
}

func (c *ProcessConfig) Machine() (int, error) {
	if c.MachineID == "auto" || c.MachineID == "" {
		return -1, nil
	}
	id, err := strconv.Atoi(c.MachineID)
	if err != nil || id < 0 || id > 1023 {
		return 0, fmt.Errorf("machine_id: expected auto or a number from 0 to 1023, found %q", c.MachineID)
	}
	return id, nil
}

// DatabaseConfig is the section "database".
type DatabaseConfig struct {
	URL         conf.Secret   `yaml:"url" own:"true" help:"postgres://user:password@host/name; empty: SQLite in the data directory."`
	StartWait   conf.Duration `yaml:"start_wait" own:"true" default:"30s" min:"0s" max:"1h" help:"How long a process that starts waits for a PostgreSQL that does not answer; 0s: not at all."`
	Connections int           `yaml:"connections" own:"true" default:"0" min:"0" help:"Most connections of this process; 0: 16 with PostgreSQL, 4 readers with SQLite."`
}

// Validate checks the section.
func (c *DatabaseConfig) Validate() error {
	if c.URL.Reveal() == "" {
		return nil
	}
	if err := db.CheckAddress(c.URL.Reveal()); err != nil {
		return fmt.Errorf("url: %w", err)
	}
	return nil
}

// UpConfig is the section "up": a whole fleet on this machine.
type UpConfig struct {
	Replicas map[string]int `yaml:"replicas" own:"true" help:"Processes by roles: a role, or several joined by +, and how many processes have them."`
}

// Validate checks the section.
func (c *UpConfig) Validate() error {
	for group, n := range c.Replicas {
		if _, err := ParseRoles(strings.Split(group, "+")); err != nil {
			return fmt.Errorf("replicas: %w", err)
		}
		if n < 0 || n > 100 {
			return fmt.Errorf("replicas: expected 0 to 100 processes of %s, found %d", group, n)
		}
	}
	return nil
}

// Sections are the parts of the configuration with the names of their packages.
func (c *Config) Sections() []conf.Section {
	if c.domains == nil {
		for _, d := range Domains {
			if d.Config.New != nil {
				c.domains = append(c.domains, conf.Section{Name: d.Name, Into: d.Config.New(), Help: d.Config.Help})
			}
		}
	}
	out := []conf.Section{
		{Name: "server", Into: &c.Server, Help: "Name and place of the server."},
		{Name: "fleet", Into: &c.Fleet, Help: "This process among the others."},
		{Name: "database", Into: &c.Database, Help: "Where everything durable is kept."},
		{Name: "redis", Into: &c.Redis, Help: "The bus between processes. Needed with more than one."},
		{Name: "http", Into: &c.HTTP, Help: "Requests of clients and their limits."},
		{Name: "obs", Into: &c.Obs, Help: "Logs, metrics and traces."},
	}
	for _, s := range c.domains {
		if s.Name == media.Domain.Name { // people look for the two together
			out = append(out, conf.Section{Name: "blob", Into: &c.Blob, Help: "Where files are kept."})
		}
		out = append(out, s)
	}
	return append(out, conf.Section{Name: "up", Into: &c.Up, Help: "The fleet that lyceum up starts on this machine."})
}

// Load reads the configuration and checks what no section can check alone.
func Load(s conf.Sources) (*Config, error) {
	c, _, err := LoadGiven(s)
	if err != nil {
		return nil, err
	}
	return c, c.checkTogether()
}

// LoadGiven returns the keys that the sources set beside the configuration. It need not be that of one process, so what Load checks
// together is not checked.
func LoadGiven(s conf.Sources) (*Config, []conf.Given, error) {
	c := &Config{}
	s.SecretIn = func(path string) { c.secretFiles = append(c.secretFiles, path) }
	given, err := conf.LoadGiven(s, c.Sections()...)
	if err != nil {
		return nil, nil, err
	}
	roles, err := ParseRoles(c.Fleet.Roles)
	if err != nil {
		return nil, nil, err
	}
	c.Fleet.Roles = roles
	known := SectionOf[accounts.Config](c)
	known.WellKnown.Client = strings.TrimRight(known.WellKnown.Client, "/") // clients add paths that begin with one
	c.Blob.Scratch = filepath.Join(c.Server.Data, "scratch")
	if c.Blob.S3.Endpoint == "" && c.Blob.S3.Bucket == "" && c.Blob.Directory == "" {
		c.Blob.Directory = filepath.Join(c.Server.Data, "blobs")
	}
	return c, given, nil
}

// Embedded reports whether this is a server of one process over SQLite.
func (c *Config) Embedded() bool { return c.Database.URL.Reveal() == "" }

func (c *Config) checkTogether() error {
	if c.Embedded() && c.Fleet.Roles[0] != AllRoles {
		return errors.New("fleet.roles: a process over SQLite has all roles, because it is the only one: " +
			"set database.url and redis.addresses, or remove roles")
	}
	if c.Embedded() && len(c.Redis.Addresses) > 0 {
		return errors.New("redis.addresses: a process over SQLite needs no Redis: set database.url, or remove addresses")
	}
	return nil
}

// DatabaseURL is the address that package db takes.
func (c *Config) DatabaseURL() string {
	if url := c.Database.URL.Reveal(); url != "" {
		return url
	}
	return "sqlite:" + c.DatabaseFile()
}

// baseURL is where people open the server.
func (c *Config) baseURL() string {
	if url := SectionOf[accounts.Config](c).WellKnown.Client; url != "" {
		return url
	}
	return "http://" + c.Server.Listen
}
