package accounts

import (
	"context"
	"time"

	"lyceum/platform/role"
)

// housekeeping runs each minute in one process of the fleet: it deletes what expired, releases lost uses of registration tokens,
// finishes interrupted deactivations and indexes display names that an earlier version stored.
func (a *Accounts) housekeeping(ctx context.Context, job *role.Job) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	var missing map[string]int64
	for {
		err := a.expire(ctx, job)
		if err != nil {
			return err
		}
		if missing, err = a.releaseLostTokenUses(ctx, job, missing); err != nil {
			return err
		}
		if err := a.finishDeactivations(ctx, job); err != nil {
			return err
		}
		if err := a.indexNames(ctx, job); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// expire deletes expired interactions, nonces, OpenID tokens and addresses of log-ins.
func (a *Accounts) expire(ctx context.Context, job *role.Job) error {
	now := a.nowMs()
	if err := a.expireInteractive(ctx, job, now); err != nil {
		return err
	}
	for _, query := range []string{
		`DELETE FROM used_nonces WHERE expires_ms < $1`,
		`DELETE FROM openid_tokens WHERE expires_ms < $1`,
	} {
		if err := job.Exec(ctx, query, now); err != nil {
			return err
		}
	}
	return job.Exec(ctx, `DELETE FROM login_addresses WHERE used_ms < $1`, now-loginAddressLife.Milliseconds())
}
