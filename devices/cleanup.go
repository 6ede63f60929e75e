package devices

import (
	"cmp"
	"context"
	"errors"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/stream"
)

// deviceCleanup deletes all messages and keys of devices, in the transaction of the stream "to_device".
type deviceCleanup struct {
	DeviceIDs []string     `json:"devices"`
	Lease     *lease.Lease `json:"under,omitempty"`   // delete nothing when another process took it over
	Removed   bool         `json:"removed,omitempty"` // delete nothing of a device that exists: it was created since
	Token     int64        `json:"token,omitempty"`   // delete nothing when the access token with this id does not exist; 0 is none
	id        string
	leaseLost bool  // Lease was taken over
	refused   error // Token does not exist
}

func (c *deviceCleanup) device() string { return c.id }

func (c *deviceCleanup) apply(ctx context.Context, tx *db.Tx, userID string) (changed bool, err error) {
	if c.leaseLost, err = leaseLost(ctx, tx, c.Lease); err != nil || c.leaseLost {
		return false, err
	}
	if c.refused, err = refuseWithoutToken(ctx, tx, c.Token); err != nil || c.refused != nil {
		return false, err
	}
	if c.Removed {
		var there bool
		if err := tx.QueryRow(ctx, `SELECT `+accounts.DeviceExists, userID, c.id).Scan(&there); err != nil || there {
			return false, err
		}
	}
	for _, query := range []string{
		`DELETE FROM one_time_keys WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM one_time_key_hashes WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM fallback_keys WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM claimed_keys WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM to_device WHERE user_id = $1 AND device_id = $2`,
		`DELETE FROM to_device_txns WHERE sender = $1 AND device_id = $2`,
	} {
		if _, err := tx.Exec(ctx, query, userID, c.id); err != nil {
			return false, err
		}
	}
	return true, nil
}

// cleanupResult answers a deviceCleanup.
type cleanupResult struct {
	LeaseLost bool `json:"lost,omitempty"`    // Lease was taken over
	Refused   bool `json:"refused,omitempty"` // Token does not exist
}

// cleanUpAtOwner does a deviceCleanup on the owner of the user's shard.
func (x *Devices) cleanUpAtOwner(ctx context.Context, userID string, c deviceCleanup) (res cleanupResult, err error) {
	entries := make([]*stream.Entry, len(c.DeviceIDs))
	for i, id := range c.DeviceIDs {
		entries[i] = x.entry(userID, id, &deviceCleanup{Lease: c.Lease, Removed: c.Removed, Token: c.Token, id: id})
	}
	err = x.deps.Process.Streams.Append(ctx, entries...)
	for _, e := range entries {
		done := e.Value.(*deviceCleanup)
		res.LeaseLost, res.Refused = res.LeaseLost || done.leaseLost, res.Refused || done.refused != nil
	}
	return res, err
}

// leaseLost reports whether another process took over the lease under which something is done; nil is no lease.
func leaseLost(ctx context.Context, tx *db.Tx, under *lease.Lease) (bool, error) {
	if under == nil {
		return false, nil
	}
	err := lease.Hold(ctx, tx, *under)
	if errors.Is(err, lease.ErrLost) { // returned as a result, since an error would fail the whole batch
		return true, nil
	}
	return false, err
}

// refuseWithoutToken returns M_UNKNOWN_TOKEN as refused when the access token of a request does not exist any more; 0 is no token.
func refuseWithoutToken(ctx context.Context, tx *db.Tx, tokenID int64) (refused, err error) {
	if tokenID == 0 {
		return nil, nil
	}
	there, err := accounts.TokenExists(ctx, tx, tokenID)
	if err == nil && !there {
		refused = matrix.UnknownToken(false)
	}
	return refused, err
}

// DeviceAdded implements accounts.DeviceListener. It records that the user's device list changed, unless the device has keys:
// their upload was recorded.
func (x *Devices) DeviceAdded(ctx context.Context, userID, deviceID string) error {
	var known bool
	err := x.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM device_keys WHERE user_id = $1 AND device_id = $2)`, userID, deviceID).Scan(&known)
	if err != nil || known {
		return err
	}
	_, err = x.change(ctx, userID, listChange{})
	return err
}

// DevicesRemoved implements accounts.DeviceListener. It deletes the keys and messages of the devices and records that the user's
// device list changed.
func (x *Devices) DevicesRemoved(ctx context.Context, userID string, deviceIDs []string) error {
	return x.removeDevices(ctx, nil, userID, deviceIDs)
}

// removeDevices is DevicesRemoved under a lease; nil is none. Errors: lease.ErrLost.
func (x *Devices) removeDevices(ctx context.Context, under *lease.Lease, userID string, deviceIDs []string) error {
	if len(deviceIDs) == 0 {
		return nil
	}
	if res, err := x.cleanUp(ctx, userID, deviceCleanup{DeviceIDs: deviceIDs, Lease: under, Removed: true}); err != nil || res.LeaseLost {
		return cmp.Or(err, lease.ErrLost)
	}
	res, err := x.change(ctx, userID, listChange{Removed: deviceIDs, Lease: under})
	if err == nil && res.LeaseLost {
		err = lease.ErrLost
	}
	return err
}

// UserDeactivated implements accounts.UserListener. It deletes everything that is stored for the user.
func (x *Devices) UserDeactivated(ctx context.Context, userID string, _ bool) error {
	left, err := x.devicesWithData(ctx, []string{userID})
	if err != nil {
		return err
	}
	if err := x.DevicesRemoved(ctx, userID, left[userID]); err != nil {
		return err
	}
	_, err = x.change(ctx, userID, listChange{UserGone: true})
	return err
}

// dropUser deletes the keys, signatures and backups of a user.
func dropUser(ctx context.Context, tx *db.Tx, userID string) error {
	for _, query := range []string{
		`DELETE FROM device_keys WHERE user_id = $1`,
		`DELETE FROM cross_signing_keys WHERE user_id = $1`,
		`DELETE FROM key_signatures WHERE user_id = $1 OR signer = $1`,
		`DELETE FROM device_list_private WHERE viewer = $1`,
		`DELETE FROM backup_versions WHERE user_id = $1`, // before the keys: an upload of keys locks the version
		`DELETE FROM backup_keys WHERE user_id = $1`,
	} {
		if _, err := tx.Exec(ctx, query, userID); err != nil {
			return err
		}
	}
	return nil
}

// devicesWithData returns the devices of the users for which anything is stored, by user.
func (x *Devices) devicesWithData(ctx context.Context, users []string) (map[string][]string, error) {
	return db.Groups[string, string](
		x.db.Query(
			ctx,
			`SELECT user_id, device_id FROM device_keys WHERE user_id = ANY($1) UNION SELECT user_id, device_id FROM one_time_keys
			WHERE user_id = ANY($1)
		UNION SELECT user_id, device_id FROM one_time_key_hashes WHERE user_id = ANY($1)
		UNION SELECT user_id, device_id FROM fallback_keys WHERE user_id = ANY($1) UNION SELECT user_id, device_id FROM to_device
			WHERE user_id = ANY($1)`,
			users,
		),
	)
}
