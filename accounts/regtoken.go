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

// RegistrationToken lets people register (Client-Server API, "Token-authenticated registration"). Pending
// uses belong to registrations that are under way.
type RegistrationToken struct {
	Token       string `json:"token"`
	UsesAllowed int64  `json:"uses_allowed"` // 0 is without end
	Pending     int64  `json:"pending"`
	Completed   int64  `json:"completed"`
	Admin       bool   `json:"admin"`       // who uses it becomes an administrator
	Expires     int64  `json:"expiry_time"` // ms; 0 is never
	First       bool   `json:"first"`       // the invitation of the first administrator
	Created     int64  `json:"created_ts"`  // ms
}

// CreateRegistrationToken stores a token; an empty Token is made up. Errors: M_INVALID_PARAM for a token
// that is taken or has other characters than A-Z a-z 0-9 . _ ~ -, or more than 64.
func (a *Accounts) CreateRegistrationToken(ctx context.Context, t RegistrationToken) (RegistrationToken, error) {
	if t.Token == "" {
		t.Token = newSessionID()
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
	})(a.db.Query(ctx, `SELECT token, uses_allowed, pending, completed, admin, expires_ms, COALESCE(label, '') = '`+firstToken+`', created_ms
		FROM registration_tokens ORDER BY created_ms, token`))
}

// DeleteRegistrationToken removes a token with the interactions that hold its uses, which would else give back those of a token that is
// made under the same name later; removed tells that it was there.
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

const usableToken = `token = $1 AND (expires_ms = 0 OR expires_ms > $2) AND (uses_allowed = 0 OR pending + completed < ` +
	`uses_allowed) AND ` + firstTokenNeeded

// firstTokenNeeded leaves out the first administrator's token once there is an administrator.
const firstTokenNeeded = `(label IS NULL OR label <> '` + firstToken + `'
	OR NOT EXISTS (SELECT 1 FROM users WHERE admin AND deactivated_ms = 0))`

// TokenValid tells that somebody could register with the token now.
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

var errBadToken = matrix.Unauthorized("The registration token is not valid")

// reserveToken takes one use of the token for a registration under way. The interaction is stored with it: a use that is held has a
// row of interactive_sessions with the token, so that it is given back when that runs out, whatever comes between. Whoever takes the row
// away completes the use or gives it back, in the same transaction. Errors: M_UNAUTHORIZED.
func (a *Accounts) reserveToken(ctx context.Context, i *interaction, token string) error {
	if !validRegistrationToken(token) {
		return errBadToken
	}
	err := a.db.Tx(ctx, func(tx *db.Tx) error {
		if i.stored { // a session holds one token, also when two requests come at once
			n, err := tx.Exec(ctx, `UPDATE interactive_sessions SET token = $2 WHERE id = $1 AND token = ''`, i.rowID(), token)
			if err != nil {
				return err
			}
			if n == 0 {
				return errBadToken
			}
		} else if err := a.insertInteraction(ctx, tx, i, token); err != nil {
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

// releaseTokenUses gives back uses that were held by interactions whose rows the transaction removed; "" is none.
func releaseTokenUses(ctx context.Context, tx *db.Tx, tokens []string) error {
	slices.Sort(tokens) // who locks several has them in one order
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

// releaseLostTokenUses gives back uses for which there is no interaction: the version before could lose them. before is how many these were
// at the last look, by token: in a rollout that version holds a use without a row for the moment of a registration. It returns how many
// there are now.
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
			// The token's row is locked before its interactions are counted: whoever changes both waits, or is done.
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

// completeReservedToken turns the held use into a completed one. admin tells what the token makes of its user.
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

// completeTokenUse completes the use of a token that the row of an interaction holds; the row stays, without the token.
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

// voidFirstToken makes the first administrator's token worthless. Whatever makes an administrator calls it in the
// same transaction. The token's row stays, or is made now: it keeps apart this transaction and those that use
// the token or ask for it at the same moment.
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

// EnsureFirstToken gives the invitation of the first administrator: a registration token of one use. It is
// made once and told until it is used; token is "" when there is an administrator already, or nobody may
// register.
func (a *Accounts) EnsureFirstToken(ctx context.Context) (token string, created bool, err error) {
	if a.config.Registration == ClosedRegistration {
		return "", false, nil
	}
	made := newSessionID()
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
