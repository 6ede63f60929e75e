package accounts

import (
	"context"
	"errors"
	"time"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

const openIDLife = time.Hour

// requestOpenID makes a token that another service may exchange for the caller's user id
// (Client-Server API, POST /user/{userId}/openid/request_token).
func (a *Accounts) requestOpenID(r *web.Request, _ *struct{}) (any, error) {
	userID, err := a.ownUserID(r)
	if err != nil {
		return nil, err
	}
	token, err := a.keys.newToken(r.Context(), openIDPrefix)
	if err != nil {
		return nil, err
	}
	hash := hashToken(token)
	_, err = a.db.Exec(
		r.Context(), `INSERT INTO openid_tokens (hash, user_id, expires_ms) VALUES ($1, $2, $3)`, hash[:], userID,
		a.nowMs()+openIDLife.Milliseconds(),
	)
	return map[string]any{
		"access_token":       token,
		"token_type":         "Bearer",
		"matrix_server_name": a.config.ServerName,
		"expires_in":         int(openIDLife.Seconds()),
	}, err
}

// OpenIDUser finds the user of an OpenID token, for GET /_matrix/federation/v1/openid/userinfo. Errors:
// M_UNKNOWN_TOKEN.
func (a *Accounts) OpenIDUser(ctx context.Context, token string) (userID string, err error) {
	genuine, err := a.keys.hasChecksum(ctx, openIDPrefix, token)
	if err != nil {
		return "", err
	}
	if !genuine {
		return "", matrix.UnknownToken(false)
	}
	hash := hashToken(token)
	err = a.db.QueryRow(ctx, `SELECT o.user_id FROM openid_tokens o JOIN users u ON u.user_id = o.user_id
		WHERE o.hash = $1 AND o.expires_ms > $2 AND u.deactivated_ms = 0`, hash[:], a.nowMs()).Scan(&userID)
	if errors.Is(err, db.ErrNoRows) {
		return "", matrix.UnknownToken(false)
	}
	return userID, err
}
