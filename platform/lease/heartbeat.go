package lease

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"lyceum/platform/db"
)

// ErrReplaced says that another process runs under this machine's id.
var ErrReplaced = errors.New("another process took this machine id: stopping")

// Run keeps the registration alive and the view fresh until ctx ends. It returns ErrReplaced when
// another process has the id now, and ErrVersion when the fleet has another first number of its version.
func (l *Leases) Run(ctx context.Context) error {
	if l.opts.Alone {
		<-ctx.Done()
		return nil
	}
	session, end := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.keepSession(session)
	}()
	defer func() {
		end()
		<-ended
	}()
	beat := time.NewTicker(l.opts.TTL / 4)
	defer beat.Stop()
	for {
		alive := true
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
			alive = false // only read
		case <-beat.C:
		}
		step, cancel := context.WithTimeout(ctx, l.opts.TTL)
		var err error
		if alive {
			err = l.heartbeat(step)
		}
		if err == nil {
			err = l.Refresh(step)
		}
		if err == nil {
			err = l.storeClaim(step)
		}
		cancel()
		if errors.Is(err, ErrReplaced) || errors.Is(err, ErrVersion) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			l.opts.Log.Warn("the heartbeat did not reach the database", "error", err)
		}
	}
}

func (l *Leases) heartbeat(ctx context.Context) error {
	l.heartbeatMu.Lock()
	defer l.heartbeatMu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, max(l.opts.TTL, time.Second))
	defer cancel()
	began := time.Now() // before the database's clock is read: the registration lasts longer than this process believes
	now, err := l.now(ctx, l.db)
	if err != nil {
		return err
	}
	self := l.Self()
	l.heartbeats++ // a heartbeat that arrives late changes nothing
	n, err := l.db.Exec(ctx, `UPDATE machines SET expires_ms = $1, starting = $8, draining = $2, mute = $3, bus = $9, beat = $10
			WHERE id = $4 AND incarnation = $5 AND beat < $10
		AND NOT EXISTS (SELECT 1 FROM fleet WHERE name = $6 AND value <> $7 AND $7 <> '')`,
		now+l.opts.TTL.Milliseconds(), self.Draining, self.Degraded, int64(self.ID), self.Incarnation, versionRow, l.major(), self.Starting,
		self.Bus, l.heartbeats)
	if err == nil && n == 0 {
		err = l.explainLostHeartbeat(ctx)
	}
	if err == nil {
		l.mu.Lock()
		if time.Since(l.heartbeatAt) >= l.opts.TTL { // the others may have counted this process as dead until now
			l.noteJoined()
		}
		l.heartbeatAt = began
		l.mu.Unlock()
	}
	return err
}

// explainLostHeartbeat returns why a heartbeat changed no row.
func (l *Leases) explainLostHeartbeat(ctx context.Context) error {
	if err := l.sameMajor(ctx, l.db); err != nil {
		return err
	}
	self := l.Self()
	var stored int64
	err := l.db.QueryRow(ctx, "SELECT beat FROM machines WHERE id = $1 AND incarnation = $2", int64(self.ID), self.Incarnation).Scan(&stored)
	switch {
	case errors.Is(err, db.ErrNoRows):
		return ErrReplaced
	case err == nil && stored < l.heartbeats:
		return errors.New("the heartbeat changed nothing")
	}
	return err // the heartbeat is stored: the statement was sent twice, or the registration has ended
}

// Alive reports whether the registration is unexpired, as far as this process knows: its last heartbeat is younger
// than the TTL.
func (l *Leases) Alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opts.Alone || time.Since(l.heartbeatAt) < l.opts.TTL
}

// AliveSince reports whether the registration has been unexpired all the time since t, as far as this process knows.
func (l *Leases) AliveSince(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opts.Alone || time.Since(l.heartbeatAt) < l.opts.TTL && l.joinedAt.Before(t)
}

// Alone tells that this is the only process there can be, by its configuration.
func (l *Leases) Alone() bool { return l.opts.Alone }

// SetDegraded tells the fleet that rows which this process writes may not be on the bus, or that they are on it again.
// After ViewTTL, no process that calls NoneDegraded holds a view from before.
func (l *Leases) SetDegraded(ctx context.Context, mute bool) error {
	l.mu.Lock()
	l.self.Degraded = mute
	l.mu.Unlock()
	if l.opts.Alone {
		return nil
	}
	err := l.heartbeat(ctx)
	if err != nil && !mute {
		l.mu.Lock()
		l.self.Degraded = true // the caller remains degraded
		l.mu.Unlock()
	}
	return err
}

