package accounts

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/role"
)

// RegistrationToken allows people to register (Client-Server API, "Token-authenticated registration"). Pending uses are reserved
// by registrations that are under way.
type RegistrationToken struct {
	Token       string `json:"token"`
	UsesAllowed int64  `json:"uses_allowed"` // 0 is no limit
	Pending     int64  `json:"pending"`
	Completed   int64  `json:"completed"`
	Admin       bool   `json:"admin"`       // its users become administrators
	Expires     int64  `json:"expiry_time"` // ms; 0 is never
	First       bool   `json:"first"`       // the invitation of the first administrator
	Created     int64  `json:"created_ts"`  // ms
}

// CreateRegistrationToken stores a token; for an empty Token it generates one. Errors: M_INVALID_PARAM for a token that exists,
// has other characters than A-Z a-z 0-9 . _ ~ -, or more than 64.
func (a *Accounts) CreateRegistrationToken(ctx context.Context, t RegistrationToken) (RegistrationToken, error) {
	if t.Token == "" {
		t.Token = newTokenName()
	}
	if !validRegistrationToken(t.Token) || t.UsesAllowed < 0 || t.Expires < 0 {
		return t, matrix.InvalidParam("A registration token has 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -, and its numbers are not negative")
	}
	t.Created = a.nowMs()
	_, err := a.db.Exec(
		ctx, `INSERT INTO registration_tokens (token, uses_allowed, admin, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5)`, t.Token,
		t.UsesAllowed, t.Admin, t.Created, t.Expires,
	)
	if db.IsUnique(err) {
		return t, matrix.InvalidParam("There is such a registration token already").With(err)
	}
	return t, err
}

func validRegistrationToken(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '~' && c != '-' {
			return false
		}
	}
	return true
}

// RegistrationTokens lists all tokens.
func (a *Accounts) RegistrationTokens(ctx context.Context) ([]RegistrationToken, error) {
	return db.List(func(row db.Row) (t RegistrationToken, err error) {
		err = row.Scan(&t.Token, &t.UsesAllowed, &t.Pending, &t.Completed, &t.Admin, &t.Expires, &t.First, &t.Created)
		return t, err
	})(a.db.Query(ctx, `SELECT token, uses_allowed, CASE WHEN pending > `+expiredUses+` THEN pending - `+expiredUses+` ELSE 0 END, completed,
		admin, expires_ms, COALESCE(label, '') = $1, created_ms
		FROM registration_tokens ORDER BY created_ms, token`, firstToken, a.nowMs()))
}

