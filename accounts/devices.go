package accounts

import (
	"context"
	"errors"
	"strconv"

	"lyceum/matrix"
	"lyceum/platform/db"
)

// Device is one log-in of a user.
type Device struct {
	UserID      string
	DeviceID    string
	DisplayName string
	Created     int64  // ms
	SeenAt      int64  // ms; up to a minute old
	SeenIP      string // last address
	UserAgent   string
}

const deviceColumns = `SELECT user_id, device_id, display_name, created_ms, seen_ms, seen_ip, user_agent FROM user_devices `

func scanDevice(row db.Row) (d Device, err error) {
	err = row.Scan(&d.UserID, &d.DeviceID, &d.DisplayName, &d.Created, &d.SeenAt, &d.SeenIP, &d.UserAgent)
	return d, err
}

// Devices returns the devices of the users, ordered by user and device id, in one database statement.
func (a *Accounts) Devices(ctx context.Context, userIDs ...string) ([]Device, error) {
	return db.List(scanDevice)(a.db.Query(ctx, deviceColumns+`WHERE user_id = ANY($1) ORDER BY user_id, device_id`, userIDs))
}

// Device returns one device. Errors: M_NOT_FOUND.
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

// CreateDevice creates a device without a token, for application services, which are not served yet. If the device exists it is not
// changed, but the listeners are notified again, since an earlier call may have failed before that.
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

// changeDevice does a change that may create a device with a given id. If a device with that id was removed shortly before, it
// first finishes that clean-up, so that the new device neither inherits data nor loses its own.
func (a *Accounts) changeDevice(ctx context.Context, userID string, c sessionChange) (sessionResult, error) {
	for {
		res, err := a.change(ctx, userID, c)
		if err != nil || len(res.PendingCleanups) == 0 {
			return res, err
		}
		// When the clean-up fails again, the device is not created.
		for _, n := range res.PendingCleanups {
			if err := a.cleanUpDevices(ctx, userID, n.Pos, n.Devices); err != nil {
				return res, err
			}
		}
	}
}

// DeviceIDs returns the ids of a user's devices, sorted, as the transaction sees them.
func DeviceIDs(ctx context.Context, q db.Querier, userID string) ([]string, error) {
	return db.Texts(q.Query(ctx, `SELECT device_id FROM user_devices WHERE user_id = $1 ORDER BY device_id`, userID))
}
