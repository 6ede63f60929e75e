package lease

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"lyceum/platform/db"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations are the tables of this package.
func Migrations() db.Migrations { return db.Migrations{Domain: "lease", Files: migrations} }

// recentlySeen is how long after its last heartbeat a machine without a valid registration may still be running.
const recentlySeen = 24 * time.Hour

// MaxMachine is the largest machine id.
const MaxMachine = 1023

// ErrLost says that another process owns the lease now.
var ErrLost = fmt.Errorf("the lease was taken over by another process: %w", db.ErrFence)

// ErrHeld says that a live process has the machine id.
var ErrHeld = errors.New("the machine id is taken")

// Machine is one process of the fleet.
type Machine struct {
	ID          int
	Incarnation int64  // differs for every start of a process
	Address     string // of the internal listener, host:port
	Host        string // for people: host name and process id
	Version     string
	Roles       []string
	Starting    bool   // takes no work yet
	Draining    bool   // takes no new work
	Degraded    bool   // rows that it writes may not be on the bus
	Bus         string // the server of the bus that it is at; "" when that is not known
	Started     time.Time
	Metadata    string // only set in arguments of Options.Accept
}

// Has tells whether the machine runs a role; "all" stands for every one.
func (m Machine) Has(role string) bool {
	return slices.Contains(m.Roles, role) || slices.Contains(m.Roles, "all")
}

// Takes tells whether the machine runs a role and takes work of it now.
func (m Machine) Takes(role string) bool { return m.Has(role) && !m.Starting && !m.Draining }

// Lease is the right to write under a name while its epoch is the newest.
type Lease struct {
	Name  string
	Epoch int64
	Pos   int64 // the position that the last owner reached
}

// Holder is who held a lease when the view was last read.
type Holder struct {
	Machine     int
	Incarnation int64
	Epoch, Pos  int64
}

// DefaultTTL is the time after its last heartbeat at which a machine counts as dead. Package db ends idle transactions after the same time.
const DefaultTTL = 3 * time.Second

// Options says who this process is.
type Options struct {
	Machine  int // -1: any free id
	Address  string
	Host     string
	Version  string
	Roles    []string
	Embedded bool          // the only process there can be: no heartbeat, no expiry
	TTL      time.Duration // a machine without a heartbeat for so long is dead (DefaultTTL)
	Absence  time.Duration // a machine whose session is missing for so long is dead; before, it may open another (300 ms)
	Log      *slog.Logger
	Metadata string // what the others may read of this process; any text
	// Accept decides whether this process may join the live others; nobody else joins meanwhile. May be nil.
	Accept func(self Machine, others []Machine) error
	// Announce tells the other processes that a lease or a machine changed; may be nil.
	Announce func()
}

// Leases is this process's registration and its view of the fleet.
type Leases struct {
	db   *db.DB
	opts Options

	heartbeatMu   sync.Mutex // held during a heartbeat, so that the last one stores the newest state
	mu            sync.Mutex
	self          Machine
	machines      []Machine
	holders       map[string]Holder
	leaseChanged  map[string]time.Time // when this process took or released a lease; older readings do not know it
	viewAt        time.Time            // when the reading of the view began
	heartbeatAt   time.Time            // when the last heartbeat that arrived began
	anyDegraded   bool                 // another machine is degraded, or at another server of the bus
	busChangedAt  time.Time            // when this machine changed to its server of the bus
	heartbeats    int64                // heartbeats sent; guarded by heartbeatMu
	joinedAt      time.Time            // when this machine registered, or came back after its registration ran out: others may not know it yet
	knownToAllAt  time.Time            // when every other machine must have read of it
	required      []string             // the leases that the only member must have
	noOthers      bool                 // the view shows no other machine, alive or not, and the required leases here
	storedClaim   int64                // what this machine's row claims (claimColumn), at the time of the view
	claim         int64                // the value of that column that claims to be the only member; 0: no claim
	claimedAt     time.Time            // when the claim was stored
	dbClock       int64                // the database's clock in ms, at the time of the view
	dbClockAt     time.Time            // when dbClock was read
	clockJumpedAt time.Time            // when the database's clock was seen to jump
	degradedViews int64
	missingSince  map[int64]time.Time // machines whose sessions are gone, by incarnation, and since when
	suspects      map[int64]time.Time // incarnations whose connections broke, and when
	changed       chan struct{}
	wake          chan struct{}
}

