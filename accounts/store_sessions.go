package accounts

import (
	"context"
	"slices"

	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// sessionStore stores the stream "sessions": it does the changes themselves and keeps the position of the newest change of each
// user.
type sessionStore struct{}

var changeRows = &db.Table{
	Name: "session_changes", Columns: db.Columns("user_id text, shard integer, pos integer"),
	Conflict: `ON CONFLICT (user_id) DO UPDATE SET shard = excluded.shard, pos = excluded.pos`,
}

// Insert is part of stream.Store.
func (sessionStore) Insert(ctx context.Context, w *db.Batch, batch []*stream.Entry) error {
	tx, err := w.Tx()
	if err != nil {
		return err
	}
	if err := lockUsers(ctx, tx, batch); err != nil {
		return err
	}
	var newest db.Newest[string]
	var left [][]any
	for _, e := range batch {
		e.Data = []byte("{}")
		p := e.Value.(*pendingChange)
		if p.Login != nil { // it reads the pending clean-ups of its device, which may be in this batch
			w.Rows(followUpRows, left)
			left = nil
		}
		if err := applyChange(ctx, tx, e.Key, p); err != nil {
			return err
		}
		newest.Put(e.Key, e.Key, e.Shard, e.Pos)
		if n := p.followUp(); n.Kind != "" {
			row, err := n.row(e)
			if err != nil {
				return err
			}
			left = append(left, row)
			e.Data = []byte(row[4].(string))
		}
	}
	w.Rows(followUpRows, left)
	w.Rows(changeRows, newest.Rows())
	return nil
}

// lockUsers locks the users of a batch in the order of their ids, as RequireActive does, so that transactions do not deadlock.
func lockUsers(ctx context.Context, tx *db.Tx, batch []*stream.Entry) error {
	users := make([]string, 0, len(batch))
	for _, e := range batch {
		users = append(users, e.Key)
	}
	slices.Sort(users)
	if users = slices.Compact(users); len(users) < 2 {
		return nil
	}
	_, err := db.Texts(tx.Query(ctx, `SELECT user_id FROM users WHERE user_id = ANY($1) ORDER BY user_id FOR UPDATE`, users))
	return err
}

// Read is part of stream.Store.
func (sessionStore) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	return db.List(func(row db.Row) (stream.Row, error) {
		out := stream.Row{Shard: r.Shard, Data: []byte("{}")}
		err := row.Scan(&out.Key, &out.Pos)
		return out, err
	})(q.Query(ctx, `SELECT user_id, pos FROM session_changes WHERE shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos
		LIMIT $4`, r.Shard, r.After, r.Upto, r.Limit))
}

// applyChange does one change in the transaction of the stream. The stream may run it again in another transaction, so it sets
// the result anew.
func applyChange(ctx context.Context, tx *db.Tx, userID string, p *pendingChange) error {
	p.result = sessionResult{}
	if proved, err := p.proved(ctx, tx, userID); err != nil || !proved {
		p.result.Stale = !proved
		return err
	}
	switch p.Kind {
	case changePassword, changeRights, changeDeactivate:
		if err := endAnswers(ctx, tx, userID); err != nil {
			return err
		}
	}
	switch p.Kind {
	case changeConfirm:
		return confirmTokenPair(ctx, tx, p.TokenPair)
	case changeReplace:
		_, err := tx.Exec(ctx, `DELETE FROM tokens WHERE user_id = $1 AND device_id = ANY($2)`, userID, p.Devices)
		return err
	case changeLogin, changeDevice:
		return applyLogin(ctx, tx, userID, p)
	case changeProfile:
		return setField(ctx, tx, userID, p)
	case changeUpgrade:
		return upgradeGuest(ctx, tx, userID, p)
	case changeRights:
		found, err := setRights(ctx, tx, userID, p.sessionChange)
		p.result.Found = found
		return err
	case changePassword:
		if err := applyPassword(ctx, tx, userID, p); err != nil || !p.result.Found {
			return err
		}
	case changeDeactivate:
		if err := applyDeactivation(ctx, tx, userID, p); err != nil || p.result.Stale {
			return err
		}
	}
	return applyRemoval(ctx, tx, userID, p)
}

// proved reports whether the change may be done: its proof is still valid, or an earlier attempt has done this very change.
func (c *sessionChange) proved(ctx context.Context, tx *db.Tx, userID string) (bool, error) {
	valid, err := c.Proof.Holds(ctx, tx, userID)
	if err != nil || valid {
		return valid, err
	}
	return c.wasStored(ctx, tx, userID)
}

