package bus

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"lyceum/platform/conf"
)

// Config says where Redis is. One address that is not a cluster is a single server; the address of any
// cluster node is a cluster; with Master set, the addresses are those of Sentinels.
type Config struct {
	Addresses        []string      `yaml:"addresses" own:"true" help:"host:port, redis://:password@host:port or, with TLS, rediss://…; several for a cluster or for Sentinels"`
	Username         string        `yaml:"username" own:"true" help:"Redis ACL user; empty for the default user"`
	Password         conf.Secret   `yaml:"password" own:"true" help:"Redis password"`
	TLS              bool          `yaml:"tls" own:"true" help:"connect with TLS, as addresses with rediss:// do"`
	Master           string        `yaml:"sentinel_master" own:"true" help:"name of the master when the addresses are those of Redis Sentinels"`
	SentinelPassword conf.Secret   `yaml:"sentinel_password" own:"true" help:"password of the Sentinels themselves"`
	Prefix           string        `yaml:"prefix" default:"lyceum" help:"keeps fleets apart that share one Redis; each needs its own, and one that another fleet uses is refused"`
	Timeout          conf.Duration `yaml:"timeout" own:"true" default:"1s" help:"how long Redis may be silent before it counts as unreachable"`
	StartWait        conf.Duration `yaml:"start_wait" own:"true" default:"5s" help:"how long a start waits for Redis; after that the process runs without hints until Redis is there"`

	// Fleet names the database of the fleet, so that two fleets do not use one prefix; "" when that is not known.
	Fleet string `yaml:"-"`
	// Log takes messages about lost and regained connections; may be nil.
	Log *slog.Logger `yaml:"-"`
	// TLSConfig replaces the system's certificate authorities; for tests and embedders.
	TLSConfig *tls.Config `yaml:"-"`
}

// Validate names the key that is wrong and what to write instead.
func (c *Config) Validate() error {
	var errs []error
	for _, address := range c.Addresses {
		if _, err := parseAddress(address); err != nil {
			errs = append(errs, fmt.Errorf("addresses: %w", err))
		}
	}
	if strings.ContainsAny(c.Prefix, "{} \n") {
		errs = append(errs, fmt.Errorf("prefix: expected a name without braces and spaces, found %q: use letters and digits", c.Prefix))
	}
	if c.Timeout < 0 || c.StartWait < 0 {
		errs = append(errs, errors.New("timeout, start_wait: expected a positive duration: remove the minus sign"))
	}
	return errors.Join(errs...)
}

type address struct {
	hostPort, username, password string
	tls                          bool
}

func parseAddress(text string) (address, error) {
	full := text
	if !strings.Contains(full, "://") {
		full = "redis://" + full
	}
	u, err := url.Parse(full)
	// The text may hold a password, so it is not part of the message.
	if err != nil || strings.Count(full, "@") > 1 || u.Hostname() == "" || (u.Scheme != "redis" && u.Scheme != "rediss") ||
		strings.Trim(u.Path, "/") != "" {
		return address{}, errors.New("expected host:port, redis://:password@host:port or rediss://…, without a path; " +
			"@ : / ? # % in the password are written %40 %3A %2F %3F %23 %25")
	}
	a := address{hostPort: u.Host, username: u.User.Username(), tls: u.Scheme == "rediss"}
	a.password, _ = u.User.Password()
	if u.Port() == "" {
		a.hostPort += ":6379"
	}
	return a, nil
}

func (c *Config) withDefaults() {
	if c.Prefix == "" {
		c.Prefix = "lyceum"
	}
	if c.Timeout == 0 {
		c.Timeout = conf.Duration(time.Second)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// options are the client library's options for the configuration.
func (c *Config) options() (rueidis.ClientOption, error) {
	if err := c.Validate(); err != nil {
		return rueidis.ClientOption{}, err
	}
	if len(c.Addresses) == 0 {
		return rueidis.ClientOption{}, errors.New("addresses: expected at least one address of a Redis server: add host:port")
	}
	opt := rueidis.ClientOption{
		Username: c.Username, Password: c.Password.Reveal(),
		DisableCache: true,
		// A repeated PUBLISH could overtake a later one, so a failed command is never repeated.
		DisableRetry: true,
		// The deadline of one caller must not close the connection under the others.
		AlwaysPipelining:    true,
		PipelineMultiplex:   -1, // one connection
		BlockingPoolSize:    4,
		ReadBufferEachConn:  128 << 10,
		WriteBufferEachConn: 128 << 10,
		ConnWriteTimeout:    3 * time.Second,
	}
	opt.Dialer.Timeout = 2 * time.Second
	opt.Dialer.KeepAlive = time.Second
	secure := c.TLS
	for _, text := range c.Addresses {
		a, err := parseAddress(text)
		if err != nil {
			return opt, err
		}
		opt.InitAddress = append(opt.InitAddress, a.hostPort)
		secure = secure || a.tls
		if opt.Password == "" {
			opt.Username, opt.Password = a.username, a.password
		}
	}
	if secure {
		opt.TLSConfig = c.TLSConfig
		if opt.TLSConfig == nil {
			opt.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	}
	if c.Master != "" {
		opt.Sentinel = rueidis.SentinelOption{
			MasterSet: c.Master, Password: c.SentinelPassword.Reveal(), Dialer: opt.Dialer, TLSConfig: opt.TLSConfig,
			TopologyRefreshInterval: 5 * time.Second,
		}
	}
	return opt, nil
}