// Open registers this process, which takes work after Ready. A configured machine id that a live process holds is refused
// with an error that names the holder.
func Open(ctx context.Context, d *db.DB, o Options) (*Leases, error) {
	if o.TTL == 0 {
		o.TTL = DefaultTTL
	}
	if o.Absence == 0 {
		o.Absence = 300 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Leases{
		db: d, opts: o, changed: make(chan struct{}), wake: make(chan struct{}, 1), holders: map[string]Holder{},
		leaseChanged: map[string]time.Time{}, suspects: map[int64]time.Time{},
	}
	l.self = Machine{
		Incarnation: time.Now().UnixNano(), Address: o.Address, Host: o.Host, Version: o.Version, Roles: o.Roles,
		Starting: !o.Embedded, Started: time.Now(),
	}
	if err := l.register(ctx); err != nil {
		return nil, err
	}
	return l, l.Refresh(ctx)
}

// now is the database's clock in ms: the clocks of machines may differ.
func (l *Leases) now(ctx context.Context, q db.Querier) (ms int64, err error) {
	if !l.db.Postgres() {
		return time.Now().UnixMilli(), nil
	}
	err = q.QueryRow(ctx, "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint").Scan(&ms)
	return ms, err
}

func (l *Leases) register(ctx context.Context) error {
	began, claim := time.Now(), int64(0)
	err := l.db.Tx(ctx, func(tx *db.Tx) error {
		claim = l.self.Incarnation
		if l.db.Postgres() {
			// Two processes that look for a free id at once must not find the same one.
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(7814991)"); err != nil {
				return err
			}
		}
		now, err := l.now(ctx, tx) // after the wait for the lock
		if err != nil {
			return err
		}
		id, err := l.chooseID(ctx, tx, now)
		if err != nil {
			return err
		}
		l.self.ID = id
		if err := l.accept(ctx, tx, now); err != nil {
			return err
		}
		// The process that had the id may be paused and still rely on its claim to be the only member, which is lost with its row.
		var holderMayClaim bool
		err = tx.QueryRow(ctx, "SELECT shares <> incarnation FROM machines WHERE id = $1 AND expires_ms <> 0 FOR UPDATE",
			int64(id)).Scan(&holderMayClaim)
		if err != nil && !errors.Is(err, db.ErrNoRows) {
			return err
		}
		if holderMayClaim {
			claim = 0
		}
		_, err = tx.Exec(ctx, `INSERT INTO machines (id, incarnation, address, host, version, roles, starting, draining, started_ms,
				expires_ms, facts, shares, beat)
			VALUES ($1, $2, $3, $4, $5, $6, $7, FALSE, $8, $9, $10, $11, 0) ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation,
			address = excluded.address, host = excluded.host, version = excluded.version, roles = excluded.roles,
			lock_run = '', starting = excluded.starting, draining = FALSE, mute = FALSE, bus = '', started_ms = excluded.started_ms,
			expires_ms = excluded.expires_ms,
			facts = excluded.facts, shares = excluded.shares, beat = 0`,
			int64(id), l.self.Incarnation, l.self.Address, l.self.Host, l.self.Version, strings.Join(l.self.Roles, ","), l.self.Starting,
			now, now+l.opts.TTL.Milliseconds(), l.opts.Metadata, claim)
		return err
	})
	l.storedClaim = claim
	if l.heartbeatAt = began; !l.opts.Embedded {
		l.noteJoined()
	}
	return err
}