// DeleteRegistrationToken deletes a token, and the interactions that reserved its uses: they would otherwise release uses of a
// later token with the same name. removed reports whether the token existed.
func (a *Accounts) DeleteRegistrationToken(ctx context.Context, token string) (removed bool, err error) {
	err = a.db.Tx(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM interactive_sessions WHERE token = $1 AND token <> ''`, token); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `DELETE FROM registration_tokens WHERE token = $1`, token)
		removed = n > 0
		return err
	})
	return removed, err
}

// usableToken is a condition in SQL: the token $1 exists, has a use left and has not expired at $2 (ms).
const usableToken = `token = $1 AND (expires_ms = 0 OR expires_ms > $2)
	AND (uses_allowed = 0 OR completed + pending - ` + expiredUses + ` < uses_allowed) AND ` + firstTokenNeeded

// expiredUses is an expression in SQL: how many of the pending uses of a token are held by interactions that have expired at $2 (ms).
const expiredUses = `(SELECT COUNT(*) FROM interactive_sessions s
	WHERE s.token = registration_tokens.token AND s.token <> '' AND s.expires_ms <= $2)`

// firstTokenNeeded is a condition in SQL that excludes the first administrator's token once an administrator exists.
const firstTokenNeeded = `(label IS NULL OR label <> '` + firstToken + `'
	OR NOT EXISTS (SELECT 1 FROM users WHERE admin AND deactivated_ms = 0))`

// TokenValid reports whether somebody could register with the token now.
func (a *Accounts) TokenValid(ctx context.Context, token string) (bool, error) {
	if !validRegistrationToken(token) {
		return false, nil
	}
	var n int
	err := a.db.QueryRow(ctx, `SELECT 1 FROM registration_tokens WHERE `+usableToken, token, a.nowMs()).Scan(&n)
	if errors.Is(err, db.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

var (
	errBadToken = matrix.Unauthorized("The registration token is not valid")
	errNoToken  = matrix.Unauthorized("A registration token is needed")
)

// reserveToken reserves one use of a registration token for an interaction, which is stored in the same transaction. A reserved
// use always has a row of interactive_sessions with the token, so it is released when that expires. Every transaction that deletes
// the row, or its token, completes the use or releases it. Errors: M_UNAUTHORIZED.
func (a *Accounts) reserveToken(ctx context.Context, i *interaction, token string) error {
	if token == "" {
		return errNoToken
	}
	if !validRegistrationToken(token) {
		return errBadToken
	}
	err := a.db.Tx(ctx, func(tx *db.Tx) error {
		if i.stored { // one token per session, also when two requests arrive at once
			n, err := tx.Exec(ctx, `UPDATE interactive_sessions SET token = $2 WHERE id = $1 AND token = '' AND NOT used`, i.rowID(), token)
			if err != nil {
				return err
			}
			if n == 0 {
				return reservedBefore(ctx, tx, i, token)
			}
		} else if err := a.insertInteraction(ctx, tx, i, token); err != nil {
			return err
		}
		if err := releaseExpiredUses(ctx, tx, token, a.nowMs()); err != nil {
			return err
		}
		n, err := tx.Exec(ctx, `UPDATE registration_tokens SET pending = pending + 1 WHERE `+usableToken, token, a.nowMs())
		if err == nil && n == 0 {
			return errBadToken
		}
		return err
	})
	if err == nil {
		i.token = token
	}
	var unknown *db.CommitError
	i.stored = i.stored || err == nil || errors.As(err, &unknown)
	return err
}

// reservedBefore is for a session that holds a use already, or has ended: another request with the session came before. The use of
// the same token is that of both requests. Errors: M_UNAUTHORIZED for another token.
func reservedBefore(ctx context.Context, tx *db.Tx, i *interaction, token string) error {
	var held string
	err := tx.QueryRow(ctx, `SELECT token FROM interactive_sessions WHERE id = $1 AND NOT used`, i.rowID()).Scan(&held)
	if errors.Is(err, db.ErrNoRows) {
		return errNoSession
	}
	if err == nil && held != token {
		return errBadToken
	}
	return err
}

// releaseExpiredUses deletes the interactions that hold uses of a token and have expired, and releases the uses. Housekeeping does it
// for all tokens, but later.
func releaseExpiredUses(ctx context.Context, tx *db.Tx, token string, now int64) error {
	n, err := tx.Exec(ctx, `DELETE FROM interactive_sessions WHERE token = $1 AND token <> '' AND expires_ms <= $2`, token, now)
	if err == nil && n > 0 {
		_, err = tx.Exec(ctx, `UPDATE registration_tokens SET pending = CASE WHEN pending > $2 THEN pending - $2 ELSE 0 END WHERE token = $1`,
			token, n)
	}
	return err
}

// releaseTokenUses releases uses that were reserved by interactions which the transaction deleted; "" is ignored.
func releaseTokenUses(ctx context.Context, tx *db.Tx, tokens []string) error {
	slices.Sort(tokens) // all transactions lock tokens in this order, so they do not deadlock
	for _, token := range tokens {
		if token == "" {
			continue
		}
		if _, err := tx.Exec(ctx, `UPDATE registration_tokens SET pending = pending - 1 WHERE token = $1 AND pending > 0`, token); err != nil {
			return err
		}
	}
	return nil
}

// releaseLostTokenUses releases pending uses without an interaction, which the previous version could leave behind. before is
// their number at the previous call, by token, and the result is their number now: during a rollout a process of the previous
// version reserves a use without a row for a moment, so only uses that are found twice are released.
func (a *Accounts) releaseLostTokenUses(ctx context.Context, job *role.Job, before map[string]int64) (map[string]int64, error) {
	missing := map[string]int64{}
	err := db.Each(func(row db.Row) error {
		var token string
		var n int64
		err := row.Scan(&token, &n)
		missing[token] = n
		return err
	})(a.db.Query(ctx, `SELECT token, pending - (SELECT COUNT(*) FROM interactive_sessions s WHERE s.token = t.token AND s.token <> '')
		FROM registration_tokens t WHERE pending > 0 ORDER BY token`))
	if err != nil {
		return nil, err
	}
	for token, n := range missing {
		if n = min(n, before[token]); n <= 0 {
			continue
		}
		err := job.Tx(ctx, func(tx *db.Tx) error {
			// The token's row is locked before its interactions are counted, so that no transaction changes both in between.
			var pending, held int64
			err := tx.QueryRow(ctx, `SELECT pending FROM registration_tokens WHERE token = $1 FOR UPDATE`, token).Scan(&pending)
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			if err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM interactive_sessions WHERE token = $1 AND token <> ''`, token).Scan(&held); err != nil {
				return err
			}
			_, err = tx.Exec(ctx, `UPDATE registration_tokens SET pending = $2 WHERE token = $1`, token, pending-max(0, min(n, pending-held)))
			return err
		})
		if err != nil {
			return nil, err
		}
		missing[token] -= n
	}
	return missing, nil
}

