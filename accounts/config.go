package accounts

import (
	"fmt"
	"net/url"
	"time"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/conf"
)

// The modes of registration.
const (
	OpenRegistration   = "open"
	TokenRegistration  = "token"
	ClosedRegistration = "closed"
)

// Config is the section "accounts" of the configuration.
type Config struct {
	ServerName         string          `yaml:"-"` // set by the fleet
	Registration       string          `yaml:"registration" default:"token" oneof:"open|token|closed" help:"Who may register: open (anyone), token (with a registration token), closed (nobody)."`
	Guests             bool            `yaml:"guests" help:"Whether anyone may be here as a guest, without a password, in rooms that let guests in."`
	SharedSecret       conf.Secret     `yaml:"shared_secret" help:"Secret of POST /_synapse/admin/v1/register; empty turns it off."`
	DefaultDisplayName bool            `yaml:"default_display_name" default:"true" help:"A new user has the local part of the user id as display name."`
	Terms              map[string]Term `yaml:"terms" help:"Documents a new user must accept, by id."`
	Password           PasswordConfig  `yaml:"password" help:"Rules and costs of passwords."`

	AccessTokenLife    conf.Duration `yaml:"access_token_life" default:"1h" help:"Life of an access token of a client that can refresh it."`
	FixedTokenLife     conf.Duration `yaml:"fixed_token_life" default:"0s" help:"Life of an access token of a client that can not refresh it; 0s is for ever."`
	RefreshTokenLife   conf.Duration `yaml:"refresh_token_life" default:"0s" help:"Life of a refresh token; 0s is for ever."`
	InteractiveTimeout conf.Duration `yaml:"interactive_timeout" default:"30m" help:"Time a user has to finish the steps of an interactive authentication."`

	CacheTokens  int       `yaml:"cache_tokens" default:"100000" help:"Access tokens remembered in each process."`
	CacheUsers   int       `yaml:"cache_users" default:"10000" help:"Users whose account data each process remembers."`
	CacheData    conf.Size `yaml:"cache_data" default:"256MiB" min:"1MiB" help:"Memory of each process for this account data."`
	CacheFilters int       `yaml:"cache_filters" default:"10000" help:"Filters remembered in each process, in 1 KiB each: longer ones count for more."`

	WellKnown WellKnown `yaml:"well_known" help:"What /.well-known/matrix tells."`

	PasswordRates PasswordRates `yaml:"-"` // set by the fleet

	DefaultRoomVersion string `yaml:"-"` // set by the fleet: of rooms that are created without a version
}

// PasswordConfig has the rules for passwords and the costs of hashing them.
type PasswordConfig struct {
	MinLength int    `yaml:"min_length" default:"8" min:"1" help:"Shortest new password, in characters."`
	MemoryKiB uint32 `yaml:"memory_kib" default:"19456" min:"64" help:"Memory of one argon2id hash in KiB."`
	Passes    uint32 `yaml:"passes" default:"2" min:"1" help:"Passes of one argon2id hash."`
	Workers   int    `yaml:"workers" default:"0" help:"Hashes made at once; 0 is half the cores, at least one."`
	Waiting   int    `yaml:"waiting" default:"200" help:"Hashes that may wait for a worker before requests are refused."`
}

// Term is one document of m.login.terms.
type Term struct {
	Version string            `yaml:"version" help:"Version of the document."`
	Texts   map[string]TermIn `yaml:"texts" help:"The document by language code, for example en."`
}

// TermIn is a document in one language.
type TermIn struct {
	Name string `yaml:"name" json:"name" help:"Title of the document."`
	URL  string `yaml:"url" json:"url" help:"Where it can be read."`
}

// WellKnown is the content of the files under /.well-known/matrix. Empty parts are not served.
type WellKnown struct {
	Client         string          `yaml:"client" help:"Base URL of the client API, for example https://matrix.example.org."`
	Server         string          `yaml:"server" help:"Name and port of the federation API, for example matrix.example.org:443."`
	IdentityServer string          `yaml:"identity_server" help:"Base URL of an identity server."`
	Support        string          `yaml:"support" help:"URL of a support page."`
	Contacts       []SupportPerson `yaml:"contacts" help:"Whom to ask."`
}

// SupportPerson is a contact of /.well-known/matrix/support.
type SupportPerson struct {
	Role   string `yaml:"role" json:"role" help:"m.role.admin, m.role.security or a namespaced word."`
	Matrix string `yaml:"matrix_id" json:"matrix_id,omitempty" help:"A user id."`
	Email  string `yaml:"email_address" json:"email_address,omitempty" help:"An e-mail address."`
}

// Validate refuses values that can not work. Package conf calls it.
func (c *Config) Validate() error {
	for id, term := range c.Terms {
		if len(term.Texts) == 0 {
			return fmt.Errorf("terms.%s: expected a text in at least one language, found none: add texts.en with name and url", id)
		}
		if _, clash := term.Texts["version"]; clash {
			return fmt.Errorf("terms.%s.texts: expected language codes, found \"version\": it belongs beside texts", id)
		}
	}
	for key, text := range map[string]string{
		"client": c.WellKnown.Client, "identity_server": c.WellKnown.IdentityServer, "support": c.WellKnown.Support,
	} {
		u, err := url.Parse(text)
		if text != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
			return fmt.Errorf("well_known.%s: expected a URL such as https://matrix.example.org, found %q", key, text)
		}
	}
	return nil
}

// check sets defaults and refuses values that can not work.
func (c *Config) check() error {
	if !matrix.ValidServerName(c.ServerName) {
		return fmt.Errorf("server name: expected a host name, found %q", c.ServerName)
	}
	switch c.Registration {
	case "":
		c.Registration = TokenRegistration
	case OpenRegistration, TokenRegistration, ClosedRegistration:
	default:
		return fmt.Errorf("accounts.registration: expected open, token or closed, found %q", c.Registration)
	}
	if err := c.Validate(); err != nil {
		return err
	}
	setDefault(&c.DefaultRoomVersion, event.DefaultVersion)
	setDefault(&c.Password.MinLength, 8)
	setDefault(&c.Password.MemoryKiB, 19456)
	setDefault(&c.Password.Passes, 2)
	setDefault(&c.Password.Waiting, 200)
	setDefault(&c.AccessTokenLife, conf.Duration(time.Hour))
	setDefault(&c.InteractiveTimeout, conf.Duration(30*time.Minute))
	setDefault(&c.CacheTokens, 100_000)
	setDefault(&c.CacheUsers, 10_000)
	setDefault(&c.CacheData, 256<<20)
	setDefault(&c.CacheFilters, 10_000)
	return nil
}

func setDefault[T comparable](at *T, value T) {
	var zero T
	if *at == zero {
		*at = value
	}
}