// accept refuses a process that may not run together with the live others.
func (l *Leases) accept(ctx context.Context, tx *db.Tx, now int64) error {
	var others []Machine
	if !l.opts.Embedded {
		var err error
		if others, err = readOthers(ctx, tx, now, l.self.ID); err != nil {
			return err
		}
	}
	if err := l.checkMajor(ctx, tx, others); err != nil {
		return err
	}
	if l.opts.Accept == nil {
		return nil
	}
	return l.opts.Accept(l.self, others)
}

// chooseID returns the configured id, or else the lowest id that was never used, or else the id unused for longest: a
// process that wakes up after a long pause must not share its id with a new one.
func (l *Leases) chooseID(ctx context.Context, tx *db.Tx, now int64) (int, error) {
	used := map[int]int64{}
	hosts := map[int]string{}
	err := db.Each(func(row db.Row) error {
		var id int
		var host string
		var expires int64
		err := row.Scan(&id, &host, &expires)
		used[id], hosts[id] = expires, host
		return err
	})(tx.Query(ctx, "SELECT id, host, expires_ms FROM machines"))
	if err != nil {
		return 0, err
	}
	if l.opts.Embedded {
		return max(0, l.opts.Machine), nil
	}
	if id := l.opts.Machine; id >= 0 {
		if used[id] > now {
			return 0, fmt.Errorf("%w: %d is held by %s: give this process another id, or stop that one first", ErrHeld, id, hosts[id])
		}
		return id, nil
	}
	oldest, found := int64(0), -1
	for id := 0; id <= MaxMachine; id++ {
		expires, seen := used[id]
		if !seen {
			return id, nil
		}
		if expires < now && (found < 0 || expires < oldest) {
			oldest, found = expires, id
		}
	}
	if found < 0 {
		return 0, fmt.Errorf("all %d machine ids are held by live processes", MaxMachine+1)
	}
	return found, nil
}

// Self is this process.
func (l *Leases) Self() Machine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.self
}

// Machines are the live processes, by id, as last read.
func (l *Leases) Machines() []Machine {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.machines
}

// Machine finds a live process by id.
func (l *Leases) Machine(id int) (Machine, bool) {
	for _, m := range l.Machines() {
		if m.ID == id {
			return m, true
		}
	}
	return Machine{}, false
}

// statementTimeout bounds a statement about leases: a lost answer must not block a caller whose heartbeat goes on.
const statementTimeout = 10 * time.Second

// Holder tells who held a lease when the view was last read; not ok when nobody alive did.
func (l *Leases) Holder(name string) (Holder, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.holders[name]
	if !ok {
		return h, false
	}
	for _, m := range l.machines {
		if m.ID == h.Machine && m.Incarnation == h.Incarnation {
			return h, true
		}
	}
	return h, false
}

// Mine reports whether this process held a lease when the view was last read.
func (l *Leases) Mine(name string) bool {
	h, held := l.Holder(name)
	self := l.Self()
	return held && h.Machine == self.ID && h.Incarnation == self.Incarnation
}

