package accounts

import (
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// Credentials are what a client gets from a login, a registration or a refresh (Client-Server API,
// POST /login).
type Credentials struct {
	UserID       string `json:"user_id,omitempty"`
	AccessToken  string `json:"access_token,omitempty"`
	DeviceID     string `json:"device_id,omitempty"`
	HomeServer   string `json:"home_server,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	ExpiresInMs  int64  `json:"expires_in_ms,omitempty"`
	WellKnown    any    `json:"well_known,omitempty"`
}

// loginDevice says which device a login is for.
type loginDevice struct {
	ID      string // "" makes one
	Name    string // only for a device that is new
	Refresh bool   // the client takes refresh tokens
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

// user is a row of users.
type user struct {
	id, password, kind, appservice           string
	admin, locked, suspended, pendingCleanup bool
	erased                                   bool
	createdAt, deactivatedAt                 int64
}

func loadUser(ctx context.Context, q db.Querier, userID string) (*user, error) {
	u := &user{id: userID}
	err := q.QueryRow(ctx, `SELECT password, kind, appservice, admin, locked, suspended, `+cleanupColumn+`, erased, created_ms, deactivated_ms
		FROM users WHERE user_id = $1`, userID).
		Scan(&u.password, &u.kind, &u.appservice, &u.admin, &u.locked, &u.suspended, &u.pendingCleanup, &u.erased, &u.createdAt, &u.deactivatedAt)
	return u, err
}

// ErrWrongPassword answers who did not show the password of the user, M_FORBIDDEN.
var ErrWrongPassword = matrix.Forbidden("The user name or the password is wrong")

// checkPassword finds the user of a name (localpart or full id) and compares the password, which counts as a
// guess of who is at the address. It takes the same time whether or not the user exists. All checks of passwords
// go through here. Errors: M_FORBIDDEN, M_USER_DEACTIVATED, M_LIMIT_EXCEEDED.
func (a *Accounts) checkPassword(ctx context.Context, name, password string, from netip.Addr) (*user, error) {
	u, err := a.findUser(ctx, name)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return nil, err
	}
	attempt, err := a.takePasswordAttempt(ctx, u, name, from)
	if err != nil {
		return nil, err
	}
	if u == nil {
		u = &user{}
	}
	if u.deactivatedAt != 0 {
		return nil, matrix.UserDeactivated("This account was deactivated")
	}
	ok, stale, err := a.hasher.verify(ctx, u.password, password)
	if err != nil {
		attempt.refund(ctx)
		return nil, err
	}
	if !ok {
		return nil, ErrWrongPassword
	}
	attempt.succeed(ctx)
	if stale {
		a.rehash(ctx, u, password)
	}
	return u, nil
}

// findUser takes a localpart or a user id of this server, exactly or in lower case.
func (a *Accounts) findUser(ctx context.Context, name string) (*user, error) {
	if local, ok := strings.CutPrefix(name, "@"); ok {
		local, server, _ := strings.Cut(local, ":")
		if server != a.config.ServerName {
			return nil, db.ErrNoRows
		}
		name = local
	}
	if name == "" || len(name) > matrix.MaxIDBytes || strings.Contains(name, "\x00") {
		return nil, db.ErrNoRows
	}
	exact := "@" + name + ":" + a.config.ServerName
	u, err := loadUser(ctx, a.db, exact)
	if lower := "@" + strings.ToLower(name) + ":" + a.config.ServerName; errors.Is(err, db.ErrNoRows) && lower != exact {
		u, err = loadUser(ctx, a.db, lower)
	}
	if err != nil {
		return nil, err
	}
	return u, nil
}

// rehash replaces a hash made with other costs or by another server. It does nothing if it changed meanwhile.
func (a *Accounts) rehash(ctx context.Context, u *user, password string) {
	encoded, err := a.hasher.hash(ctx, password)
	if err == nil {
		var n int64
		n, err = a.db.Exec(ctx, `UPDATE users SET password = $3 WHERE user_id = $1 AND password = $2`, u.id, u.password, encoded)
		if n == 1 {
			u.password = encoded
		}
	}
	if err != nil {
		a.log.Warn("a password hash could not be renewed", "user", u.id, "error", err)
	}
}

// login makes tokens for a device of a user whose right to log in was checked. The password hash must
// still be the one that was checked.
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
	if chosen { // the device may be there: who has its tokens must hear of their end
		l.Transactions = strconv.FormatInt(p.ID, 36)
		var res sessionResult
		res, err = a.changeDevice(ctx, u.id, sessionChange{Kind: changeLogin, Login: &l, At: p.Created})
		found = !res.Stale
		if err == nil && res.Ended {
			a.awaitUnderWay(ctx, u.id)
		}
		if err == nil && !res.Found { // the owner is a process of the version before
			err = stream.ErrNotOwner
		}
	} else {
		// Who is told nothing logs in again, to a second device.
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

// notifyDeviceAdded tells the listeners of a device that was made. One that others do not hear of is not acknowledged. The first
// one, with which the user is made, needs no news: nobody knows the user. It waits for a database that is away: the device is
// there, and a log-in that fails is done again with another one.
func (a *Accounts) notifyDeviceAdded(ctx context.Context, userID, deviceID string) error {
	for _, l := range a.deps.Devices {
		for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
			err := l.DeviceAdded(ctx, userID, deviceID)
			if err == nil {
				break
			}
			if !db.IsTemporary(err) {
				return err
			}
			select {
			case <-ctx.Done():
				return err
			case <-time.After(wait):
			}
		}
	}
	return nil
}

// newLogin is a log-in of a user whose right to it was checked.
type newLogin struct {
	Device   loginDevice `json:"device"`
	Tokens   *tokenPair  `json:"pair,omitempty"`
	Password string      `json:"password,omitempty"` // the hash that was checked
	// Transactions tells those of the device, if it is new, from those of an earlier one with its id; "" where there was none.
	Transactions string `json:"transactions,omitempty"`

	ended bool // the device had tokens
}

// apply does the log-in, unless the password is another by now.
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

// insert stores the device, if it is new, and the tokens that are its only ones.
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

// newTokenPair makes tokens that are not stored yet.
func (a *Accounts) newTokenPair(ctx context.Context, userID, deviceID string, refresh bool) (*tokenPair, *Credentials, error) {
	access, err := a.keys.newToken(ctx, accessPrefix)
	if err != nil {
		return nil, nil, err
	}
	p := &tokenPair{ID: newTokenID(), UserID: userID, DeviceID: deviceID, Access: hashToken(access), Created: a.nowMs()}
	creds := &Credentials{UserID: userID, DeviceID: deviceID, AccessToken: access, HomeServer: a.config.ServerName}
	life := a.config.FixedTokenLife.D()
	if refresh {
		token, err := a.keys.newToken(ctx, refreshPrefix)
		if err != nil {
			return nil, nil, err
		}
		hash := hashToken(token)
		p.Refresh, creds.RefreshToken, life = &hash, token, a.config.AccessTokenLife.D()
		if r := a.config.RefreshTokenLife.D(); r > 0 {
			p.RefreshExpires = p.Created + r.Milliseconds()
		}
	}
	if life > 0 {
		creds.ExpiresInMs = life.Milliseconds()
		p.Expires = p.Created + creds.ExpiresInMs
	}
	return p, creds, nil
}

// Refresh gives new tokens for a refresh token. The old ones hold until one of the new ones is used; asking
// again before that replaces the new ones (Client-Server API, POST /refresh). Errors: M_UNKNOWN_TOKEN,
// M_USER_LOCKED.
func (a *Accounts) Refresh(ctx context.Context, token string) (*Credentials, error) {
	genuine, err := a.keys.hasChecksum(ctx, refreshPrefix, token)
	if err != nil {
		return nil, err
	}
	if !genuine {
		return nil, matrix.UnknownToken(false)
	}
	old, err := loadByRefreshToken(ctx, a.db, hashToken(token))
	if errors.Is(err, db.ErrNoRows) {
		return nil, matrix.UnknownToken(false)
	}
	if err != nil {
		return nil, err
	}
	if old.RefreshExpires != 0 && old.RefreshExpires <= a.nowMs() {
		return nil, matrix.UnknownToken(true)
	}
	u, err := loadUser(ctx, a.db, old.UserID)
	if err != nil {
		return nil, err
	}
	if u.locked {
		return nil, matrix.UserLocked("This account is locked")
	}
	if old.Parent != 0 {
		if err := a.confirmTokens(ctx, old.UserID, old.ID); err != nil {
			return nil, err
		}
	}
	p, creds, err := a.newTokenPair(ctx, old.UserID, old.DeviceID, true)
	if err != nil {
		return nil, err
	}
	p.Parent = old.ID
	err = a.db.Settle(ctx, func(tx *db.Tx) error {
		// Whoever ends the device or its tokens comes before or after all of this.
		if there, err := lockDevice(ctx, tx, old.UserID, old.DeviceID, old.ID); err != nil {
			return err
		} else if !there {
			return matrix.UnknownToken(false)
		}
		// Without "<> 0" the index of those that have one can not be used, and all tokens are read.
		if _, err := tx.Exec(ctx, `DELETE FROM tokens WHERE parent = $1 AND parent <> 0`, old.ID); err != nil {
			return err
		}
		return insertTokenPair(ctx, tx, p)
	}, p.stored)
	if err != nil {
		return nil, err
	}
	creds.UserID, creds.DeviceID, creds.HomeServer = "", "", ""
	return creds, nil
}

// IssueToken makes a device with a token that does not run out, for the command line and for tools of the
// operator. The user must exist and be active.
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