// completeReservedToken completes the reserved use at the end of a registration. admin says that the token makes its user an
// administrator.
func (a *Accounts) completeReservedToken(ctx context.Context, tx *db.Tx, i *interaction) (admin bool, err error) {
	if admin, err = completeTokenUse(ctx, tx, i.rowID(), i.token); err != nil {
		return false, err
	}
	if i.answer != "" {
		return admin, a.saveAnswer(ctx, tx, i, i.answer)
	}
	_, err = tx.Exec(ctx, `DELETE FROM interactive_sessions WHERE id = $1`, i.rowID())
	return admin, err
}

// completeTokenUse completes the use of a token that an interaction reserved. The row of the interaction stays, without the token.
func completeTokenUse(ctx context.Context, tx *db.Tx, row, token string) (admin bool, err error) {
	n, err := tx.Exec(ctx, `UPDATE interactive_sessions SET token = '' WHERE id = $1 AND token = $2`, row, token)
	if err != nil {
		return false, err
	}
	if n == 0 {
		return false, errBadToken
	}
	err = tx.QueryRow(ctx, `UPDATE registration_tokens SET pending = pending - 1, completed = completed + 1
		WHERE token = $1 AND pending > 0 AND `+firstTokenNeeded+` RETURNING admin`, token).Scan(&admin)
	if errors.Is(err, sql.ErrNoRows) {
		return false, errBadToken
	}
	return admin, err
}

const firstToken = "first"

// voidFirstToken invalidates the first administrator's token. Every transaction that makes a user an administrator calls it. It
// updates or inserts the row of the token, which makes it wait for concurrent transactions that use or create the token.
func voidFirstToken(ctx context.Context, tx *db.Tx, now int64) error {
	_, err := tx.Exec(
		ctx,
		`INSERT INTO registration_tokens (token, uses_allowed, completed, admin, label, created_ms) VALUES ($1, 1, 1, TRUE, $2, $3)
		ON CONFLICT (label) WHERE label IS NOT NULL DO UPDATE SET uses_allowed = 1, pending = 0, completed = 1`,
		newSessionID(),
		firstToken,
		now,
	)
	return err
}

// EnsureFirstToken returns the invitation of the first administrator: a registration token with one use. It is created once and
// returned until it is used. token is "" when an administrator exists, or when registration is closed.
func (a *Accounts) EnsureFirstToken(ctx context.Context) (token string, created bool, err error) {
	if a.config.Registration == ClosedRegistration {
		return "", false, nil
	}
	made := newTokenName()
	err = a.db.Tx(ctx, func(tx *db.Tx) error {
		token, created = "", false
		var admins int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM users WHERE admin AND deactivated_ms = 0`).Scan(&admins); err != nil || admins > 0 {
			return err
		}
		n, err := tx.Exec(ctx, `INSERT INTO registration_tokens (token, uses_allowed, admin, label, created_ms) VALUES ($1, 1, TRUE, $2, $3)
			ON CONFLICT DO NOTHING`, made, firstToken, a.nowMs())
		if err != nil {
			return err
		}
		created = n > 0
		err = tx.QueryRow(ctx, `SELECT token FROM registration_tokens WHERE label = $1 AND completed = 0 AND `+firstTokenNeeded, firstToken).
			Scan(&token)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return token, created, err
}
