package accounts

import (
	"context"
	"errors"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// DeviceExists is a condition in SQL: the device with the user id $1 and the device id $2 exists.
const DeviceExists = `EXISTS (SELECT 1 FROM user_devices WHERE user_id = $1 AND device_id = $2)`

// TokenExists reports whether an access token and its device exist, as the transaction sees it. It takes no lock, so it is only
// for writes that are ordered with the clean-up of removed devices: rows of the same shard of a stream. A clean-up runs after the
// device was removed: it also deletes what was written before, and a write after it does not see the token.
func TokenExists(ctx context.Context, q db.Querier, tokenID int64) (there bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM tokens t`+joinDevice+`WHERE t.id = $1)`, tokenID).Scan(&there)
	return there, err
}

// LockDevice locks the device of a request and checks its token, so that both exist until the transaction ends. For a caller
// without a device, such as an application service, it locks the user. Errors: M_UNKNOWN_TOKEN.
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
	if err == nil { // only under the lock of the device is the answer final
		err = tx.QueryRow(ctx, `SELECT TRUE FROM tokens WHERE id = $1`, tokenID).Scan(&there)
	}
	if errors.Is(err, db.ErrNoRows) {
		return false, nil
	}
	return there && err == nil, err
}

// LockUser locks the row of a user: until the transaction ends the user is not deactivated, and other transactions that lock the
// user wait. Errors: M_UNKNOWN_TOKEN for a deactivated user, who has no tokens any more.
func LockUser(ctx context.Context, tx *db.Tx, userID string) error {
	var active bool
	err := tx.QueryRow(ctx, `SELECT deactivated_ms = 0 FROM users WHERE user_id = $1 FOR UPDATE`, userID).Scan(&active)
	switch {
	case errors.Is(err, db.ErrNoRows): // not a user of this server, so never deactivated
		return nil
	case err == nil && !active:
		return matrix.UnknownToken(false)
	}
	return err
}
