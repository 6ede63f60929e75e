package directory

import (
	"embed"

	"github.com/maypok86/otter/v2"

	"lyceum/accounts"
	"lyceum/platform/db"
	"lyceum/platform/role"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the tables of this package.
func Migrations() db.Migrations { return db.Migrations{Domain: "directory", Files: migrations} }

// Config is the section "directory".
type Config struct {
	CacheSummaries int  `yaml:"cache_summaries" default:"5000" help:"Summaries of rooms that a process keeps in memory."`
	SearchAllUsers bool `yaml:"search_all_users" default:"false" help:"Whether people find all users of the server, also those they share no room with."`
}

// Deps is what the package is given.
type Deps struct {
	Process    *role.Process
	Accounts   *accounts.Accounts
	Rooms      *rooms.Rooms
	ServerName string
}

// Directory is the package's one object.
type Directory struct {
	Deps
	config    Config
	summaries *otter.Cache[summaryKey, rooms.Summary] // without room id and members
	listing   sharedRead[[]rooms.PublicRoom]
}

// summaryKey names a state of a room. A state never changes, except for redactions.
type summaryKey struct {
	root       state.ID
	redactions int64
}

// New adds the part that keeps the index.
func New(d Deps, c Config) (*Directory, error) {
	cache, err := otter.New(&otter.Options[summaryKey, rooms.Summary]{MaximumSize: max(c.CacheSummaries, 100)})
	if err != nil {
		return nil, err
	}
	x := &Directory{Deps: d, config: c, summaries: cache}
	consumer := index
	consumer.Stream, consumer.Work = d.Rooms.Stream(), x.indexRows
	d.Process.Streams.Consume(consumer)
	return x, nil
}