// SetBus records the server of the bus at which this process is now, and tells whether it is another one than before.
// The next heartbeat, such as that of SetDegraded, tells the fleet. A view from before does not show which processes
// are at the same server, so NoneDegraded is false until the next view.
func (l *Leases) SetBus(server string) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opts.Alone || l.self.Bus == server {
		return false
	}
	l.self.Bus, l.busChangedAt, l.anyDegraded = server, time.Now(), true
	return true
}

// isDegraded tells that the bus does not bring the rows of another machine to this one.
func (l *Leases) isDegraded(m Machine) bool {
	return m.ID != l.self.ID && (m.Degraded || m.Bus != "" && l.self.Bus != "" && m.Bus != l.self.Bus)
}

// ViewTTL is how long a view may be used to say that no machine is degraded.
func (l *Leases) ViewTTL() time.Duration { return l.opts.TTL / 2 }

// NoneDegraded tells that the view is younger than ViewTTL, that no other machine in it is degraded or at another
// server of the bus, and that all other machines must know that this one lives.
func (l *Leases) NoneDegraded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opts.Alone || !l.anyDegraded && time.Since(l.viewAt) < l.ViewTTL() && time.Since(l.heartbeatAt) < l.opts.TTL
}

// DegradedViews counts the views in which another machine is or may have been degraded or at another server, and the
// first view after them.
func (l *Leases) DegradedViews() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.degradedViews
}

// Ready tells the fleet that this process takes work.
func (l *Leases) Ready(ctx context.Context) error {
	return l.setState(ctx, func(self *Machine) { self.Starting = false })
}

// Drain tells the fleet that this process takes no new work.
func (l *Leases) Drain(ctx context.Context) error {
	return l.setState(ctx, func(self *Machine) { self.Draining = true })
}

func (l *Leases) setState(ctx context.Context, change func(self *Machine)) error {
	l.mu.Lock()
	change(&l.self)
	l.mu.Unlock()
	if l.opts.Alone {
		return nil
	}
	err := l.heartbeat(ctx)
	if err == nil {
		err = l.Refresh(ctx)
	}
	l.announce()
	return err
}

// Leave ends the registration: the last thing a process does.
func (l *Leases) Leave(ctx context.Context) error {
	if l.opts.Alone {
		return nil
	}
	self := l.Self()
	_, err := l.db.Exec(ctx, "UPDATE machines SET expires_ms = 0, beat = $3 WHERE id = $1 AND incarnation = $2", int64(self.ID),
		self.Incarnation, int64(math.MaxInt64))
	l.announce()
	return err
}

// view is one reading of machines and leases.
type view struct {
	began    time.Time // before the reading
	now      int64     // the database's clock, in ms
	nowAt    time.Time // when now was known
	machines []Machine // those that did not expire
	gone     map[int64]bool
	shares   int64 // column shares of this machine's row
	noOthers bool  // no other machine is registered, nor has one expired lately
	holders  map[string]Holder
}

