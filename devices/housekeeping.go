package devices

import (
	"context"
	"errors"
	"slices"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/role"
)

const txnLife = 24 * time.Hour

// housekeeping runs in one process of the fleet: it deletes old transactions and claims, contents without a message, and what was
// stored for a device while it was being removed.
func (x *Devices) housekeeping(ctx context.Context, job *role.Job) error {
	tick := time.NewTicker(10 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// All steps run, also after a failed one.
		txns := job.Exec(ctx, `DELETE FROM to_device_txns WHERE created_ms < $1`, x.nowMs()-txnLife.Milliseconds())
		claims := job.Exec(ctx, `DELETE FROM claimed_keys WHERE created_ms < $1`, x.nowMs()-claimLife.Milliseconds())
		if err := errors.Join(txns, claims, x.dropForRemovedDevices(ctx, job), x.dropContents(ctx, job)); err != nil {
			return err
		}
	}
}

// dropContents deletes contents that no message refers to. A message and the content it refers to are stored in one transaction.
func (x *Devices) dropContents(ctx context.Context, job *role.Job) error {
	return job.Exec(ctx, `DELETE FROM to_device_contents WHERE NOT EXISTS (SELECT 1 FROM to_device m
		WHERE m.shard = to_device_contents.shard AND m.content_pos = to_device_contents.pos AND m.content_pos <> 0)`)
}

// dropForRemovedDevices deletes what is stored for devices that do not exist. The owners of the users' shards check the lease of
// the job: a process that was paused after reading the list of devices could otherwise delete data of a device that was created
// since.
func (x *Devices) dropForRemovedDevices(ctx context.Context, job *role.Job) error {
	under := job.Lease()
	const page = 500
	for after := ""; ; {
		users, err := db.Texts(
			x.db.Query(
				ctx,
				`SELECT user_id FROM (SELECT user_id FROM device_keys WHERE user_id > $1 UNION SELECT user_id FROM one_time_keys WHERE user_id > $1
			UNION SELECT user_id FROM one_time_key_hashes WHERE user_id > $1 UNION SELECT user_id FROM fallback_keys WHERE user_id > $1
			UNION SELECT user_id FROM to_device WHERE user_id > $1) AS kept ORDER BY user_id LIMIT $2`,
				after,
				page,
			),
		)
		if err != nil || len(users) == 0 {
			return err
		}
		after = users[len(users)-1]
		kept, err := x.devicesWithData(ctx, users)
		if err != nil {
			return err
		}
		// Read after the stored data, so that a device that was created in between is not taken for removed.
		known, err := x.accounts.Devices(ctx, users...)
		if err != nil {
			return err
		}
		for userID, devices := range kept {
			removed := slices.DeleteFunc(devices, func(id string) bool {
				return hasDevice(known, userID, id)
			})
			err := x.removeDevices(ctx, &under, userID, removed)
			if errors.Is(err, lease.ErrLost) || ctx.Err() != nil {
				return err
			}
			if err != nil { // the other users are cleaned up all the same
				x.log.Warn("what is kept for removed devices is not dropped yet, it is tried again", "user", userID, "error", err)
			}
		}
		if len(users) < page {
			return nil
		}
	}
}
