package accounts

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"lyceum/matrix"
	"lyceum/platform/backoff"
	"lyceum/platform/db"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// Credentials answer a log-in, a registration or a refresh (Client-Server API, POST /login).
type Credentials struct {
	UserID       string `json:"user_id,omitempty"`
	AccessToken  string `json:"access_token,omitempty"`
	DeviceID     string `json:"device_id,omitempty"`
	HomeServer   string `json:"home_server,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	ExpiresInMs  int64  `json:"expires_in_ms,omitempty"`
	WellKnown    any    `json:"well_known,omitempty"`
}

// loginDevice is the device of a log-in, which may be new.
type loginDevice struct {
	ID      string // "" for a new one with a generated id
	Name    string // used only when the device is new
	Refresh bool   // the client supports refresh tokens
	From    netip.Addr
	Agent   string
}

const (
	maxDeviceID   = 255  // bytes
	maxDeviceName = 1024 // bytes
)

func (d loginDevice) check() error {
	if d.ID == "*" {
		return matrix.InvalidParam("The device id * stands for all devices of a user: choose another one")
	}
	if len(d.ID) > maxDeviceID || len(d.Name) > maxDeviceName || strings.Contains(d.ID+d.Name, "\x00") {
		return matrix.InvalidParam("A device id has at most 255 bytes and a device name 1024, both without NUL")
	}
	return nil
}

// login creates tokens for a device of a user whose password, or other right to log in, was checked. It fails with
// ErrWrongPassword if the password was changed since u was loaded.
func (a *Accounts) login(ctx context.Context, u *user, d loginDevice) (*Credentials, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	chosen := d.ID != ""
	if !chosen {
		d.ID = newDeviceID()
	}
	p, creds, err := a.newTokenPair(ctx, u.id, d.ID, d.Refresh)
	if err != nil {
		return nil, err
	}
	l := newLogin{Device: d, Tokens: p, Password: u.password}
	var found bool
	if chosen { // the device may exist: then every process must learn that its old tokens end
		l.Transactions = strconv.FormatInt(p.ID, 36)
		var res sessionResult
		res, err = a.changeDevice(ctx, u.id, sessionChange{Kind: changeLogin, Login: &l, At: p.Created})
		found = !res.Stale
		if err == nil && res.Ended {
			a.awaitUnderWay(ctx, u.id)
		}
		if err == nil && !res.Found { // the owner runs the previous version, which does not know this change
			err = stream.ErrNotOwner
		}
	} else {
		// If this fails although the device was stored, the client logs in again and gets a second device.
		err = a.db.Settle(ctx, func(tx *db.Tx) (err error) {
			found, err = l.apply(ctx, tx, u.id)
			return err
		}, p.stored)
	}
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ErrWrongPassword
	}
	if err := a.notifyDeviceAdded(ctx, u.id, d.ID); err != nil {
		return nil, err
	}
	return creds, nil
}

// notifyDeviceAdded tells the listeners about a new device. The log-in is acknowledged only afterwards. It is not called for the
// device that is created together with its user, since nobody knows the user yet. It retries while the database is unavailable:
// the device is stored, and a client whose log-in fails would log in again and create another one.
func (a *Accounts) notifyDeviceAdded(ctx context.Context, userID, deviceID string) error {
	retry := backoff.Backoff{First: 20 * time.Millisecond, Max: 500 * time.Millisecond}
	for _, l := range a.deps.Devices {
		err := backoff.Retry(ctx, retry, db.IsTemporary, func() error { return l.DeviceAdded(ctx, userID, deviceID) })
		if err != nil {
			return err
		}
	}
	return nil
}

// newLogin is a log-in that was authorised: the device and its new tokens.
type newLogin struct {
	Device   loginDevice `json:"device"`
	Tokens   *tokenPair  `json:"pair,omitempty"`
	Password string      `json:"password,omitempty"` // the hash that was checked
	// Transactions is a scope for transaction ids that a new device gets, so that they differ from those of an earlier device
	// with the same id. "" for a device with a generated id.
	Transactions string `json:"transactions,omitempty"`

	ended bool // the device had tokens
}

// apply stores the log-in. found is false when the password was changed meanwhile or the user is not active.
func (l *newLogin) apply(ctx context.Context, tx *db.Tx, userID string) (found bool, err error) {
	n, err := tx.Exec(
		ctx, `UPDATE users SET login_ms = $3 WHERE user_id = $1 AND password = $2 AND deactivated_ms = 0`, userID, l.Password,
		l.Tokens.Created,
	)
	if err != nil || n == 0 {
		return false, err
	}
	return true, l.insert(ctx, tx)
}

// insert stores the device, if it is new, and replaces its tokens.
func (l *newLogin) insert(ctx context.Context, tx *db.Tx) error {
	p, d, ip, key := l.Tokens, l.Device, "", ""
	if d.From.IsValid() {
		ip, key = d.From.String(), web.AddressKey(d.From)
	}
	_, err := tx.Exec(
		ctx,
		`INSERT INTO user_devices (user_id, device_id, display_name, created_ms, seen_ms, seen_ip, login_ip, user_agent, transactions)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (user_id, device_id) DO UPDATE
			SET seen_ms = excluded.seen_ms, seen_ip = excluded.seen_ip, login_ip = excluded.login_ip, user_agent = excluded.user_agent`,
		p.UserID,
		p.DeviceID,
		d.Name,
		p.Created,
		p.Created,
		ip,
		key,
		d.Agent,
		l.Transactions,
	)
	if err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `DELETE FROM tokens WHERE user_id = $1 AND device_id = $2`, p.UserID, p.DeviceID)
	if err != nil {
		return err
	}
	l.ended = n > 0
	return insertTokenPair(ctx, tx, p)
}

// IssueToken creates a device with an access token that does not expire, for the command line and other tools of the operator.
// The user must exist and be active.
func (a *Accounts) IssueToken(ctx context.Context, userID, deviceName string) (token, deviceID string, err error) {
	p, creds, err := a.newTokenPair(ctx, userID, newDeviceID(), false)
	if err != nil {
		return "", "", err
	}
	p.Expires = 0
	err = a.db.Settle(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE users SET login_ms = $2 WHERE user_id = $1 AND deactivated_ms = 0`, userID, p.Created)
		if err == nil && n == 0 {
			err = noUser(userID)
		}
		if err != nil {
			return err
		}
		return (&newLogin{Device: loginDevice{Name: deviceName}, Tokens: p}).insert(ctx, tx)
	}, p.stored)
	if err == nil {
		err = a.notifyDeviceAdded(ctx, userID, creds.DeviceID)
	}
	if err != nil {
		return "", "", err
	}
	return creds.AccessToken, creds.DeviceID, nil
}

// applyLogin does a changeLogin or changeDevice in the transaction of the stream. It may run again in another transaction.
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