// Changed is closed at the next change of the view.
func (l *Leases) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Wake makes Run read the view soon, because another process announced a change.
func (l *Leases) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Acquire takes those of the named leases that no other live process holds, and returns them. A lease that this
// process holds is granted again with a new epoch: it was given up after a failure. A machine that some processes may
// not know yet gets none: see WaitUntilKnown.
func (l *Leases) Acquire(ctx context.Context, names ...string) ([]Lease, error) {
	if len(names) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	if known, err := l.heartbeatUnlessKnown(ctx); err != nil || !known {
		return nil, err
	}
	names = slices.Sorted(slices.Values(names)) // all processes lock rows in the same order
	self := l.Self()
	var got []Lease
	err := l.db.Tx(ctx, func(tx *db.Tx) error {
		got = got[:0]
		if err := l.sameMajor(ctx, tx); err != nil {
			return err
		}
		rows := make([][]any, len(names))
		for i, name := range names {
			rows[i] = []any{name, int64(-1), int64(0), int64(0), int64(0)}
		}
		if err := tx.Bulk(ctx, "INSERT INTO leases (name, machine, incarnation, epoch, pos) VALUES ? ON CONFLICT (name) DO NOTHING",
			rows); err != nil {
			return err
		}
		held, err := lockLeases(ctx, tx, names)
		if err != nil {
			return err
		}
		live, err := l.liveIncarnations(ctx, tx)
		if err != nil {
			return err
		}
		var free []string
		for name, h := range held {
			holder, isLive := live[h.Machine]
			mine := h.Machine == self.ID && h.Incarnation == self.Incarnation
			if mine || !isLive || holder != h.Incarnation {
				free = append(free, name)
				got = append(got, Lease{name, h.Epoch + 1, h.Pos})
			}
		}
		_, err = tx.Exec(ctx, "UPDATE leases SET machine = $1, incarnation = $2, epoch = epoch + 1 WHERE name = ANY($3)",
			int64(self.ID), self.Incarnation, free)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !l.Alive() { // it was paused meanwhile: another process may be the only member by now
		return nil, nil
	}
	if len(got) > 0 {
		l.mu.Lock()
		for _, g := range got {
			l.holders[g.Name], l.leaseChanged[g.Name] = Holder{self.ID, self.Incarnation, g.Epoch, g.Pos}, time.Now()
		}
		l.notify()
		l.mu.Unlock()
		l.announce()
	}
	return got, nil
}

// lockLeases reads leases and locks their rows until the transaction ends. A condition on the machines in the same
// statement would not be checked again after a wait for another transaction.
func lockLeases(ctx context.Context, tx *db.Tx, names []string) (map[string]Holder, error) {
	return scanHolders(tx.Query(ctx,
		"SELECT name, machine, incarnation, epoch, pos FROM leases WHERE name = ANY($1) ORDER BY name FOR UPDATE", names))
}

// liveIncarnations are the incarnations of the live machines, by id.
func (l *Leases) liveIncarnations(ctx context.Context, tx *db.Tx) (map[int]int64, error) {
	if l.opts.Embedded {
		return map[int]int64{}, nil // every former holder is gone
	}
	now, err := l.now(ctx, tx)
	if err != nil {
		return nil, err
	}
	return db.Map[int, int64](tx.Query(ctx, "SELECT id, incarnation FROM machines WHERE expires_ms > $1 AND "+l.sessionExists(), now))
}

// Release gives leases back, so that the next owner need not wait for an expiry.
func (l *Leases) Release(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	self := l.Self()
	_, err := l.db.Exec(ctx, "UPDATE leases SET machine = -1 WHERE name = ANY($1) AND machine = $2 AND incarnation = $3",
		names, int64(self.ID), self.Incarnation)
	if err != nil {
		return err
	}
	l.mu.Lock()
	for _, name := range names {
		delete(l.holders, name)
		l.leaseChanged[name] = time.Now()
	}
	l.notify()
	l.mu.Unlock()
	l.announce()
	return nil
}

// Advance moves the positions of leases inside the write that is done under them. When one of them has a newer epoch,
// nothing is written and db.Write returns ErrLost. All writers pass the leases in the same order of names, since each
// locks its row.
func (l *Leases) Advance(w *db.Batch, marks []Lease) {
	if len(marks) == 0 {
		return
	}
	names, epochs, positions := make([]string, len(marks)), make([]int64, len(marks)), make([]int64, len(marks))
	for i, m := range marks {
		names[i], epochs[i], positions[i] = m.Name, m.Epoch, m.Pos
	}
	update := `UPDATE leases SET pos = v.pos FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS v (name, epoch, pos)
		WHERE leases.name = v.name AND leases.epoch = v.epoch`
	if l.db.Postgres() { // for the join it would read the whole table, which takes twice as long
		update = `UPDATE leases SET pos = ($3::bigint[])[array_position($1::text[], name)]
			WHERE name = ANY($1::text[]) AND epoch = ($2::bigint[])[array_position($1::text[], name)]`
	}
	w.Require(ErrLost, len(marks), update, names, epochs, positions)
}

// Hold keeps a lease from being taken over until the transaction ends. It returns ErrLost when it was taken over
// before.
func Hold(ctx context.Context, tx *db.Tx, l Lease) error {
	held, err := lockLeases(ctx, tx, []string{l.Name})
	if err == nil && held[l.Name].Epoch != l.Epoch {
		err = ErrLost
	}
	return err
}

// Renew gives those of the named leases that this process holds a new epoch, and returns them with their stored
// positions. When it returns, every write under the old epochs has ended or will fail. After an error nothing is known
// of the epochs.
func (l *Leases) Renew(ctx context.Context, names ...string) (map[string]Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	names = slices.Sorted(slices.Values(names))
	self := l.Self()
	var got map[string]Lease
	err := l.db.Tx(ctx, func(tx *db.Tx) error {
		got = map[string]Lease{}
		held, err := lockLeases(ctx, tx, names)
		if err != nil {
			return err
		}
		var mine []string
		for name, h := range held {
			if h.Machine == self.ID && h.Incarnation == self.Incarnation {
				mine = append(mine, name)
				got[name] = Lease{name, h.Epoch + 1, h.Pos}
			}
		}
		_, err = tx.Exec(ctx, "UPDATE leases SET epoch = epoch + 1 WHERE name = ANY($1)", slices.Sorted(slices.Values(mine)))
		return err
	})
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, g := range got {
		l.holders[name], l.leaseChanged[name] = Holder{self.ID, self.Incarnation, g.Epoch, g.Pos}, time.Now()
	}
	return got, nil
}

// Read returns the stored holders, epochs and positions of the leases whose names begin with prefix.
func (l *Leases) Read(ctx context.Context, prefix string) (map[string]Holder, error) {
	return scanHolders(l.db.Query(ctx, "SELECT name, machine, incarnation, epoch, pos FROM leases WHERE name >= $1 AND name < $2", prefix,
		prefix+"\x7f"))
}

func scanHolders(rows *db.Rows, err error) (map[string]Holder, error) {
	out := map[string]Holder{}
	return out, db.Each(func(row db.Row) error {
		var name string
		var h Holder
		err := row.Scan(&name, &h.Machine, &h.Incarnation, &h.Epoch, &h.Pos)
		out[name] = h
		return err
	})(rows, err)
}

// InitValue returns the fleet's value of a name, or stores the given one when there is none yet.
func InitValue(ctx context.Context, d *db.DB, name, value string) (string, error) {
	if _, err := d.Exec(ctx, "INSERT INTO fleet (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", name, value); err != nil {
		return "", err
	}
	err := d.QueryRow(ctx, "SELECT value FROM fleet WHERE name = $1", name).Scan(&value)
	return value, err
}

// Value is the fleet's value of a name, "" when there is none.
func Value(ctx context.Context, d *db.DB, name string) (value string, err error) {
	err = d.QueryRow(ctx, "SELECT value FROM fleet WHERE name = $1", name).Scan(&value)
	if errors.Is(err, db.ErrNoRows) {
		err = nil
	}
	return value, err
}

// SetValue replaces the fleet's value of a name.
func SetValue(ctx context.Context, d *db.DB, name, value string) error {
	_, err := d.Exec(ctx, "INSERT INTO fleet (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name,
		value)
	return err
}

func (l *Leases) announce() {
	if l.opts.Announce != nil {
		l.opts.Announce()
	}
}

// notify wakes all who wait on Changed; the caller holds mu.
func (l *Leases) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}
