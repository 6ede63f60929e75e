package accounts

import (
	"context"
	"errors"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

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
