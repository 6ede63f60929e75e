package lease

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"lyceum/platform/db"
)

// view is one reading of machines and leases.
type view struct {
	began       time.Time // before the reading
	now         int64     // the database's clock, in ms
	nowAt       time.Time // when now was known
	machines    []Machine // those that have not expired
	gone        map[int64]bool
	storedClaim int64 // what this machine's row claims
	noOthers    bool  // no other row was found: see readMachines
	holders     map[string]Holder
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
	if !l.opts.Embedded {
		l.noteClock(v)
	}
	v.machines = l.withoutDead(v.machines, v.gone, v.began)
	l.keepOwnChanges(v)
	if !l.opts.Embedded {
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

// keepOwnChanges corrects a view by the leases that this process acquired or released after the reading began; the caller
// holds mu.
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
	l.noOthers, l.storedClaim = v.noOthers && !slices.ContainsFunc(l.required, elsewhere), v.storedClaim
	if !l.noOthers || v.storedClaim != l.claim {
		l.claim = 0
	}
}

// noteDegraded counts the view when another machine is or may have been degraded; the caller holds mu.
func (l *Leases) noteDegraded(v *view) {
	degraded := slices.ContainsFunc(v.machines, l.isDegraded) || v.began.Before(l.busChangedAt) ||
		!l.opts.Embedded && v.began.Before(l.knownToAllAt)
	// Between two views that are far apart, a machine may have been degraded and have recovered.
	unseen := !l.viewAt.IsZero() && !l.opts.Embedded && v.began.Sub(l.viewAt) >= l.ViewTTL()
	if degraded || l.anyDegraded || unseen {
		l.degradedViews++
	}
	l.viewAt, l.anyDegraded = v.began, degraded
}

// readMachines reads the machines that have not expired, which of their sessions are gone, and what this machine's row
// claims. v.noOthers is true when no other row was found: a machine that expired within the last TTL counts, since it may
// not know that yet, and so does one whose session still exists.
func (l *Leases) readMachines(ctx context.Context, v *view) error {
	v.noOthers = true
	self := l.Self()
	if l.opts.Embedded {
		v.machines = []Machine{self}
		return nil
	}
	return db.Each(func(row db.Row) error {
		var m Machine
		var roles string
		var started, expires, storedClaim int64
		var session bool
		err := row.Scan(&m.ID, &m.Incarnation, &m.Address, &m.Host, &m.Version, &roles, &m.Starting, &m.Draining, &m.Degraded, &m.Bus,
			&started, &expires, &storedClaim, &session)
		m.Roles, m.Started = splitRoles(roles), time.UnixMilli(started)
		if m.Incarnation == self.Incarnation {
			v.storedClaim = storedClaim
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
