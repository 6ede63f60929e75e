package accounts

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"lyceum/matrix"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/rpc"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the schema of the package.
func Migrations() db.Migrations { return db.Migrations{Domain: "accounts", Files: migrations} }

// ProfileListener is notified of a changed profile after it is stored. field is "displayname", "avatar_url" or another name. The
// listener updates the user's rooms with the first two.
type ProfileListener interface {
	ProfileChanged(ctx context.Context, userID, field string) error
}

// DeviceListener is notified of new and removed devices. A notification may be repeated.
type DeviceListener interface {
	// DeviceAdded is called after a device was created, or a user logged in with one that may have existed. The request is
	// answered afterwards, with its error.
	DeviceAdded(ctx context.Context, userID, deviceID string) error
	// DevicesRemoved is called after devices and their tokens were deleted, to delete all their data. It must not touch a device
	// that exists: a log-in with the id of a removed device waits until this was done once, but a repeated call may come later.
	DevicesRemoved(ctx context.Context, userID string, deviceIDs []string) error
}

// UserListener is notified of a deactivated user: it leaves rooms and deletes data of the user. It is called until it returns nil,
// so calls may be repeated.
type UserListener interface {
	UserDeactivated(ctx context.Context, userID string, erase bool) error
}

// RemoteProfiles finds profiles of users of other servers. A *matrix.Error is shown to the client. Nothing implements it before there
// is federation: other servers' users have no profile then.
type RemoteProfiles interface {
	RemoteProfile(ctx context.Context, userID string) (map[string]json.RawMessage, error)
}

// Appservices says what application services may do with users. Nothing implements it before there are application services.
type Appservices interface {
	// Exclusive reports whether an application service has the user id in an exclusive namespace.
	Exclusive(userID string) bool
	// ByToken returns the id of the application service of an as_token.
	ByToken(token string) (id string, ok bool)
	// Owns reports whether the user id is the service's sender or in its namespaces.
	Owns(id, userID string) bool
}

// Deps are the dependencies of the package. Only Process is required.
type Deps struct {
	Process        *role.Process
	Now            func() time.Time // the clock; nil is obs.Now
	Limits         bus.Limits       // counts wrong passwords for the whole fleet; nil: in this process only
	UnderWay       *web.UnderWay    // requests that the server of this process runs; nil: a removal of tokens does not wait for them
	Profile        ProfileListener
	Devices        []DeviceListener
	Users          []UserListener
	RemoteProfiles RemoteProfiles // nil: without federation
	Appservices    Appservices    // nil: without application services
}

// Accounts is the domain. It is safe for concurrent use.
type Accounts struct {
	deps        Deps
	config      Config
	db          *db.DB
	log         *slog.Logger
	now         func() time.Time
	hasher      *hasher
	secret      secretKey
	sessions    *sessions
	deviceUses  *deviceUses
	accountData *accountDataCache
	filters     *filters

	change    func(ctx context.Context, userID string, c sessionChange) (sessionResult, error)
	writeData func(ctx context.Context, userID string, w dataWrite) (dataResult, error)
}

// New opens the streams and starts the background parts. It does not read the database.
func New(d Deps, c Config) (*Accounts, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if d.Now == nil {
		d.Now = obs.Now
	}
	if d.Limits == nil {
		d.Limits = bus.NewLocalLimits()
	}
	a := &Accounts{deps: d, config: c, db: d.Process.DB, log: d.Process.Log.With("domain", "accounts"), now: d.Now}
	a.secret.db = a.db
	a.hasher = newHasher(c.Password)
	a.deviceUses = newDeviceUses()
	a.filters = newFilters(c.CacheFilters)
	a.sessions = newSessions(c.CacheTokens)
	a.sessions.stream = d.Process.Streams.Open(sessionStream.With(sessionStore{}, nil))
	a.sessions.stream.Subscribe(a.sessions.onRows)
	consumer := followUpConsumer
	consumer.Stream, consumer.Read, consumer.Work = a.sessions.stream, readFollowUps, a.handleFollowUps
	d.Process.Streams.Consume(consumer)
	a.change = role.Owned(d.Process, a.sessions.stream, "accounts.sessions", a.changeAtOwner)
	if d.Process.RPC != nil {
		rpc.Handle(d.Process.RPC, underWayMethod, func(ctx context.Context, userID string) (struct{}, error) {
			return struct{}{}, a.awaitUnderWayHere(ctx, userID)
		})
	}
	a.accountData = newAccountDataCache(a.db, c.CacheUsers, int64(c.CacheData))
	a.accountData.stream = d.Process.Streams.Open(dataStream.With(dataStore{}, nil))
	a.accountData.stream.Subscribe(a.accountData.onRows)
	a.writeData = role.Owned(d.Process, a.accountData.stream, "accounts.account_data", a.writeAtOwner)
	d.Process.Go("accounts.seen", a.writeDeviceUses)
	d.Process.Singleton("accounts.housekeeping", a.housekeeping)
	return a, nil
}

// Sessions is the stream of changed sessions. The key of a row is the user id.
func (a *Accounts) Sessions() *stream.Stream { return a.sessions.stream }

// DataStream is the stream of account data.
func (a *Accounts) DataStream() *stream.Stream { return a.accountData.stream }

// ServerName is the name of this server, which its user ids have after the colon.
func (a *Accounts) ServerName() string { return a.config.ServerName }

// Local reports whether the user id belongs to this server. The user need not exist.
func (a *Accounts) Local(userID string) bool {
	return matrix.ServerOf(userID) == a.config.ServerName && matrix.ValidUserID(userID)
}

func (a *Accounts) nowMs() int64 { return a.now().UnixMilli() }

// userID returns the user id of a localpart, or of a user id of this server, in lower case. Errors: M_INVALID_USERNAME.
func (a *Accounts) userID(name string) (string, error) {
	if name == "." || name == ".." { // clients put user ids into paths
		return "", matrix.InvalidUsername("A user name is neither . nor ..")
	}
	id, err := matrix.NewUserID(name, a.config.ServerName)
	if err != nil {
		return "", matrix.InvalidUsername("A user name has the characters a-z, 0-9 and . _ = - / +, and with the server's name at " +
			"most 255 bytes").
			With(err)
	}
	return id, nil
}

var errNoUser = errors.New("no such user")

func noUser(userID string) error { return fmt.Errorf("%w: %s", errNoUser, userID) }
