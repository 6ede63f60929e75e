package devices

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"lyceum/accounts"
	"lyceum/platform/db"
	"lyceum/platform/role"
	"lyceum/platform/stream"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the schema of the package.
func Migrations() db.Migrations { return db.Migrations{Domain: "devices", Files: migrations} }

// SharedRooms knows which users share rooms.
type SharedRooms interface {
	// SharedRoomChanges compares two tokens of /sync. met are the users who share a room with userID at the later token, and did
	// not at the first one or are in changed; parted are those who shared a room at the first token and share none at the later
	// one. Both are sorted. Errors are shown to the client.
	SharedRoomChanges(ctx context.Context, userID, from, to string, changed []string) (met, parted []string, err error)
}

// Deps are the dependencies of the package. Process, Accounts and Now are required.
type Deps struct {
	Process  *role.Process
	Accounts *accounts.Accounts
	Now      func() time.Time // the clock
	// SharedRooms is needed for GET /keys/changes, which has a route only if it is set.
	SharedRooms SharedRooms
}

// Config is the section "devices" of the configuration.
type Config struct {
	CacheDevices  int `yaml:"cache_devices" default:"100000" help:"Devices for which each process remembers whether messages wait and the numbers of keys, in at most 1 KiB each."`
	RecentChanges int `yaml:"recent_changes" default:"4096" help:"Changes of device lists that each process remembers, per shard."`
}

func (c *Config) check() error {
	if c.CacheDevices < 0 || c.RecentChanges < 0 {
		return fmt.Errorf("devices: expected sizes of 0 or more, found %d and %d", c.CacheDevices, c.RecentChanges)
	}
	if c.CacheDevices == 0 {
		c.CacheDevices = 100_000
	}
	if c.RecentChanges == 0 {
		c.RecentChanges = 4096
	}
	return nil
}

// Devices is the domain. It is safe for concurrent use.
type Devices struct {
	deps     Deps
	accounts *accounts.Accounts
	db       *db.DB
	log      *slog.Logger
	now      func() time.Time

	toDevice      *stream.Stream
	lists         *stream.Stream
	layout        *stream.Layout // of the part of /sync tokens that GET /keys/changes needs
	mailboxes     *mailboxes
	toDeviceRows  *stream.Subscription // feeds mailboxes, which are not used while it is inactive
	recentChanges *recentChanges
	deliveries    singleflight.Group // deliveries with a transaction id that run in this process

	deliver func(ctx context.Context, userID string, d Delivery) (struct{}, error)
	upload  func(ctx context.Context, userID string, u keyUpload) (KeyCounts, error)
	claim   func(ctx context.Context, userID string, c []claimRequest) ([]ClaimedKey, error)
	cleanUp func(ctx context.Context, userID string, g deviceCleanup) (cleanupResult, error)
	change  func(ctx context.Context, userID string, c listChange) (listResult, error)
}

// New opens the streams and starts the background parts. It does not read the database.
func New(d Deps, c Config) (*Devices, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	x := &Devices{deps: d, accounts: d.Accounts, db: d.Process.DB, log: d.Process.Log.With("domain", "devices"), now: d.Now}
	x.mailboxes = newMailboxes(c.CacheDevices)
	x.toDevice = d.Process.Streams.Open(toDeviceStream.With(toDeviceStore{}, nil))
	x.toDeviceRows = x.toDevice.Subscribe(x.mailboxes.onRows, "sync", "todevice", "client")
	x.deliver = role.Owned(d.Process, x.toDevice, "devices.deliver", x.deliverAtOwner)
	x.upload = role.Owned(d.Process, x.toDevice, "devices.upload", x.uploadAtOwner)
	x.claim = role.Owned(d.Process, x.toDevice, "devices.claim", x.claimAtOwner)
	x.cleanUp = role.Owned(d.Process, x.toDevice, "devices.drop", x.cleanUpAtOwner)
	x.lists = d.Process.Streams.Open(listStream.With(listStore{}, nil))
	x.layout = stream.NewLayout(x.lists.Part(0))
	x.recentChanges = newRecentChanges(x.lists.Shards(), c.RecentChanges)
	x.lists.Subscribe(x.recentChanges.onRows, "sync", "client")
	x.change = role.Owned(d.Process, x.lists, "devices.change", x.changeAtOwner)
	d.Process.Singleton("devices.housekeeping", x.housekeeping)
	return x, nil
}

// ToDeviceStream is the stream of to-device messages and of changed key counts. DecodeToDevice decodes its rows.
func (x *Devices) ToDeviceStream() *stream.Stream { return x.toDevice }

// DeviceListStream is the stream of changed device lists. DecodeDeviceList decodes its rows.
func (x *Devices) DeviceListStream() *stream.Stream { return x.lists }

func (x *Devices) nowMs() int64 { return x.now().UnixMilli() }

const maxName = 255 // bytes

// validName reports whether s, which a client sent, can be stored as a name.
func validName(s string) bool {
	return s != "" && len(s) <= maxName && !strings.Contains(s, "\x00")
}