// applyPassword stores a new password, and ends the interactions that were confirmed with the old one.
func applyPassword(ctx context.Context, tx *db.Tx, userID string, p *pendingChange) error {
	n, err := tx.Exec(ctx, `UPDATE users SET password = $2 WHERE user_id = $1 AND deactivated_ms = 0`, userID, p.Password)
	if err != nil || n == 0 {
		return err
	}
	p.result.Found = true
	// The condition user_id <> '' repeats that of the partial index, which is not used without it.
	_, err = tx.Exec(ctx, `DELETE FROM interactive_sessions WHERE user_id = $1 AND user_id <> '' AND NOT used`, userID)
	return err
}

// applyDeactivation deactivates the account, or erases one that was deactivated without erasing. What else belongs to the user is
// cleaned up afterwards, see deactivate.go. With OnlyGuest it does nothing when the guest has become a user since: the result is stale.
func applyDeactivation(ctx context.Context, tx *db.Tx, userID string, p *pendingChange) error {
	n, err := tx.Exec(ctx, `UPDATE users SET password = '', admin = FALSE, `+cleanupColumn+` = TRUE, erased = (erased OR $3),
		deactivated_ms = CASE WHEN deactivated_ms = 0 THEN $2 ELSE deactivated_ms END
		WHERE user_id = $1 AND (deactivated_ms = 0 OR $3 AND NOT erased) AND (NOT $4 OR kind = $5)`,
		userID, p.At, p.Erase, p.OnlyGuest, kindGuest)
	if err != nil {
		return err
	}
	if p.result.Found = n > 0; p.result.Found || !p.OnlyGuest {
		return nil
	}
	u, err := loadUser(ctx, tx, userID)
	p.result.Stale = err == nil && u.deactivatedAt == 0
	return err
}

// applyRemoval deletes the devices that the change ends, with their tokens, and lists them in the result.
func applyRemoval(ctx context.Context, tx *db.Tx, userID string, p *pendingChange) error {
	if !p.All && len(p.Devices) == 0 {
		return nil
	}
	devices, err := DeviceIDs(ctx, tx, userID)
	if err != nil {
		return err
	}
	for _, id := range devices {
		if id != p.Except && (p.All || slices.Contains(p.Devices, id)) {
			p.result.Devices = append(p.result.Devices, id)
		}
	}
	if len(p.result.Devices) == 0 {
		return nil
	}
	if p.Kind != changeDeactivate {
		if err := rememberAddresses(ctx, tx, userID, p.result.Devices, p.At); err != nil {
			return err
		}
	}
	// The devices are deleted first: a refresh locks its device, so its new tokens are visible to the second statement.
	if _, err := tx.Exec(ctx, `DELETE FROM user_devices WHERE user_id = $1 AND device_id = ANY($2)`, userID, p.result.Devices); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM tokens WHERE user_id = $1 AND device_id = ANY($2)`, userID, p.result.Devices)
	return err
}

// wasStored reports whether this very change was stored by an earlier attempt whose outcome was unknown: the user has its password
// hash, or its time of deactivation.
func (c *sessionChange) wasStored(ctx context.Context, tx *db.Tx, userID string) (stored bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM users WHERE user_id = $1 AND ($2 <> '' AND password = $2 OR $3
		AND deactivated_ms = $4))`,
		userID, c.Password, c.Kind == changeDeactivate, c.At).
		Scan(&stored)
	return stored, err
}

// setRights stores the rights that are not nil. found is false when the user does not exist or is deactivated.
func setRights(ctx context.Context, tx *db.Tx, userID string, c sessionChange) (found bool, err error) {
	for _, set := range []struct {
		to    *bool
		query string
	}{
		{c.Admin, `UPDATE users SET admin = $2 WHERE user_id = $1 AND deactivated_ms = 0`},
		{c.Locked, `UPDATE users SET locked = $2 WHERE user_id = $1 AND deactivated_ms = 0`},
		{c.Suspended, `UPDATE users SET suspended = $2 WHERE user_id = $1 AND deactivated_ms = 0`},
	} {
		if set.to == nil {
			continue
		}
		n, err := tx.Exec(ctx, set.query, userID, *set.to)
		if err != nil {
			return found, err
		}
		found = found || n > 0
	}
	if found && c.Admin != nil && *c.Admin {
		return found, voidFirstToken(ctx, tx, c.At)
	}
	return found, nil
}
