package push

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"net/netip"
	"sync"
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

// Receipts is what the package hears of what users have read. *receipts.Receipts implements it.
type Receipts interface {
	Stream() *stream.Stream
	// ReadRow tells what a row of the stream says of how far a user has read.
	ReadRow(row stream.Row) (roomID, userID, threadID string, eventPos int64, ok bool)
	// ReadUpTo gives positions in the events stream by thread id, "" for unthreaded receipts.
	ReadUpTo(ctx context.Context, userID, roomID string) (map[string]int64, error)
}

// Deps is what the package is given.
type Deps struct {
	Process  *role.Process
	Accounts *accounts.Accounts
	Rooms    *rooms.Rooms
	Receipts Receipts
	Now      func() time.Time // the clock of what is stored; nil is obs.Now. Who waits does so in real time.
}

// Push is the package's one object.
type Push struct {
	Deps
	config        Config
	maxBatch      int // lower in tests
	events        *stream.Stream
	rules         ruleCache
	counts        counts
	sender        senderState
	slots         sendSlots
	badges        badges
	sendContext   context.Context // of what is sent
	stopSends     context.CancelFunc
	sends         bool // this process sends notifications
	gateway       gateway
	subscriptions [2]*stream.Subscription // what unread counts follow
	change        func(ctx context.Context, userID string, c ruleChange) (struct{}, error)
}

// New registers the tails and the background part of the role.
func New(d Deps, c Config) (*Push, error) {
	if d.Now == nil {
		d.Now = obs.Now
	}
	if c.GiveUpAfter <= 0 {
		c.GiveUpAfter = conf.Duration(24 * time.Hour)
	}
	p := &Push{Deps: d, config: c, maxBatch: maxBatch, events: d.Rooms.Stream(), sends: d.Process.Leases.Self().Has("push")}
	p.rules.users = map[string]*userRules{}
	p.counts.rooms, p.counts.maxBytes = map[string]*roomLog{}, cmp.Or(c.CountMemory.Bytes(), 128<<20)
	p.gateway = newGateway(c)
	p.sender.init()
	p.slots.init()
	p.badges.init()
	p.sendContext, p.stopSends = context.WithCancel(context.Background())
	p.change = role.Owned(d.Process, d.Accounts.DataStream(), "push.rules", p.changeHere)
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

const typeRules = "m.push_rules"

// ruleCache remembers the rules of users.
type ruleCache struct {
	mu      sync.RWMutex
	users   map[string]*userRules
	changes int64 // how often rules changed: what was read before may be stale
}

type userRules struct {
	compiled *Rules
	stored   json.RawMessage // nothing for most users
}

// rulesOf gives the rules of a user.
func (p *Push) rulesOf(ctx context.Context, userID string) (*userRules, error) {
	c := &p.rules
	c.mu.RLock()
	u, moved := c.users[userID], c.changes
	c.mu.RUnlock()
	if u != nil {
		return u, nil
	}
	raw, err := p.Accounts.AccountData(ctx, userID, "", typeRules)
	if err != nil {
		return nil, err
	}
	u = &userRules{compiled: Compile(userID, raw), stored: raw}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == moved {
		if len(c.users) >= max(p.config.RuleCache, 100) {
			for id := range c.users { // any
				delete(c.users, id)
				break
			}
		}
		c.users[userID] = u
	}
	return u, nil
}

// Ruleset gives all rules of a user as clients see them: {"global": …}.
func (p *Push) Ruleset(ctx context.Context, userID string) (json.RawMessage, error) {
	u, err := p.rulesOf(ctx, userID)
	if err != nil {
		return nil, err
	}
	return merge(userID, u.stored).encode(), nil
}

// rulesChanged is a tail of the stream of account data.
func (p *Push) rulesChanged(rows []stream.Row) {
	for _, row := range rows {
		typ := typeRules // what can not be told is taken as a change
		if datum, ok := row.Value.(*accounts.AccountDatum); ok {
			typ = datum.Type
		} else if row.Data != nil {
			var datum struct {
				Type string `json:"type"`
			}
			if json.Unmarshal(row.Data, &datum) == nil {
				typ = datum.Type
			}
		}
		if typ != typeRules {
			continue
		}
		p.rules.mu.Lock()
		p.rules.changes++
		delete(p.rules.users, row.Key)
		p.rules.mu.Unlock()
	}
}
