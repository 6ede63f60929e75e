package accounts

import (
	"context"
	"errors"

	"lyceum/matrix"
	"lyceum/platform/db"
)

// newTokenPair creates an access token and, with refresh, a refresh token. They are not stored yet.
func (a *Accounts) newTokenPair(ctx context.Context, userID, deviceID string, refresh bool) (*tokenPair, *Credentials, error) {
	access, err := a.secret.newToken(ctx, accessPrefix)
	if err != nil {
		return nil, nil, err
	}
	p := &tokenPair{ID: newTokenID(), UserID: userID, DeviceID: deviceID, Access: hashToken(access), Created: a.nowMs()}
	creds := &Credentials{UserID: userID, DeviceID: deviceID, AccessToken: access, HomeServer: a.config.ServerName}
	life := a.config.FixedTokenLife.D()
	if refresh {
		token, err := a.secret.newToken(ctx, refreshPrefix)
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

// Refresh returns new tokens for a refresh token. The old tokens are valid until a new one is used first. A repeated refresh before
// that replaces the new ones (Client-Server API, POST /refresh). Errors: M_UNKNOWN_TOKEN, M_USER_LOCKED.
func (a *Accounts) Refresh(ctx context.Context, token string) (*Credentials, error) {
	genuine, err := a.secret.hasChecksum(ctx, refreshPrefix, token)
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
		// A removal of the device or its tokens runs completely before or completely after this, because of the lock.
		if there, err := lockDevice(ctx, tx, old.UserID, old.DeviceID, old.ID); err != nil {
			return err
		} else if !there {
			return matrix.UnknownToken(false)
		}
		// Without "<> 0" the partial index on parent can not be used, and the statement reads all tokens.
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
