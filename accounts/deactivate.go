package accounts

import (
	"context"
	"errors"
	"time"

	"lyceum/platform/caller"
	"lyceum/platform/db"
	"lyceum/platform/role"
)

// Deactivate ends an account for good: devices, tokens and password are deleted, and the name stays taken. erase also deletes
// profile and account data, and tells the listeners to hide the messages of the user.
func (a *Accounts) Deactivate(ctx context.Context, userID string, erase bool) error {
	return a.deactivate(ctx, userID, sessionChange{Erase: erase})
}

// deactivate takes the conditions of a deactivation and whether it erases in c.
func (a *Accounts) deactivate(ctx context.Context, userID string, c sessionChange) error {
	c.Kind, c.All = changeDeactivate, true
	if _, err := a.removeDevices(ctx, userID, c); err != nil {
		return err
	}
	u, err := loadUser(ctx, a.db, userID)
	if errors.Is(err, db.ErrNoRows) {
		return noUser(userID)
	}
	if err != nil || !u.pendingCleanup {
		return err
	}
	// The clean-up goes on when the client has disconnected: otherwise others would see the user until housekeeping repeats it.
	ctx, cancel := context.WithTimeout(caller.Stays(ctx), deactivationWait)
	defer cancel()
	if err := a.cleanUpDeactivated(ctx, a.db, userID, u.erased); err != nil {
		a.log.Warn("a deactivation is not complete yet and will be tried again", "user", userID, "error", err)
	}
	return nil
}

// cleanupColumn is the column of users that is true from a deactivation until its clean-up is done. A stored name stays.
const cleanupColumn = "farewell"

// deactivationWait is how long a request waits for the clean-up, which housekeeping finishes otherwise.
const deactivationWait = 45 * time.Second

// transactor runs transactions: the database, or a job that holds a lease.
type transactor interface {
	Tx(ctx context.Context, fn func(tx *db.Tx) error) error
}

// cleanUpDeactivated deletes what a deactivated user leaves behind. A deactivation is final, and each step may run more than once,
// also in two processes at the same time.
func (a *Accounts) cleanUpDeactivated(ctx context.Context, to transactor, userID string, erase bool) error {
	if erase {
		if err := a.eraseData(ctx, userID); err != nil {
			return err
		}
	}
	for _, l := range a.deps.Users {
		if err := l.UserDeactivated(ctx, userID, erase); err != nil {
			return err
		}
	}
	return to.Tx(ctx, func(tx *db.Tx) error {
		steps := []string{
			`DELETE FROM profile_fields WHERE user_id = $1`, `DELETE FROM profile_names WHERE user_id = $1`,
			`DELETE FROM login_addresses WHERE user_id = $1`,
			`UPDATE users SET ` + cleanupColumn + ` = FALSE WHERE user_id = $1`,
		}
		if erase {
			steps = append(steps, `DELETE FROM filters WHERE user_id = $1`)
		}
		for _, query := range steps {
			if _, err := tx.Exec(ctx, query, userID); err != nil {
				return err
			}
		}
		return nil
	})
}

// deactivationsAtOnce is how many users with a pending clean-up one statement reads.
const deactivationsAtOnce = 100

// finishDeactivations repeats the clean-ups that failed or were interrupted by the end of a process. It tries each one once, so
// that failing ones do not delay the others.
func (a *Accounts) finishDeactivations(ctx context.Context, job *role.Job) error {
	for after := ""; ; {
		ids, err := db.Texts(a.db.Query(ctx, `SELECT user_id FROM users WHERE `+cleanupColumn+` AND user_id > $1
			ORDER BY user_id LIMIT $2`, after, deactivationsAtOnce))
		if err != nil {
			return err
		}
		for _, id := range ids {
			u, err := loadUser(ctx, a.db, id)
			if err != nil {
				return err
			}
			if err := job.Check(ctx); err != nil {
				return err
			}
			if err := a.cleanUpDeactivated(ctx, job, id, u.erased); err != nil {
				a.log.Warn("a deactivation is not complete yet and will be tried again", "user", id, "error", err)
			}
		}
		if len(ids) < deactivationsAtOnce {
			return nil
		}
		after = ids[len(ids)-1]
		if err := a.expire(ctx, job); err != nil { // also during a long list
			return err
		}
	}
}
