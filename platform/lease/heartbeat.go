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
	began := time.Now() // before the database's clock is read, so that the registration lasts longer than this process believes
	now, err := l.now(ctx, l.db)
	if err != nil {
		return err
	}
	self := l.Self()
	l.heartbeats++ // one that comes late changes nothing
	n, err := l.db.Exec(ctx, `UPDATE machines SET expires_ms = $1, starting = $8, draining = $2, mute = $3, bus = $9, beat = $10 WHERE id = $4 AND incarnation = $5 AND beat < $10
		AND NOT EXISTS (SELECT 1 FROM fleet WHERE name = $6 AND value <> $7 AND $7 <> '')`,
		now+l.opts.TTL.Milliseconds(), self.Draining, self.Degraded, int64(self.ID), self.Incarnation, versionRow, l.major(), self.Starting, self.Bus, l.heartbeats)
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

// unheard tells why a heartbeat changed nothing.
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
	return err // it is stored: the statement was sent twice, or the registration has ended
}

// Alive tells whether the others count this process among the living, as far as it can know: its last
// heartbeat is younger than the TTL.
func (l *Leases) Alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opts.Alone || time.Since(l.heartbeatAt) < l.opts.TTL
}

// AliveSince tells whether the others have counted this process among the living all the time since then.
func (l *Leases) AliveSince(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opts.Alone || time.Since(l.heartbeatAt) < l.opts.TTL && l.joinedAt.Before(t)
}

// Alone tells that this is the only process there can be.
func (l *Leases) Alone() bool { return l.opts.Alone }

// SetDegraded tells the fleet that rows which this process writes may not be on the bus, or are again. After
// ViewTTL has passed, no process that calls NoneDegraded holds a view from before.
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
		l.self.Degraded = true // the caller goes on as before
		l.mu.Unlock()
	}
	return err
}

// SetBus notes the server of the bus that this process is at now, and tells whether it is another one than before. The
// fleet hears of it by the next heartbeat, such as that of SetDegraded. A view from before says nothing of who is
// at the same one, so it is not fresh.
func (l *Leases) SetBus(server string) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.opts.Alone || l.self.Bus == server {
		return false
	}
	l.self.Bus, l.busChangedAt, l.anyDegraded = server, time.Now(), true
	return true
}

// mutes tells that rows of another machine do not come to this one by the bus.
func (l *Leases) isDegraded(m Machine) bool {
	return m.ID != l.self.ID && (m.Degraded || m.Bus != "" && l.self.Bus != "" && m.Bus != l.self.Bus)
}

// ViewTTL is how long a view may be used to say that no machine is mute.
func (l *Leases) ViewTTL() time.Duration { return l.opts.TTL / 2 }

// NoneDegraded tells that the view is younger than ViewTTL, no other machine in it is mute or at another server of the bus, and
// all others must know that this one lives.
func (l *Leases) NoneDegraded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opts.Alone || !l.anyDegraded && time.Since(l.viewAt) < l.ViewTTL() && time.Since(l.heartbeatAt) < l.opts.TTL
}

// DegradedViews goes up while another machine is or may have been mute or elsewhere, and once more when none is any longer.
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
	_, err := l.db.Exec(ctx, "UPDATE machines SET expires_ms = 0, beat = $3 WHERE id = $1 AND incarnation = $2", int64(self.ID), self.Incarnation, int64(math.MaxInt64))
	l.announce()
	return err
}

