package lease

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// ErrReplaced says that another process runs under this machine's id.
var ErrReplaced = errors.New("another process took this machine id: stopping")

// Run keeps the registration alive and the view fresh until ctx ends. It returns ErrReplaced when
// another process has the id now.
func (l *Leases) Run(ctx context.Context) error {
	if l.opts.Alone {
		<-ctx.Done()
		return nil
	}
	beat := time.NewTicker(l.opts.TTL / 4)
	defer beat.Stop()
	for {
		alive := true
		select {
		case <-ctx.Done():
			return nil
		case <-l.poke:
			alive = false // only read
		case <-beat.C:
		}
		step, cancel := context.WithTimeout(ctx, l.opts.TTL)
		var err error
		if alive {
			err = l.beat(step)
		}
		if err == nil {
			err = l.Refresh(step)
		}
		cancel()
		if errors.Is(err, ErrReplaced) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			l.opts.Log.Warn("the heartbeat did not reach the database", "error", err)
		}
	}
}

func (l *Leases) beat(ctx context.Context) error {
	now, err := l.now(ctx, l.db)
	if err != nil {
		return err
	}
	self := l.Self()
	n, err := l.db.Exec(ctx, "UPDATE machines SET expires_ms = $1, draining = $2 WHERE id = $3 AND incarnation = $4",
		now+l.opts.TTL.Milliseconds(), self.Draining, int64(self.ID), self.Incarnation)
	if err == nil && n == 0 {
		return ErrReplaced
	}
	return err
}

// Drain tells the fleet that this process takes no new work.
func (l *Leases) Drain(ctx context.Context) error {
	l.mu.Lock()
	l.self.Draining = true
	l.mu.Unlock()
	if l.opts.Alone {
		return nil
	}
	err := l.beat(ctx)
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
	_, err := l.db.Exec(ctx, "UPDATE machines SET expires_ms = 0 WHERE id = $1 AND incarnation = $2", int64(self.ID), self.Incarnation)
	l.announce()
	return err
}

// Refresh reads the live machines and the holders of all leases.
func (l *Leases) Refresh(ctx context.Context) error {
	now, err := l.now(ctx, l.db)
	if err != nil {
		return err
	}
	if l.opts.Alone {
		now = 0
	}
	machines, err := l.readMachines(ctx, now)
	if err != nil {
		return err
	}
	holders, err := l.Read(ctx, "")
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	same := slices.EqualFunc(machines, l.machines, func(a, b Machine) bool {
		return a.ID == b.ID && a.Incarnation == b.Incarnation && a.Draining == b.Draining
	}) && maps.EqualFunc(holders, l.holders, func(a, b Holder) bool { return a.Machine == b.Machine && a.Epoch == b.Epoch })
	l.machines, l.holders = machines, holders
	if !same {
		l.notify()
	}
	return nil
}

func (l *Leases) readMachines(ctx context.Context, now int64) ([]Machine, error) {
	if l.opts.Alone {
		return []Machine{l.Self()}, nil
	}
	rows, err := l.db.Query(ctx, `SELECT id, incarnation, address, host, version, roles, draining, started_ms
		FROM machines WHERE expires_ms > $1 ORDER BY id`, now)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Machine
	for rows.Next() {
		var m Machine
		var roles string
		var started int64
		if err := rows.Scan(&m.ID, &m.Incarnation, &m.Address, &m.Host, &m.Version, &roles, &m.Draining, &started); err != nil {
			return nil, err
		}
		m.Roles, m.Started = strings.Split(roles, ","), time.UnixMilli(started)
		out = append(out, m)
	}
	return out, rows.Err()
}
