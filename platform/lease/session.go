package lease

import (
	"context"
	"errors"
	"time"

	"lyceum/platform/backoff"
	"lyceum/platform/db"
)

// A process holds a lock that belongs to its session with PostgreSQL, which ends with the process: the kernel closes the
// connections of one that was killed at once. So the others need not wait for its heartbeat to expire. Fencing makes it
// safe to be wrong about it: a process that lives and lost its session for a moment loses leases, never data.

const (
	sessionRetryMin = 10 * time.Millisecond // before a broken session is replaced
	sessionRetryMax = time.Second           // while the database is away

	// A connection between processes can be seen to break before PostgreSQL has ended the session, so it is looked for more
	// than once.
	suspectFor     = 2 * time.Second       // how long a process stays suspected whose session is there
	suspectRecheck = 25 * time.Millisecond // the pause between two looks, at first
)

// sessionThere tells of a row of machines whether its session is there. A row without one, of another run of the database or
// from behind a pooler, says nothing.
const sessionExistsSQL = `(lock_run <> CAST(pg_postmaster_start_time() AS TEXT) OR ` + lockHeldSQL + `)`

// lockHeld tells of a row of machines whether its lock is held.
const lockHeldSQL = `EXISTS (SELECT 1 FROM pg_locks p
	WHERE p.locktype = 'advisory' AND p.objsubid = 1 AND p.granted AND p.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND (CAST(p.classid AS BIGINT) << 32 | CAST(p.objid AS BIGINT)) = lock_key)`

// there is sessionThere where sessions have locks.
func (l *Leases) sessionExists() string {
	if l.db.Postgres() && !l.opts.Alone {
		return sessionExistsSQL
	}
	return "TRUE"
}

// held is where sessions have locks, of a row of machines, whether its session is there for certain.
func (l *Leases) sessionLockHeld() string {
	if l.db.Postgres() && !l.opts.Alone {
		return `lock_run = CAST(pg_postmaster_start_time() AS TEXT) AND ` + lockHeldSQL
	}
	return "FALSE"
}

// keepSession holds the lock until ctx ends.
func (l *Leases) keepSession(ctx context.Context) {
	if l.opts.Alone || !l.db.Postgres() {
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
			// A session that broke may have left a statement that comes yet: keys go up, so that it changes nothing.
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

// Suspect says that a connection to a process broke: when its session is gone too, it is dead.
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

// alive leaves out the machines whose sessions are gone; the caller holds mu. Where one is missing for less than Absence, or is
// there though its process is suspected, the view is read again soon.
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
