package accounts

import (
	"context"
	"errors"
	"strconv"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// Device is one login of a user.
type Device struct {
	UserID      string
	DeviceID    string
	DisplayName string
	Created     int64  // ms
	SeenAt      int64  // ms; up to a minute old
	SeenIP      string // where the device was seen last
	UserAgent   string
}

const deviceColumns = `SELECT user_id, device_id, display_name, created_ms, seen_ms, seen_ip, user_agent FROM user_devices `

func scanDevice(row db.Row) (d Device, err error) {
	err = row.Scan(&d.UserID, &d.DeviceID, &d.DisplayName, &d.Created, &d.SeenAt, &d.SeenIP, &d.UserAgent)
	return d, err
}

// Devices gives the devices of the users in one statement, by user and device id.
func (a *Accounts) Devices(ctx context.Context, userIDs ...string) ([]Device, error) {
	return db.List(scanDevice)(a.db.Query(ctx, deviceColumns+`WHERE user_id = ANY($1) ORDER BY user_id, device_id`, userIDs))
}

// Device gives one device. Errors: M_NOT_FOUND.
func (a *Accounts) Device(ctx context.Context, userID, deviceID string) (d Device, err error) {
	d, err = scanDevice(a.db.QueryRow(ctx, deviceColumns+`WHERE user_id = $1 AND device_id = $2`, userID, deviceID))
	if errors.Is(err, db.ErrNoRows) {
		return d, matrix.NotFound("There is no such device")
	}
	return d, err
}

// RenameDevice sets the display name of a device. Errors: M_NOT_FOUND, M_INVALID_PARAM.
func (a *Accounts) RenameDevice(ctx context.Context, userID, deviceID, name string) error {
	if err := (loginDevice{Name: name}).check(); err != nil {
		return err
	}
	n, err := a.db.Exec(ctx, `UPDATE user_devices SET display_name = $3 WHERE user_id = $1 AND device_id = $2`, userID, deviceID, name)
	if err == nil && n == 0 {
		return matrix.NotFound("There is no such device")
	}
	return err
}

// CreateDevice makes a device without a token, as application services may. One that exists is left as it is and announced
// again, as by a log-in: who made it may have failed in between.
func (a *Accounts) CreateDevice(ctx context.Context, userID, deviceID, name string) (created bool, err error) {
	d := loginDevice{ID: deviceID, Name: name}
	if err := d.check(); err != nil {
		return false, err
	}
	res, err := a.changeDevice(
		ctx,
		userID,
		sessionChange{Kind: changeDevice, Login: &newLogin{Device: d, Transactions: strconv.FormatInt(newTokenID(), 36)}, At: a.nowMs()},
	)
	if err == nil && !res.Found {
		err = noUser(userID)
	}
	if err == nil {
		err = a.notifyDeviceAdded(ctx, userID, deviceID)
	}
	return res.Created && err == nil, err
}

// changeDevice makes a device whose id is given. One of that id may have been removed a moment ago: what it left goes first, so
// that the new one inherits nothing and loses nothing.
func (a *Accounts) changeDevice(ctx context.Context, userID string, c sessionChange) (sessionResult, error) {
	for {
		res, err := a.change(ctx, userID, c)
		if err != nil || len(res.PendingCleanups) == 0 {
			return res, err
		}
		// A part of the server that failed before may fail again: then there is no such device yet.
		for _, n := range res.PendingCleanups {
			if err := a.cleanUpDevices(ctx, userID, n.Pos, n.Devices); err != nil {
				return res, err
			}
		}
	}
}

// applyLogin does a log-in, or makes a device, on the owner of the user's shard. It may run again in another transaction.
func applyLogin(ctx context.Context, tx *db.Tx, userID string, p *pendingChange) (err error) {
	l := p.Login
	if p.result.PendingCleanups, err = pendingCleanups(ctx, tx, userID, l.Device.ID); err != nil || len(p.result.PendingCleanups) > 0 {
		return err
	}
	if p.Kind == changeLogin {
		found, err := l.apply(ctx, tx, userID)
		p.result.Found, p.result.Stale, p.result.Ended = true, !found, l.ended
		return err
	}
	err = tx.QueryRow(ctx, `SELECT NOT EXISTS (SELECT 1 FROM users WHERE user_id = $1 AND deactivated_ms <> 0)`, userID).Scan(&p.result.Found)
	if err != nil || !p.result.Found {
		return err
	}
	n, err := tx.Exec(ctx, `INSERT INTO user_devices (user_id, device_id, display_name, created_ms, transactions) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id, device_id) DO NOTHING`, userID, l.Device.ID, l.Device.Name, p.At, l.Transactions)
	p.result.Created = n > 0
	return err
}

// DeviceExists is a condition in SQL: the device with the user id $1 and the device id $2 is there.
const DeviceExists = `EXISTS (SELECT 1 FROM user_devices WHERE user_id = $1 AND device_id = $2)`

// TokenExists tells whether an access token and its device are there, as a transaction sees it. It locks nothing, so it is for
// those whose writes come in one order with the clean-up after a device: in streams, with the same shard. A clean-up begins
// when the device is gone, so what was written before it goes with it, and who comes after it does not see the token.
func TokenExists(ctx context.Context, q db.Querier, tokenID int64) (there bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM tokens t`+joinDevice+`WHERE t.id = $1)`, tokenID).Scan(&there)
	return there, err
}

// LockDevice makes sure that the device of a request and its token stay until the transaction ends; of who came without a
// token of a device, the user. Errors: M_UNKNOWN_TOKEN.
func LockDevice(ctx context.Context, tx *db.Tx, id *web.Identity) error {
	if id.TokenID == 0 {
		return LockUser(ctx, tx, id.UserID)
	}
	there, err := lockDevice(ctx, tx, id.UserID, id.DeviceID, id.TokenID)
	if err == nil && !there {
		err = matrix.UnknownToken(false)
	}
	return err
}

func lockDevice(ctx context.Context, tx *db.Tx, userID, deviceID string, tokenID int64) (there bool, err error) {
	err = tx.QueryRow(ctx, `SELECT TRUE FROM user_devices WHERE user_id = $1 AND device_id = $2 FOR UPDATE`, userID, deviceID).Scan(&there)
	if err == nil { // asked for under the lock
		err = tx.QueryRow(ctx, `SELECT TRUE FROM tokens WHERE id = $1`, tokenID).Scan(&there)
	}
	if errors.Is(err, db.ErrNoRows) {
		return false, nil
	}
	return there && err == nil, err
}

// LockUser makes sure that a user is not deactivated until the transaction ends, and keeps transactions that hold the same
// user apart. Errors: M_UNKNOWN_TOKEN for one who is deactivated, as all tokens are gone.
func LockUser(ctx context.Context, tx *db.Tx, userID string) error {
	var active bool
	err := tx.QueryRow(ctx, `SELECT deactivated_ms = 0 FROM users WHERE user_id = $1 FOR UPDATE`, userID).Scan(&active)
	switch {
	case errors.Is(err, db.ErrNoRows): // nobody who could be deactivated
		return nil
	case err == nil && !active:
		return matrix.UnknownToken(false)
	}
	return err
}
