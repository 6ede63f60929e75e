package push

import (
	"context"
	"encoding/json"
	"time"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// pusher is a Pusher of the specification: where a user wants notifications to be sent.
type pusher struct {
	UserID     string          `json:"-"`
	AppID      string          `json:"app_id"`
	Pushkey    string          `json:"pushkey"`
	Kind       string          `json:"kind"`
	AppName    string          `json:"app_display_name"`
	DeviceName string          `json:"device_display_name"`
	ProfileTag string          `json:"profile_tag,omitempty"`
	Lang       string          `json:"lang"`
	Data       json.RawMessage `json:"data"`
	setAt      int64           // when the user set it, in ms since 1970
	deviceID   string          // of the device that set it
}

// url returns the address of the gateway.
func (p *pusher) url() string {
	var data struct {
		URL string `json:"url"`
	}
	_ = json.Unmarshal(p.Data, &data) // it was checked when it was stored
	return data.URL
}

// pushersTopic is the bus topic on which a process tells the others that pushers changed. Processes of this version do not rely on it,
// see checkPushers.
const pushersTopic = "pushers"

func (p *Push) pushersChanged(bus.Message) { p.sender.forgetReceivers() }

func (p *Push) announcePushers(ctx context.Context) {
	p.sender.forgetReceivers()
	_ = p.Process.Bus.Publish(ctx, bus.Message{Topic: pushersTopic}) // only a hint, so errors do not matter
}

// pushersChange counts a change of pushers. It is the last statement of the transaction of the change, as it waits for other changes.
const pushersChange = `UPDATE pusher_changes SET n = n + 1 WHERE id = 1`

// checkPushers removes the receivers of rooms from the cache when pushers were changed since they were read, so that a user who sets a
// pusher is notified of all events that are acknowledged later. Calls at the same time share one read.
func (p *Push) checkPushers(ctx context.Context) error {
	w := &p.sender
	turn := w.tickets.Add(1)
	w.counting.Lock()
	defer w.counting.Unlock()
	if turn <= w.answered { // by a read that began after this call
		return nil
	}
	turn = w.tickets.Load()
	var n int64
	if err := p.Process.DB.QueryRow(ctx, `SELECT n FROM pusher_changes WHERE id = 1`).Scan(&n); err != nil {
		return err
	}
	if n != w.changeCount {
		w.forgetReceivers()
	}
	w.changeCount, w.answered = n, turn
	return nil
}

// checkPushersEvery is how often pushersChangedSince calls checkPushers. Changes that this process hears of it knows at once.
const checkPushersEvery = 100 * time.Millisecond

// pushersChangedSince reports whether pushers may have been changed since senderState.changed had the value seen. checkedAt is when it
// called checkPushers last.
func (p *Push) pushersChangedSince(ctx context.Context, seen int64, checkedAt *time.Time) bool {
	if now := p.Now(); now.Sub(*checkedAt) >= checkPushersEvery {
		*checkedAt = now
		if err := p.checkPushers(ctx); err != nil {
			return true
		}
	}
	return p.sender.changed.Load() != seen
}

// queryPushers reads the pushers that a condition with its arguments selects.
func (p *Push) queryPushers(ctx context.Context, where string, args ...any) ([]*pusher, error) {
	return db.List(func(row db.Row) (*pusher, error) {
		x := &pusher{}
		var data string
		err := row.Scan(&x.UserID, &x.AppID, &x.Pushkey, &x.Kind, &x.AppName, &x.DeviceName, &x.ProfileTag, &x.Lang, &data, &x.deviceID, &x.setAt)
		x.Data = json.RawMessage(data)
		return x, err
	})(p.Process.DB.Query(ctx, `SELECT user_id, app_id, pushkey, kind, app_name, device_name, profile_tag, lang, data, device_id, set_ms
		FROM pushers WHERE `+where+` ORDER BY user_id, app_id, pushkey`, args...))
}

// putPusher stores a pusher of a device.
func (p *Push) putPusher(ctx context.Context, who *web.Identity, b *pusherBody) error {
	return p.Process.DB.Tx(ctx, func(tx *db.Tx) error {
		if err := accounts.LockDevice(ctx, tx, who); err != nil {
			return err
		}
		if !b.Append {
			if _, err := tx.Exec(ctx, `DELETE FROM pushers WHERE app_id = $1 AND pushkey = $2
				AND user_id <> $3`, b.AppID, b.Pushkey, who.UserID); err != nil {
				return err
			}
		}
		var n int
		if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM pushers WHERE user_id = $1`, who.UserID).Scan(&n); err != nil {
			return err
		}
		if n > maxPushers {
			return matrix.TooLarge("You have too many pushers: remove one first")
		}
		_, err := tx.Exec(
			ctx,
			`INSERT INTO pushers (user_id, app_id, pushkey, kind, app_name, device_name, profile_tag, lang, data, device_id, set_ms)
			VALUES ($1, $2, $3, 'http', $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (user_id, app_id, pushkey) DO UPDATE SET
			app_name = excluded.app_name, device_name = excluded.device_name, profile_tag = excluded.profile_tag,
			lang = excluded.lang, data = excluded.data, device_id = excluded.device_id, set_ms = excluded.set_ms`,
			who.UserID,
			b.AppID,
			b.Pushkey,
			*b.AppName,
			*b.DeviceName,
			b.ProfileTag,
			*b.Lang,
			string(b.Data),
			who.DeviceID,
			p.Now().UnixMilli(),
		)
		if err == nil {
			_, err = tx.Exec(ctx, pushersChange)
		}
		return err
	})
}

const wherePusher = ` WHERE user_id = $1 AND app_id = $2 AND pushkey = $3`

func (p *Push) deletePusher(ctx context.Context, userID, appID, pushkey string) error {
	return p.Process.DB.Tx(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM pushers"+wherePusher, userID, appID, pushkey); err != nil {
			return err
		}
		return removeOutbox(ctx, tx, userID, appID, pushkey)
	})
}

// deleteRejected removes a pusher, unless it was changed since it was read.
func (p *Push) deleteRejected(ctx context.Context, x *pusher) (removed bool, err error) {
	err = p.Process.DB.Tx(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(
			ctx, "DELETE FROM pushers"+wherePusher+" AND set_ms = $4 AND data = $5", x.UserID, x.AppID, x.Pushkey, x.setAt, string(x.Data),
		)
		if removed = n > 0; err != nil || !removed {
			return err
		}
		return removeOutbox(ctx, tx, x.UserID, x.AppID, x.Pushkey)
	})
	return removed, err
}

// removeOutbox removes the rows of the outbox of a pusher that is removed, in the same transaction.
func removeOutbox(ctx context.Context, tx *db.Tx, userID, appID, pushkey string) error {
	if _, err := tx.Exec(ctx, "DELETE FROM push_outbox"+wherePusher, userID, appID, pushkey); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, pushersChange)
	return err
}

// DevicesRemoved implements accounts.DeviceListener: it removes the pushers that the devices set, but not those of a device with the same
// id that was made since.
func (p *Push) DevicesRemoved(ctx context.Context, userID string, deviceIDs []string) error {
	err := p.Process.DB.Tx(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `DELETE FROM pushers WHERE user_id = $1 AND device_id = ANY($2)
			AND NOT EXISTS (SELECT 1 FROM user_devices d WHERE d.user_id = pushers.user_id AND d.device_id = pushers.device_id)`, userID, deviceIDs)
		if err == nil && n > 0 {
			_, err = tx.Exec(ctx, pushersChange)
		}
		return err
	})
	if err == nil {
		p.announcePushers(ctx)
	}
	return err
}