// Refresh reads the live machines and the holders of all leases.
func (l *Leases) Refresh(ctx context.Context) error {
	began := time.Now()
	now, err := l.now(ctx, l.db)
	if err != nil {
		return err
	}
	read := time.Now()
	if l.opts.Alone {
		now = 0
	}
	machines, gone, said, lonely, err := l.readMachines(ctx, now)
	if err != nil {
		return err
	}
	holders, err := l.Read(ctx, "")
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if began.Before(l.viewAt) {
		return nil // a later reading was faster
	}
	if !l.opts.Alone {
		// The clock was read between began and read, now as in the view before.
		went := time.Duration(now-l.dbClock) * time.Millisecond
		if l.viewAt.IsZero() || went-began.Sub(l.dbClockAt) > l.opts.TTL/4 || read.Sub(l.viewAt)-went > l.opts.TTL/4 {
			l.clockJumpedAt = time.Now() // the living may look dead until their next heartbeat
		}
		l.dbClock, l.dbClockAt = now, read
	}
	machines = l.withoutDead(machines, gone, began)
	for name, at := range l.leaseChanged {
		known, held := l.holders[name]
		switch {
		case !at.After(began):
			delete(l.leaseChanged, name)
		case held:
			holders[name] = known
		default:
			delete(holders, name)
		}
	}
	if !l.opts.Alone {
		elsewhere := func(name string) bool {
			h := holders[name]
			return h.Machine != l.self.ID || h.Incarnation != l.self.Incarnation
		}
		l.noOthers, l.storedShares = lonely && !slices.ContainsFunc(l.required, elsewhere), said
		if !l.noOthers || said != l.claim {
			l.claim = 0
		}
	}
	mute := slices.ContainsFunc(machines, l.isDegraded) || began.Before(l.busChangedAt) || !l.opts.Alone && began.Before(l.knownToAllAt)
	unseen := !l.viewAt.IsZero() && !l.opts.Alone && began.Sub(l.viewAt) >= l.ViewTTL() // a machine may have been mute and speak again
	if mute || l.anyDegraded || unseen {
		l.degradedViews++
	}
	l.viewAt, l.anyDegraded = began, mute
	same := slices.EqualFunc(machines, l.machines, func(a, b Machine) bool {
		return a.ID == b.ID && a.Incarnation == b.Incarnation && a.Starting == b.Starting && a.Draining == b.Draining
	}) && maps.EqualFunc(holders, l.holders, func(a, b Holder) bool { return a.Machine == b.Machine && a.Epoch == b.Epoch })
	l.machines, l.holders = machines, holders
	if !same {
		l.notify()
	}
	return nil
}

// readMachines reads the machines that did not expire, which of their sessions are gone, the shares of this one, and whether
// there is no other one: one that expired a TTL ago or less may not know it yet, nor may one whose session is there.
func (l *Leases) readMachines(ctx context.Context, now int64) (list []Machine, gone map[int64]bool, said int64, lonely bool, err error) {
	if l.opts.Alone {
		return []Machine{l.Self()}, nil, 0, true, nil
	}
	gone, lonely = map[int64]bool{}, true
	self := l.Self()
	err = db.Each(func(row db.Row) error {
		var m Machine
		var roles string
		var started, expires, shares int64
		var there bool
		err := row.Scan(&m.ID, &m.Incarnation, &m.Address, &m.Host, &m.Version, &roles, &m.Starting, &m.Draining, &m.Degraded, &m.Bus, &started, &expires, &shares, &there)
		m.Roles, m.Started = splitRoles(roles), time.UnixMilli(started)
		if m.Incarnation == self.Incarnation {
			said = shares
		} else {
			lonely = false
		}
		if expires <= now {
			return err
		}
		if !there {
			gone[m.Incarnation] = true
		}
		list = append(list, m)
		return err
	})(l.db.Query(ctx, `SELECT id, incarnation, address, host, version, roles, starting, draining, mute, bus, started_ms, expires_ms, shares, `+l.sessionExists()+`
		FROM machines WHERE expires_ms > $1
		OR expires_ms > $2 AND NOT EXISTS (SELECT 1 FROM machines o WHERE o.incarnation <> $3 AND o.expires_ms > $1) AND `+l.sessionLockHeld()+` ORDER BY id`,
		now-l.opts.TTL.Milliseconds(), now-recentlySeen.Milliseconds(), self.Incarnation))
	return list, gone, said, lonely, err
}

func splitRoles(text string) []string { return strings.Split(text, ",") }