// Refresh reads the live machines and the holders of all leases.
func (l *Leases) Refresh(ctx context.Context) error {
	v, err := l.readView(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if v.began.Before(l.viewAt) {
		return nil // a later reading was faster
	}
	if !l.opts.Alone {
		l.noteClock(v)
	}
	v.machines = l.withoutDead(v.machines, v.gone, v.began)
	l.keepOwnChanges(v)
	if !l.opts.Alone {
		l.noteOthers(v)
	}
	l.noteDegraded(v)
	same := slices.EqualFunc(v.machines, l.machines, func(a, b Machine) bool {
		return a.ID == b.ID && a.Incarnation == b.Incarnation && a.Starting == b.Starting && a.Draining == b.Draining
	}) && maps.EqualFunc(v.holders, l.holders, func(a, b Holder) bool { return a.Machine == b.Machine && a.Epoch == b.Epoch })
	l.machines, l.holders = v.machines, v.holders
	if !same {
		l.notify()
	}
	return nil
}

func (l *Leases) readView(ctx context.Context) (*view, error) {
	v := &view{began: time.Now(), gone: map[int64]bool{}}
	var err error
	if v.now, err = l.now(ctx, l.db); err != nil {
		return nil, err
	}
	v.nowAt = time.Now()
	if err = l.readMachines(ctx, v); err != nil {
		return nil, err
	}
	v.holders, err = l.Read(ctx, "")
	return v, err
}

// noteClock compares the database's clock with the view before; the caller holds mu. After a jump of the clock, machines that
// are alive may look dead until their next heartbeat.
func (l *Leases) noteClock(v *view) {
	// The clock was read between began and nowAt, and for the view before likewise.
	advance := time.Duration(v.now-l.dbClock) * time.Millisecond
	if l.viewAt.IsZero() || advance-v.began.Sub(l.dbClockAt) > l.opts.TTL/4 || v.nowAt.Sub(l.viewAt)-advance > l.opts.TTL/4 {
		l.clockJumpedAt = time.Now()
	}
	l.dbClock, l.dbClockAt = v.now, v.nowAt
}

// keepOwnChanges puts the leases into a view that this process took or gave back after the reading began; the caller holds mu.
func (l *Leases) keepOwnChanges(v *view) {
	for name, at := range l.leaseChanged {
		known, held := l.holders[name]
		switch {
		case !at.After(v.began):
			delete(l.leaseChanged, name)
		case held:
			v.holders[name] = known
		default:
			delete(v.holders, name)
		}
	}
}

// noteOthers records whether this process can be the only member, and ends its claim when the view contradicts it; the caller holds mu.
func (l *Leases) noteOthers(v *view) {
	elsewhere := func(name string) bool {
		h := v.holders[name]
		return h.Machine != l.self.ID || h.Incarnation != l.self.Incarnation
	}
	l.noOthers, l.storedShares = v.noOthers && !slices.ContainsFunc(l.required, elsewhere), v.shares
	if !l.noOthers || v.shares != l.claim {
		l.claim = 0
	}
}

// noteDegraded counts the view when another machine is or may have been degraded; the caller holds mu.
func (l *Leases) noteDegraded(v *view) {
	degraded := slices.ContainsFunc(v.machines, l.isDegraded) || v.began.Before(l.busChangedAt) ||
		!l.opts.Alone && v.began.Before(l.knownToAllAt)
	// Between two views that are far apart, a machine may have been degraded and have recovered.
	unseen := !l.viewAt.IsZero() && !l.opts.Alone && v.began.Sub(l.viewAt) >= l.ViewTTL()
	if degraded || l.anyDegraded || unseen {
		l.degradedViews++
	}
	l.viewAt, l.anyDegraded = v.began, degraded
}

// readMachines reads the machines that did not expire and which of their sessions are gone, the shares of this one, and
// whether there is no other: a machine that expired less than a TTL ago may not know it yet, nor may one whose session is
// there.
func (l *Leases) readMachines(ctx context.Context, v *view) error {
	v.noOthers = true
	self := l.Self()
	if l.opts.Alone {
		v.machines = []Machine{self}
		return nil
	}
	return db.Each(func(row db.Row) error {
		var m Machine
		var roles string
		var started, expires, shares int64
		var session bool
		err := row.Scan(&m.ID, &m.Incarnation, &m.Address, &m.Host, &m.Version, &roles, &m.Starting, &m.Draining, &m.Degraded, &m.Bus,
			&started, &expires, &shares, &session)
		m.Roles, m.Started = splitRoles(roles), time.UnixMilli(started)
		if m.Incarnation == self.Incarnation {
			v.shares = shares
		} else {
			v.noOthers = false
		}
		if expires <= v.now {
			return err
		}
		if !session {
			v.gone[m.Incarnation] = true
		}
		v.machines = append(v.machines, m)
		return err
	})(l.db.Query(ctx, `SELECT id, incarnation, address, host, version, roles, starting, draining, mute, bus, started_ms, expires_ms, shares,
			`+l.sessionExists()+`
		FROM machines WHERE expires_ms > $1
		OR expires_ms > $2 AND NOT EXISTS (SELECT 1 FROM machines o WHERE o.incarnation <> $3 AND o.expires_ms > $1) AND `+
		l.sessionLockHeld()+` ORDER BY id`,
		v.now-l.opts.TTL.Milliseconds(), v.now-recentlySeen.Milliseconds(), self.Incarnation))
}

func splitRoles(text string) []string { return strings.Split(text, ",") }
