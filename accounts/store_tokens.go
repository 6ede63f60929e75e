package accounts

import (
	"context"
	"database/sql"
	"errors"

	"lyceum/platform/db"
)

// joinDevice is a part of SQL: a token is valid only while its device exists. Every transaction that writes tokens of a device
// locks the row of the device before; if it also writes the row of the user, it locks that one first.
const joinDevice = ` JOIN user_devices d ON d.user_id = t.user_id AND d.device_id = t.device_id `

// loadSession loads the session of an access token. Errors: db.ErrNoRows.
func loadSession(ctx context.Context, q db.Querier, hash tokenHash) (*session, error) {
	s := &session{}
	var kind string
	err := q.QueryRow(ctx, `SELECT t.id, t.user_id, t.device_id, t.expires_ms, t.refresh_hash IS NOT NULL, t.parent,
		u.admin, u.kind, u.locked, u.suspended, d.transactions
		FROM tokens t JOIN users u ON u.user_id = t.user_id`+joinDevice+`WHERE t.access_hash = $1 AND u.deactivated_ms = 0`, hash[:]).
		Scan(&s.identity.TokenID, &s.identity.UserID, &s.identity.DeviceID, &s.expires, &s.refreshable, &s.parent, &s.identity.Admin, &kind,
			&s.locked, &s.identity.Suspended, &s.identity.Transactions)
	s.identity.Guest = kind == kindGuest
	return s, err
}

// tokenPair is a row of tokens: an access token and, for clients that can refresh, its refresh token.
type tokenPair struct {
	ID             int64      `json:"id"`
	UserID         string     `json:"user_id"`
	DeviceID       string     `json:"device_id"`
	Access         tokenHash  `json:"access"`
	Refresh        *tokenHash `json:"refresh,omitempty"`
	Parent         int64      `json:"parent,omitempty"`
	Created        int64      `json:"created"` // ms, like the next two
	Expires        int64      `json:"expires,omitempty"`
	RefreshExpires int64      `json:"refresh_expires,omitempty"`
}

func insertTokenPair(ctx context.Context, tx *db.Tx, p *tokenPair) error {
	var refresh []byte
	if p.Refresh != nil {
		refresh = p.Refresh[:]
	}
	_, err := tx.Exec(
		ctx,
		`INSERT INTO tokens (id, user_id, device_id, access_hash, refresh_hash, parent, created_ms, expires_ms, refresh_expires_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		p.ID,
		p.UserID,
		p.DeviceID,
		p.Access[:],
		refresh,
		p.Parent,
		p.Created,
		p.Expires,
		p.RefreshExpires,
	)
	return err
}

// stored reports whether the pair is in the database.
func (p *tokenPair) stored(ctx context.Context, q db.Querier) (there bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM tokens WHERE id = $1)`, p.ID).Scan(&there)
	return there, err
}

// loadByRefreshToken loads the pair of a refresh token, without its hashes. Errors: db.ErrNoRows.
func loadByRefreshToken(ctx context.Context, q db.Querier, hash tokenHash) (*tokenPair, error) {
	p := &tokenPair{}
	err := q.QueryRow(ctx, `SELECT t.id, t.user_id, t.device_id, t.parent, t.refresh_expires_ms FROM tokens t
		JOIN users u ON u.user_id = t.user_id`+joinDevice+`
		WHERE t.refresh_hash = $1 AND u.deactivated_ms = 0`, hash[:]).
		Scan(&p.ID, &p.UserID, &p.DeviceID, &p.Parent, &p.RefreshExpires)
	return p, err
}

// confirmTokenPair deletes the pair that this one replaced, and the other pairs that replaced it.
func confirmTokenPair(ctx context.Context, tx *db.Tx, id int64) error {
	var parent int64
	err := tx.QueryRow(ctx, `SELECT 0 FROM user_devices WHERE (user_id, device_id) = (SELECT user_id, device_id FROM tokens
		WHERE id = $1) FOR UPDATE`, id).
		Scan(&parent)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	err = tx.QueryRow(ctx, `SELECT parent FROM tokens WHERE id = $1`, id).Scan(&parent)
	if errors.Is(err, sql.ErrNoRows) || err == nil && parent == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	// "<> 0" repeats the condition of the partial index, see Refresh.
	if _, err := tx.Exec(ctx, `DELETE FROM tokens WHERE id = $1 OR (parent = $1 AND parent <> 0 AND id <> $2)`, parent, id); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `UPDATE tokens SET parent = 0 WHERE id = $1`, id)
	return err
}
