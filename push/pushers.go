package push

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// pusher is where a user wants notifications.
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
	set        int64           // ms
	deviceID   string          // that set it
}

// url is the address of the gateway.
func (p *pusher) url() string {
	var data struct {
		URL string `json:"url"`
	}
	_ = json.Unmarshal(p.Data, &data) // it was checked when it was stored
	return data.URL
}

// pushersTopic is the bus topic on which a process tells the others that pushers changed. Those of this version look before
// they send, see pushersNow.
const pushersTopic = "pushers"

func (p *Push) pushersChanged(bus.Message) { p.sender.forget() }

func (p *Push) announcePushers(ctx context.Context) {
	p.sender.forget()
	_ = p.Process.Bus.Publish(ctx, bus.Message{Topic: pushersTopic}) // a hint
}

// pushersChange is a statement behind a change of pushers, in its transaction: the last, as it waits for other changes.
const pushersChange = `UPDATE pusher_changes SET n = n + 1 WHERE id = 1`

// pushersNow forgets the receivers of rooms when pushers were changed since they were read: whoever sets a pusher is told of
// all events that are acknowledged later. Shards that come together ask once.
func (p *Push) checkPushers(ctx context.Context) error {
	w := &p.sender
	turn := w.tickets.Add(1)
	w.counting.Lock()
	defer w.counting.Unlock()
	if turn <= w.answered { // by a read that began later
		return nil
	}
	turn = w.tickets.Load()
	var n int64
	if err := p.Process.DB.QueryRow(ctx, `SELECT n FROM pusher_changes WHERE id = 1`).Scan(&n); err != nil {
		return err
	}
	if n != w.changeCount {
		w.forget()
	}
	w.changeCount, w.answered = n, turn
	return nil
}

// lookEvery is how often who waits for a place looks whether pushers were changed; of a change that this process hears of it knows
// at once.
const checkPushersEvery = 100 * time.Millisecond

// pushersMoved tells that pushers may have been changed since it was seen how often they were. looked is when it was asked last.
func (p *Push) pushersChangedSince(ctx context.Context, seen int64, looked *time.Time) bool {
	if now := p.Now(); now.Sub(*looked) >= checkPushersEvery {
		*looked = now
		if err := p.checkPushers(ctx); err != nil {
			return true
		}
	}
	return p.sender.changed.Load() != seen
}

func (p *Push) queryPushers(ctx context.Context, where string, args ...any) ([]*pusher, error) {
	return db.List(func(row db.Row) (*pusher, error) {
		x := &pusher{}
		var data string
		err := row.Scan(&x.UserID, &x.AppID, &x.Pushkey, &x.Kind, &x.AppName, &x.DeviceName, &x.ProfileTag, &x.Lang, &data, &x.deviceID, &x.set)
		x.Data = json.RawMessage(data)
		return x, err
	})(p.Process.DB.Query(ctx, `SELECT user_id, app_id, pushkey, kind, app_name, device_name, profile_tag, lang, data, device_id, set_ms
		FROM pushers WHERE `+where+` ORDER BY user_id, app_id, pushkey`, args...))
}

func (p *Push) getPushers(r *web.Request) (any, error) {
	list, err := p.queryPushers(r.Context(), `user_id = $1`, r.UserID())
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []*pusher{}
	}
	return map[string]any{"pushers": list}, nil
}

type pusherBody struct {
	Kind       json.RawMessage `json:"kind"`
	AppID      string          `json:"app_id"`
	Pushkey    string          `json:"pushkey"`
	AppName    *string         `json:"app_display_name"`
	DeviceName *string         `json:"device_display_name"`
	ProfileTag string          `json:"profile_tag"`
	Lang       *string         `json:"lang"`
	Data       json.RawMessage `json:"data"`
	Append     bool            `json:"append"`
}

const (
	maxPushkey = 512
	maxAppID   = 64
	maxText    = 1000
	maxPushers = 100 // of a user
)

func (p *Push) setPusher(r *web.Request, b *pusherBody) (any, error) {
	if len(b.Kind) == 0 || b.AppID == "" || b.Pushkey == "" {
		return nil, matrix.MissingParam("Expected kind, app_id and pushkey")
	}
	if len(b.AppID) > maxAppID || len(b.Pushkey) > maxPushkey {
		return nil, matrix.InvalidParam("Expected an app_id of at most 64 and a pushkey of at most 512 bytes")
	}
	if string(b.Kind) == "null" {
		defer p.announcePushers(r.Context())
		return nil, p.deletePusher(r.Context(), r.UserID(), b.AppID, b.Pushkey)
	}
	if err := p.checkPusher(b); err != nil {
		return nil, err
	}
	defer p.announcePushers(r.Context())
	return nil, p.putPusher(r.Context(), r.Identity, b)
}

func (p *Push) checkPusher(b *pusherBody) error {
	var missing []string
	for name, absent := range map[string]bool{
		"app_display_name": b.AppName == nil, "device_display_name": b.DeviceName == nil, "lang": b.Lang == nil, "data": len(b.Data) == 0,
	} {
		if absent {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return matrix.MissingParam("Missing parameters: " + strings.Join(missing, ", "))
	}
	if string(b.Kind) != `"http"` {
		return matrix.InvalidParam("kind: this server knows http and null")
	}
	if len(*b.AppName) > maxText || len(*b.DeviceName) > maxText || len(*b.Lang) > maxText || len(b.ProfileTag) > maxText ||
		len(b.Data) > 4*maxText {
		return matrix.InvalidParam("The description of the pusher is too long")
	}
	var data struct {
		URL    string `json:"url"`
		Format string `json:"format"`
	}
	if b.Data[0] != '{' || json.Unmarshal(b.Data, &data) != nil {
		return matrix.InvalidParam("data: expected an object with url")
	}
	if data.URL == "" {
		return matrix.MissingParam("data.url: expected the URL of the push gateway")
	}
	u, err := url.Parse(data.URL)
	if err != nil || u.Host == "" || u.User != nil || u.Path != "/_matrix/push/v1/notify" ||
		u.Scheme != "https" && (u.Scheme != "http" || !p.config.AllowHTTP) {
		return matrix.InvalidParam("data.url: expected https://HOST/_matrix/push/v1/notify")
	}
	return nil
}

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

// deleteRejected removes a pusher if it is there as it was read: its user may have set it anew since.
func (p *Push) deleteRejected(ctx context.Context, x *pusher) (removed bool, err error) {
	err = p.Process.DB.Tx(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(
			ctx, "DELETE FROM pushers"+wherePusher+" AND set_ms = $4 AND data = $5", x.UserID, x.AppID, x.Pushkey, x.set, string(x.Data),
		)
		if removed = n > 0; err != nil || !removed {
			return err
		}
		return removeOutbox(ctx, tx, x.UserID, x.AppID, x.Pushkey)
	})
	return removed, err
}

// pusherGone is behind the removal of a pusher, in its transaction.
func removeOutbox(ctx context.Context, tx *db.Tx, userID, appID, pushkey string) error {
	if _, err := tx.Exec(ctx, "DELETE FROM push_outbox"+wherePusher, userID, appID, pushkey); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, pushersChange)
	return err
}

// DevicesRemoved implements accounts.DeviceListener: the pushers that the devices set end with them, but not those
// of a device of the same id that was made since.
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
