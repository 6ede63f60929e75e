package accounts

import (
	"context"
	"errors"

	"lyceum/matrix"
	"lyceum/platform/db"
)

// OpenIDUser returns the user of an OpenID token. It is for GET /_matrix/federation/v1/openid/userinfo, which is not served yet.
// Errors: M_UNKNOWN_TOKEN.
func (a *Accounts) OpenIDUser(ctx context.Context, token string) (userID string, err error) {
	genuine, err := a.secret.hasChecksum(ctx, openIDPrefix, token)
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
