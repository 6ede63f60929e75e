package presence

import (
	"context"
	"embed"
	"encoding/json"
	"strconv"
	"time"

	"lyceum/matrix"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/platform/owned"
	"lyceum/platform/role"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the schema of the package.
func Migrations() db.Migrations { return db.Migrations{Domain: "presence", Files: migrations} }

// Shards is the number of shards of the stream; it never changes in the life of a database.
const Shards = 8

// The states of a user (client-server API, "Presence").
const (
	Online      = "online"
	Unavailable = "unavailable"
	Offline     = "offline"
)

// Config is the section "presence".
type Config struct {
	Enabled      bool          `yaml:"enabled" default:"true" help:"Whether the server tells users who is online."`
	IdleAfter    conf.Duration `yaml:"idle_after" default:"5m" help:"Time without activity after which an online user is shown as unavailable."`
	OfflineAfter conf.Duration `yaml:"offline_after" default:"60s" help:"Time after which a device that sends no request is gone. Longer than the time between two syncs of a client."`
}

// Status is the presence of a user. It is shared: nobody changes it.
type Status struct {
	UserID     string `json:"user"`
	Presence   string `json:"presence"`
	StatusMsg  string `json:"msg,omitempty"`
	LastActive int64  `json:"active"` // ms since 1970; 0 when never
	// CurrentlyActive says that LastActive is not kept up to date while the user stays online.
	CurrentlyActive bool  `json:"-"`
	Pos             int64 `json:"-"` // in the shard of the user
}

// Deps is what the package is given.
type Deps struct {
	Process *role.Process
	Rooms   *rooms.Rooms
	Now     func() time.Time // the clock; nil is obs.Now
}

// ownerMemory is the memory of an owner for its users, in bytes: about 100,000 users.
const ownerMemory = 96 << 20

// Presence is the package's one object.
type Presence struct {
	Deps
	config        Config
	stream        *stream.Stream
	local         [stripes]stripe
	pending       chan string // users whose owner is to be told
	owned         *owned.Owned[ownedUser]
	reportToOwner func(ctx context.Context, userID string, r ownerReport) (struct{}, error)
}

// New opens the stream and the background parts.
func New(d Deps, c Config) *Presence {
	if d.Now == nil {
		d.Now = obs.Now
	}
	if c.IdleAfter <= 0 {
		c.IdleAfter = conf.Duration(5 * time.Minute)
	}
	if c.OfflineAfter <= 0 {
		c.OfflineAfter = conf.Duration(time.Minute)
	}
	p := &Presence{Deps: d, config: c, pending: make(chan string, maxWaiting)}
	p.owned = owned.OpenStream(d.Process.Streams, presenceStream, store{}, owned.Spec[ownedUser]{
		Load: p.load, Active: p.onlineUsers, Budget: ownerMemory, Bytes: (*ownedUser).bytes, Pinned: (*ownedUser).isTracked,
	})
	p.stream = p.owned.Stream()
	p.reportToOwner = role.Owned(d.Process, p.stream, "presence.report", p.reportAtOwner)
	if c.Enabled {
		d.Rooms.Stream().Subscribe(p.noteSenders, "sync") // where Seen is called
		d.Process.Go("presence.tell", p.sendReports)
		d.Process.Go("presence.watch", p.watch)
	}
	return p
}

// Stream is the stream of presence; FromRow reads its rows.
func (p *Presence) Stream() *stream.Stream { return p.stream }

// FromRow gives the status of a row, wherever it was written.
func FromRow(row stream.Row) (*Status, error) {
	return stream.ValueOf(row, func(s *Status) { s.CurrentlyActive, s.Pos = s.Presence == Online, row.Pos })
}

// Content is the content of an m.presence event at a time; also the answer of GET presence status.
func Content(s *Status, now time.Time) json.RawMessage {
	b := append(make([]byte, 0, 128+len(s.StatusMsg)), `{"presence":`...)
	b = matrix.AppendString(b, s.Presence)
	if s.LastActive > 0 {
		b = append(b, `,"last_active_ago":`...)
		b = strconv.AppendInt(b, max(0, now.UnixMilli()-s.LastActive), 10)
	}
	if s.Presence == Online {
		b = append(b, `,"currently_active":`...)
		b = strconv.AppendBool(b, s.CurrentlyActive)
	}
	if s.StatusMsg != "" {
		b = append(b, `,"status_msg":`...)
		b = matrix.AppendString(b, s.StatusMsg)
	}
	return append(b, '}')
}

// Set sets the state and the message of a user as one of the user's devices asks; a nil message stays.
func (p *Presence) Set(ctx context.Context, userID, deviceID, state string, message *string) error {
	if !p.config.Enabled {
		return nil
	}
	report := ownerReport{Devices: []deviceState{{ID: deviceID, State: state}}, Message: message, Active: state == Online}
	_, err := p.reportToOwner(ctx, userID, report)
	return err
}

// Content is the function Content as a method, for callers with an interface.
func (p *Presence) Content(s *Status, now time.Time) json.RawMessage { return Content(s, now) }
