package lease

import (
	"context"
	"errors"
	"time"

	"lyceum/platform/backoff"
	"lyceum/platform/db"
)

// A process holds an advisory lock in a session of PostgreSQL. The session ends with the process, since the kernel closes the
// connections of a killed process at once. So the others need not wait until its heartbeat expires. Fencing makes mistakes
// safe: a live process that lost its session for a moment loses leases, never data.

const (
	sessionRetryMin = 10 * time.Millisecond // before a broken session is replaced
	sessionRetryMax = time.Second           // while the database is away

	// A connection between processes may break before PostgreSQL has ended the session, so the session is checked more than
	// once.
	suspectFor     = 2 * time.Second       // how long a process with a session stays suspected
	suspectRecheck = 25 * time.Millisecond // the first pause between two checks
)

// sessionExistsSQL tells of a row of machines whether its session exists. It is also true for a row without a session,
// of another run of the database, or from behind a pooler, since nothing is known of these.
const sessionExistsSQL = `(lock_run <> CAST(pg_postmaster_start_time() AS TEXT) OR ` + lockHeldSQL + `)`

// lockHeldSQL tells of a row of machines whether its advisory lock is held.
const lockHeldSQL = `EXISTS (SELECT 1 FROM pg_locks p
	WHERE p.locktype = 'advisory' AND p.objsubid = 1 AND p.granted AND p.database = (SELECT oid FROM pg_database
	WHERE datname = current_database())
	AND (CAST(p.classid AS BIGINT) << 32 | CAST(p.objid AS BIGINT)) = lock_key)`

// sessionExists is sessionExistsSQL where sessions have locks, else TRUE.
func (l *Leases) sessionExists() string {
	if l.db.Postgres() && !l.opts.Embedded {
		return sessionExistsSQL
	}
	return "TRUE"
}

// sessionLockHeld tells of a row of machines whether its session exists for certain; FALSE where sessions have no
// locks.
func (l *Leases) sessionLockHeld() string {
	if l.db.Postgres() && !l.opts.Embedded {
		return `lock_run = CAST(pg_postmaster_start_time() AS TEXT) AND ` + lockHeldSQL
	}
	return "FALSE"
}

// keepSession holds this process's advisory lock until ctx ends, and takes it again when its session breaks.
func (l *Leases) keepSession(ctx context.Context) {
	if l.opts.Embedded || !l.db.Postgres() {
		return
	}
	pause := backoff.Backoff{First: sessionRetryMin, Max: sessionRetryMax}
	var key int64
	for {
		key = max(key+1, time.Now().UnixNano())
		err := l.db.Session(ctx, func(_ context.Context, s db.Session) error {
			self := l.Self()
			if err := s.Exec("SELECT pg_advisory_lock($1)", key); err != nil {
				return err
			}
			pause.Reset()
			// A statement of a broken session may still arrive. Keys go up, so that it changes nothing.
			return s.Exec(`UPDATE machines SET lock_key = $1, lock_run = CAST(pg_postmaster_start_time() AS TEXT) WHERE id = $2 AND incarnation = $3
				AND (lock_key < $1 OR lock_run <> CAST(pg_postmaster_start_time() AS TEXT))`,
				key, int64(self.ID), self.Incarnation)
		})
		if errors.Is(err, db.ErrPooled) {
			l.opts.Log.Info("a killed process is noticed by its heartbeat only", "reason", err)
			return
		}
		if pause.Wait(ctx) != nil {
			return
		}
	}
}

// Suspect reports that a connection to a process broke. If its session is gone too, the process is dead.
func (l *Leases) Suspect(address string) {
	l.mu.Lock()
	for _, m := range l.machines {
		if m.Address == address {
			l.suspects[m.Incarnation] = time.Now()
		}
	}
	l.mu.Unlock()
	l.Wake()
}

// withoutDead leaves out the machines whose sessions are gone; the caller holds mu. The view is read again soon when a
// session is missing for less than Absence, or exists although its process is suspected.
func (l *Leases) withoutDead(machines []Machine, gone map[int64]bool, now time.Time) []Machine {
	missing := map[int64]time.Time{}
	suspects := map[int64]time.Time{}
	out := make([]Machine, 0, len(machines))
	for _, m := range machines {
		suspected, suspect := l.suspects[m.Incarnation]
		if gone[m.Incarnation] && m.ID != l.self.ID {
			since, known := l.missingSince[m.Incarnation]
			if !known {
				since = now
				time.AfterFunc(l.opts.Absence, l.Wake)
			}
			missing[m.Incarnation] = since
			if suspect || now.Sub(since) >= l.opts.Absence {
				suspects[m.Incarnation] = since
				continue
			}
		} else if age := now.Sub(suspected); suspect && age < suspectFor {
			suspects[m.Incarnation] = suspected
			time.AfterFunc(suspectRecheck+age/2, l.Wake)
		}
		out = append(out, m)
	}
	l.missingSince, l.suspects = missing, suspects
	return out
}
