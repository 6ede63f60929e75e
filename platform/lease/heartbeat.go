package lease

import (
	"context"
	"errors"
	"math"
	"time"

	"lyceum/platform/db"
)

// ErrReplaced says that another process runs under this machine's id.
var ErrReplaced = errors.New("another process took this machine id: stopping")

// Run keeps the registration alive and the view fresh until ctx ends. It returns ErrReplaced when
// another process has the id now, and ErrVersion when the fleet runs another major version.
func (l *Leases) Run(ctx context.Context) error {
	if l.opts.Embedded {
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
	ticker := time.NewTicker(l.opts.TTL / 4)
	defer ticker.Stop()
	for {
		beat := true
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
			beat = false // another process announced a change: only the view is read
		case <-ticker.C:
		}
		step, cancel := context.WithTimeout(ctx, l.opts.TTL)
		var err error
		if beat {
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
	return l.opts.Embedded || time.Since(l.heartbeatAt) < l.opts.TTL
}

// AliveSince reports whether the registration has been unexpired all the time since t, as far as this process knows.
func (l *Leases) AliveSince(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opts.Embedded || time.Since(l.heartbeatAt) < l.opts.TTL && l.joinedAt.Before(t)
}

// Embedded reports whether this is the only process there can be, by its configuration.
func (l *Leases) Embedded() bool { return l.opts.Embedded }

// SetDegraded tells the fleet that rows which this process writes may not be on the bus, or that they are on it again.
// After ViewTTL, no process that calls NoneDegraded holds a view from before.
func (l *Leases) SetDegraded(ctx context.Context, degraded bool) error {
	l.mu.Lock()
	l.self.Degraded = degraded
	l.mu.Unlock()
	if l.opts.Embedded {
		return nil
	}
	err := l.heartbeat(ctx)
	if err != nil && !degraded {
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
	if l.opts.Embedded || l.self.Bus == server {
		return false
	}
	l.self.Bus, l.busChangedAt, l.anyDegraded = server, time.Now(), true
	return true
}

// isDegraded reports whether the bus may not bring the rows of another machine to this one.
func (l *Leases) isDegraded(m Machine) bool {
	return m.ID != l.self.ID && (m.Degraded || m.Bus != "" && l.self.Bus != "" && m.Bus != l.self.Bus)
}

// ViewTTL is how long a view may be used to say that no machine is degraded.
func (l *Leases) ViewTTL() time.Duration { return l.opts.TTL / 2 }

// NoneDegraded reports whether the view is younger than ViewTTL, no other machine in it is degraded or at another
// server of the bus, and this process's registration has not run out.
func (l *Leases) NoneDegraded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opts.Embedded || !l.anyDegraded && time.Since(l.viewAt) < l.ViewTTL() && time.Since(l.heartbeatAt) < l.opts.TTL
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
	if l.opts.Embedded {
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
	if l.opts.Embedded {
		return nil
	}
	self := l.Self()
	_, err := l.db.Exec(ctx, "UPDATE machines SET expires_ms = 0, beat = $3 WHERE id = $1 AND incarnation = $2", int64(self.ID),
		self.Incarnation, int64(math.MaxInt64))
	l.announce()
	return err
}
