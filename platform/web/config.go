package web

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"lyceum/platform/conf"
)

// Config is the section "http" of the configuration.
type Config struct {
	MaxBody         conf.Size            `yaml:"max_body" default:"1MiB" min:"1KiB" help:"Bytes of a JSON body, where a route sets no other limit."`
	BodyTimeout     conf.Duration        `yaml:"body_timeout" default:"60s" help:"Time a client has to send each 64 KiB of a JSON body."`
	SendTimeout     conf.Duration        `yaml:"send_timeout" default:"20s" min:"100ms" help:"Time a client has to take each 64 KiB of an answer."`
	MaxInFlight     conf.Size            `yaml:"max_in_flight" default:"256MiB" min:"16MiB" help:"Bytes of large bodies and answers that a process holds for clients that send or read slowly, and of what it makes of bodies, which is half at most; one user holds an eighth at most, or one answer, and a quarter is for users who hold none. Above half of it, slow readers are cut after two seconds; when it is used up, whoever holds the most."`
	HeaderTimeout   conf.Duration        `yaml:"header_timeout" default:"20s" help:"Time a client has to send the head of a request."`
	IdleTimeout     conf.Duration        `yaml:"idle_timeout" default:"120s" help:"Time a connection is kept without a request."`
	DrainDelay      conf.Duration        `yaml:"drain_delay" own:"true" default:"0s" help:"Time between not ready and the closing of the listener at the end, so that load balancers notice. 5s is good in Kubernetes."`
	ShutdownTimeout conf.Duration        `yaml:"shutdown_timeout" own:"true" default:"25s" help:"Time requests under way have to finish at the end."`
	Compress        bool                 `yaml:"compress" default:"true" help:"Compress JSON answers above 1 KiB with gzip when the client takes it."`
	TrustedProxies  []string             `yaml:"trusted_proxies" own:"true" help:"Addresses or networks (CIDR) of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."`
	RateLimitsOff   bool                 `yaml:"rate_limits_off" default:"false" help:"Turn all rate limits off. For load tests."`
	RateLimits      map[string]RateLimit `yaml:"rate_limits" help:"Rate limits by name: {per_second, burst}. A name that is not given keeps its default; per_second 0 turns one off. The names: admin, create, invite, join, keys, knock, login, media, message, openid, password, password_address, public, read, redaction, registration, report, search, sync, upload, write."`
}

// RateLimit lets Burst requests through at once and PerSecond in the long run, per user, or per client address
// where there is no user.
type RateLimit struct {
	PerSecond float64 `yaml:"per_second" help:"Requests per second in the long run; 0 is no limit."`
	Burst     int     `yaml:"burst" help:"Requests at once."`
}

// Times is a limit of so many times as much.
func (r RateLimit) Times(n int) RateLimit { return RateLimit{r.PerSecond * float64(n), r.Burst * n} }

// DefaultRateLimits returns the limits that hold where the configuration says nothing.
func DefaultRateLimits() map[string]RateLimit {
	return map[string]RateLimit{
		"login": {0.2, 10}, // log-ins, changed passwords

		// Wrong passwords, wherever one is checked: for one account from one address, twice that from a network (a /24, or a /48 of
		// IPv6) and four times that from all networks together, at which the owner has not logged in for long; and from one address for all
		// accounts.
		"password":         {0.01, 10},
		"password_address": {0.2, 30},

		"registration": {0.2, 5},  // accounts, availability of names, e-mail validation
		"message":      {2, 30},   // events sent
		"redaction":    {2, 30},   // events taken back
		"join":         {0.5, 15}, // joins and knocks: each may cost a room's whole state
		"invite":       {0.5, 15}, // invites disturb others
		"create":       {0.2, 10}, // rooms
		"write":        {5, 60},   // small settings: receipts, typing, account data, profile
		"read":         {20, 200}, // cheap reads
		"sync":         {10, 100}, // long polls
		"search":       {1, 15},   // full text, user directory, hierarchy
		"keys":         {10, 100}, // device keys, backup, to-device messages
		"media":        {10, 100}, // downloads and thumbnails
		"upload":       {1, 30},   // media created and uploaded
		"report":       {0.1, 10}, // reports to the administrators
		"admin":        {50, 500}, // the operator's tools
		"knock":        {0.5, 15}, // kept apart from join, as servers often want it stricter
		"openid":       {0.5, 10}, // OpenID tokens
		"public":       {20, 200}, // versions, well-known, static pages, without a token
	}
}

// Validate says what is wrong with proxies and rate limits.
func (c *Config) Validate() error {
	var errs []error
	for _, text := range c.TrustedProxies {
		if _, err := parsePrefix(text); err != nil {
			errs = append(errs, fmt.Errorf("trusted_proxies: expected an address or a network such as 10.0.0.0/8, found %q: %w", text, err))
		}
	}
	known := DefaultRateLimits()
	for name, rate := range c.RateLimits {
		if _, ok := known[name]; !ok {
			errs = append(errs, fmt.Errorf("rate_limits: expected one of %s, found %q", strings.Join(slices.Sorted(maps.Keys(known)), ", "), name))
		}
		if rate.PerSecond < 0 || rate.Burst < 0 {
			errs = append(
				errs,
				fmt.Errorf("rate_limits: %s: expected numbers of 0 or more, found per_second %g, burst %d", name, rate.PerSecond, rate.Burst),
			)
		}
	}
	return errors.Join(errs...)
}

// Rate is the rate limit of a name as the configuration has it; the zero value when it is off.
func (c Config) Rate(name string) RateLimit {
	rate, ok := c.RateLimits[name]
	if !ok {
		rate = DefaultRateLimits()[name]
	}
	if c.RateLimitsOff {
		return RateLimit{}
	}
	return rate
}

// withDefaults fills zero sizes and times, so that a Config made in a test need not name them.
func (c Config) withDefaults() Config {
	if c.MaxBody <= 0 {
		c.MaxBody = 1 << 20
	}
	if c.MaxInFlight <= 0 {
		c.MaxInFlight = 256 << 20
	}
	for _, field := range []struct {
		value *conf.Duration
		def   time.Duration
	}{
		{&c.BodyTimeout, time.Minute},
		{&c.SendTimeout, 20 * time.Second},
		{&c.HeaderTimeout, 20 * time.Second},
		{&c.IdleTimeout, 2 * time.Minute},
		{&c.ShutdownTimeout, 25 * time.Second},
	} {
		if *field.value <= 0 {
			*field.value = conf.Duration(field.def)
		}
	}
	return c
}

// parsePrefix reads a network, or an address as a network of one.
func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		prefix, err := netip.ParsePrefix(text)
		return prefix.Masked(), err
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}
