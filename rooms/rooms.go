package rooms

import (
	"cmp"
	"embed"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/owned"
	"lyceum/platform/role"
	"lyceum/platform/stream"
	"lyceum/rooms/state"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the tables of this package.
func Migrations() db.Migrations { return db.Migrations{Domain: "rooms", Files: migrations} }

// Shards is the number of shards of the events stream; it never changes in the life of a database.
const Shards = 16

// Config is the section "rooms".
type Config struct {
	DefaultVersion string    `yaml:"default_version" default:"11" help:"Version of new rooms whose client asks for none: 1 to 12."`
	EventCache     int       `yaml:"event_cache" default:"20000" help:"Events that a process keeps in memory."`
	OwnerMemory    conf.Size `yaml:"owner_memory" default:"256MiB" help:"Memory for the newest state of the rooms whose events this process orders."`
	MaxCreateUsers int       `yaml:"max_create_invites" default:"200" help:"Most users invited while a room is created."`
}

// Validate checks the values.
func (c *Config) Validate() error {
	if _, ok := event.VersionByID(c.DefaultVersion); !ok {
		return fmt.Errorf("rooms.default_version is %q: expected one of 1 to 12", c.DefaultVersion)
	}
	return nil
}

// Deps is what the package is given.
type Deps struct {
	Process    *role.Process
	Accounts   *accounts.Accounts
	ServerName string
	Key        matrix.SigningKey // signs the events of this server's users
	// Limits of what the owner of a room keeps of it; 0 for the defaults in parentheses. Tests make them small.
	RecentEvents int // newest events (200)
	RecentTxns   int // newest transaction ids (2,000)
	CachedState  int // events of the state that were looked up (5,000)
	// ScanLimit is how many rows one request looks at for what it is asked (5,000); it answers with what it found and where to go on.
	ScanLimit int
	// PageBytes are those of the events of one answer (2 MiB); the last of them may go beyond.
	PageBytes int
	// FinishInterval is how often unfinished upgrades, and memberships of old profiles, are looked for, and about how long the process
	// that began an upgrade has for it; 0 for 3 s.
	FinishInterval time.Duration
}

// Rooms is the package's one object.
type Rooms struct {
	Deps
	config        Config
	stream        *stream.Stream
	layout        *stream.Layout       // of what it reads of tokens of /sync
	redactionFeed *stream.Subscription // of redactions; while it is off, cache is not used
	nodes         *state.Store

	cache *otter.Cache[string, *Event]

	// replacers are the cached events that replaced others, by the ids of those: a redaction of one changes both.
	replacers   map[string]string
	replacersMu sync.Mutex

	cacheMu    sync.Mutex
	redactions atomic.Int64 // redactions seen, so that no text from before one is cached after it

	owned *owned.Owned[room]

	beforeOwnerCall func() // called before a request goes to the owner of a room; nil except in tests
}

// readers are the roles whose requests read so many events that their processes keep some in memory. Others read
// the database.
var readers = []string{"client", "sync", "events", "push", "admin"}

// New opens the events stream and registers the calls that its owners answer.
func New(d Deps, c Config) (*Rooms, error) {
	d.RecentEvents, d.RecentTxns, d.CachedState = cmp.Or(d.RecentEvents, 200), cmp.Or(d.RecentTxns, 2_000), cmp.Or(d.CachedState, 5_000)
	d.ScanLimit, d.PageBytes = cmp.Or(d.ScanLimit, 5_000), cmp.Or(d.PageBytes, pageBytes)
	d.FinishInterval = cmp.Or(d.FinishInterval, 3*time.Second)
	r := &Rooms{Deps: d, config: c, replacers: map[string]string{}, nodes: state.NewStore(nodeReader{d.Process.DB}, nodeMemory)}
	var err error
	if r.cache, err = r.newCache(c.EventCache); err != nil {
		return nil, err
	}
	r.stream = d.Process.Streams.Open(eventStream.With(eventStore{r}, func(shard int) { r.owned.Drop(shard) }))
	r.layout = stream.NewLayout(r.stream.Part(0))
	r.owned = owned.Open(owned.Spec[room]{
		Stream: r.stream, Load: r.loadRoom, Bytes: (*room).memory, Budget: max(c.OwnerMemory.Bytes(), 16<<20), Strict: true,
	})
	r.redactionFeed = r.stream.Subscribe(r.dropRedacted, readers...)
	role.HandleOwned(d.Process, r.stream, sendCall, r.appendEvent)
	role.HandleOwned(d.Process, r.stream, createCall, r.appendFirstEvents)
	d.Process.Singleton("rooms.upgrades", r.finishUpgrades)
	d.Process.Singleton("rooms.profiles", r.renewProfiles)
	return r, nil
}

// Stream is the events stream. The Value of its rows, where set, is an *Event; elsewhere Decode reads
// their Data.
func (r *Rooms) Stream() *stream.Stream { return r.stream }

// Tree gives the state with a root; it is read as it is used.
func (r *Rooms) Tree(root state.ID) state.Tree { return state.Open(root, r.nodes) }
