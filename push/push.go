package push

import (
	"cmp"
	"context"
	"embed"
	"net/netip"
	"time"

	"lyceum/accounts"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the schema of the package.
func Migrations() db.Migrations { return db.Migrations{Domain: "push", Files: migrations} }

// Config is the section "push".
type Config struct {
	CountCache   int            `yaml:"count_cache" default:"200000" min:"100" help:"Unread counts, of a user in a room, that a process keeps in memory."`
	CountMemory  conf.Size      `yaml:"count_memory" default:"128MiB" min:"1MiB" help:"Memory of a process for unread counts, and for the newest events of the rooms that they are of."`
	RuleCache    int            `yaml:"rule_cache" default:"50000" min:"100" help:"Users whose push rules a process keeps in memory."`
	AllowPrivate []netip.Prefix `yaml:"allow_private" help:"Private networks in which push gateways may be, for example 10.1.0.0/16. All others are refused."`
	AllowHTTP    bool           `yaml:"allow_http" default:"false" help:"Whether push gateways may be reached without TLS."`
	GiveUpAfter  conf.Duration  `yaml:"give_up_after" default:"24h" help:"Age at which a notification that no gateway took is dropped."`
}

// Receipts says what users have read. *receipts.Receipts implements it.
type Receipts interface {
	Stream() *stream.Stream
	// ReadRow returns up to which event a user has read, as a row of the stream says it.
	ReadRow(row stream.Row) (roomID, userID, threadID string, eventPos int64, ok bool)
	// ReadUpTo returns positions in the stream events by thread id, "" for unthreaded receipts.
	ReadUpTo(ctx context.Context, userID, roomID string) (map[string]int64, error)
}

// Deps are the parts of the process that the package uses.
type Deps struct {
	Process  *role.Process
	Accounts *accounts.Accounts
	Rooms    *rooms.Rooms
	Receipts Receipts
	Now      func() time.Time // the clock for times that are stored; nil is obs.Now. Timers run in real time.
}

// Push is the package's one object.
type Push struct {
	Deps
	config        Config
	maxBatch      int // the constant of this name; lower in tests
	events        *stream.Stream
	rules         ruleCache
	counts        counts
	sender        senderState
	slots         sendSlots
	badges        badges
	sendContext   context.Context // of all sends; ended by stopSends
	stopSends     context.CancelFunc
	sends         bool // this process has the role push
	gateway       gateway
	subscriptions [2]*stream.Subscription // from which unread counts are updated
	change        func(ctx context.Context, userID string, c ruleChange) (struct{}, error)
}

// New subscribes to the streams, and registers the consumer and the background parts of the role.
func New(d Deps, c Config) (*Push, error) {
	if d.Now == nil {
		d.Now = obs.Now
	}
	if c.GiveUpAfter <= 0 {
		c.GiveUpAfter = conf.Duration(24 * time.Hour) // the default of Config, for tests
	}
	p := &Push{Deps: d, config: c, maxBatch: maxBatch, events: d.Rooms.Stream(), sends: d.Process.Leases.Self().Has("push")}
	p.rules.init(max(c.RuleCache, 100))
	p.counts.rooms, p.counts.maxBytes = map[string]*roomLog{}, cmp.Or(c.CountMemory.Bytes(), 128<<20)
	p.gateway = newGateway(c)
	p.sender.init()
	p.slots.init()
	p.badges.init()
	p.sendContext, p.stopSends = context.WithCancel(context.Background())
	p.change = role.Owned(d.Process, d.Accounts.DataStream(), "push.rules", p.changeAtOwner)
	d.Accounts.DataStream().Subscribe(p.rulesChanged)
	p.subscriptions = [2]*stream.Subscription{
		d.Receipts.Stream().Subscribe(p.receiptsCame, "sync", "push"), p.events.Subscribe(p.eventsCame, "sync", "push"),
	}
	d.Process.Bus.Subscribe(pushersTopic, p.pushersChanged)
	consumer := notifications
	consumer.Stream, consumer.OnAssigned, consumer.Work, consumer.Periodic = p.events, p.sender.onAssigned, p.sendBatch, p.retryOutbox
	d.Process.Streams.Consume(consumer)
	d.Process.Go("push.sends", p.endSends)
	if p.sends {
		d.Process.Go("push.badges", p.sendBadges)
	}
	return p, nil
}
