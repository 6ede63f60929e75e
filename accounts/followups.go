package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"lyceum/platform/caller"
	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// The kinds of followUp.
const (
	followUpDevices = "devices" // devices were removed
	followUpProfile = "profile" // a field of the profile changed
)

// followUp is work that a change of an account leaves for other parts of the server. It is stored in the table account_news, an
// outbox, in the transaction of the change, so that some process does it even if the one that made the change ends. It is also the
// Data of a row of "sessions".
type followUp struct {
	Kind    string   `json:"kind,omitempty"` // "" for none
	Devices []string `json:"devices,omitempty"`
	Field   string   `json:"field,omitempty"`
	Created int64    `json:"created,omitempty"` // ms
}

// headStart is how long the process that made a change has for the follow-up before the consumer does it. It does no harm if both
// do it.
const headStart = 3 * time.Second

// followUp returns the work that the change leaves, of Kind "" for none.
func (p *pendingChange) followUp() followUp {
	switch {
	case p.Kind == changeProfile && p.result.Changed:
		return followUp{Kind: followUpProfile, Field: p.Field, Created: p.At}
	case len(p.result.Devices) > 0:
		return followUp{Kind: followUpDevices, Devices: p.result.Devices, Created: p.At}
	}
	return followUp{}
}

var followUpRows = &db.Table{
	Name:    "account_news",
	Columns: db.Columns("shard integer, pos integer, user_id text, kind text, body text, created_ms integer"),
}

func (n followUp) row(e *stream.Entry) ([]any, error) {
	body, err := json.Marshal(n)
	return []any{e.Shard, e.Pos, e.Key, n.Kind, string(body), n.Created}, err
}

// readFollowUps is the Read of the consumer. It reads account_news, since the table of the stream keeps only the newest change of
// each user.
func readFollowUps(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	return db.List(func(row db.Row) (stream.Row, error) {
		out := stream.Row{Shard: r.Shard}
		var body string
		err := row.Scan(&out.Pos, &out.Key, &body)
		out.Data = []byte(body)
		return out, err
	})(q.Query(ctx, `SELECT pos, user_id, body FROM account_news WHERE shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos
		LIMIT $4`, r.Shard, r.After, r.Upto, r.Limit))
}

// handleFollowUps is the Work of the consumer.
func (a *Accounts) handleFollowUps(ctx context.Context, shard int, rows []stream.Row) (func(w *db.Batch), error) {
	var done []int64
	for _, row := range rows {
		var n followUp
		if err := json.Unmarshal(row.Data, &n); err != nil {
			return nil, fmt.Errorf("follow-up for %s: %w", row.Key, err)
		}
		if n.Kind == "" {
			continue
		}
		if err := a.doFollowUp(ctx, shard, row, n); err != nil {
			return nil, err
		}
		done = append(done, row.Pos)
	}
	if len(done) == 0 {
		return nil, nil
	}
	return func(w *db.Batch) {
		w.Do(`DELETE FROM account_news WHERE shard = $1 AND pos = ANY($2)`, shard, done)
	}, nil
}

// doFollowUp does the work of a row, unless the process that made the change did it.
func (a *Accounts) doFollowUp(ctx context.Context, shard int, row stream.Row, n followUp) error {
	if n.Kind == followUpProfile {
		if a.deps.Profile == nil {
			return nil
		}
		return a.deps.Profile.ProfileChanged(ctx, row.Key, n.Field)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(min(headStart, headStart-time.Duration(a.nowMs()-n.Created)*time.Millisecond)):
	}
	var left bool
	err := a.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM account_news WHERE shard = $1 AND pos = $2)`, shard, row.Pos).Scan(&left)
	if err != nil || !left {
		return err
	}
	return a.notifyDevicesRemoved(ctx, row.Key, n.Devices)
}

// notifyDevicesRemoved tells the listeners about removed devices. It may be repeated.
func (a *Accounts) notifyDevicesRemoved(ctx context.Context, userID string, devices []string) error {
	var errs []error
	for _, l := range a.deps.Devices {
		errs = append(errs, l.DevicesRemoved(ctx, userID, devices))
	}
	return errors.Join(errs...)
}

// pendingCleanup is a removal of devices whose clean-up is not known to be done.
type pendingCleanup struct {
	Pos     int64    `json:"pos"`
	Devices []string `json:"devices"`
}

// pendingCleanups returns the removals of a device whose clean-up is not known to be done.
func pendingCleanups(ctx context.Context, tx *db.Tx, userID, deviceID string) (left []pendingCleanup, err error) {
	err = db.Each(func(row db.Row) error {
		var pos int64
		var body string
		if err := row.Scan(&pos, &body); err != nil {
			return err
		}
		var n followUp
		if err := json.Unmarshal([]byte(body), &n); err != nil {
			return fmt.Errorf("follow-up for %s: %w", userID, err)
		}
		if slices.Contains(n.Devices, deviceID) {
			left = append(left, pendingCleanup{pos, n.Devices})
		}
		return nil
	})(tx.Query(ctx, `SELECT pos, body FROM account_news WHERE user_id = $1 AND kind = $2 ORDER BY pos`, userID, followUpDevices))
	return left, err
}

// cleanUpDevices cleans up after a removal of devices and deletes its row.
func (a *Accounts) cleanUpDevices(ctx context.Context, userID string, pos int64, devices []string) error {
	if err := a.notifyDevicesRemoved(ctx, userID, devices); err != nil {
		return err
	}
	_, err := a.db.Exec(ctx, `DELETE FROM account_news WHERE shard = $1 AND pos = $2`, a.sessions.stream.Shard(userID), pos)
	return err
}

// cleanUpDevicesNow cleans up right after a removal, so that the next request sees the devices gone. The consumer repeats it when
// it fails.
func (a *Accounts) cleanUpDevicesNow(ctx context.Context, userID string, r sessionResult) {
	ctx, cancel := context.WithTimeout(caller.Stays(ctx), headStart)
	defer cancel()
	if err := a.cleanUpDevices(ctx, userID, r.Pos, r.Devices); err != nil {
		a.log.Warn("the clean-up after removed devices is tried again", "user", userID, "devices", len(r.Devices), "error", err)
	}
}
