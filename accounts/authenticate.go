package accounts

import (
	"context"
	"errors"

	"lyceum/matrix"
	"lyceum/platform/caller"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// Authenticate finds whom an access token belongs to. A token that this process knows costs no database
// statement, nor does an invented one. Errors: M_UNKNOWN_TOKEN (soft_logout when it only ran out and can be
// refreshed), M_USER_LOCKED.
func (a *Accounts) Authenticate(ctx context.Context, token string) (*web.Identity, error) {
	s, err := a.authenticate(ctx, token)
	if err != nil {
		return nil, err
	}
	if s.locked {
		return nil, matrix.UserLocked("This account is locked")
	}
	return &s.identity, nil
}

func (a *Accounts) authenticate(ctx context.Context, token string) (*session, error) {
	hash := hashToken(token)
	s, changes := a.sessions.get(hash)
	if s == nil {
		genuine, err := a.keys.hasChecksum(ctx, accessPrefix, token)
		if err != nil {
			return nil, err
		}
		if !genuine {
			return nil, matrix.UnknownToken(false)
		}
		if s, err = loadSession(tokenAsCaller(ctx, hash), a.db, hash); errors.Is(err, db.ErrNoRows) {
			return nil, matrix.UnknownToken(false)
		} else if err != nil {
			return nil, err
		}
		if s.parent != 0 && !s.expired(a.nowMs()) {
			if err := a.confirmTokens(ctx, s.identity.UserID, s.identity.TokenID); err != nil {
				return nil, err
			}
		} else {
			a.sessions.put(hash, s, changes)
		}
	}
	if s.expired(a.nowMs()) {
		return nil, matrix.UnknownToken(s.refreshable)
	}
	return s, nil
}

// confirmTokens ends the pair of tokens that another one replaces, as that is used now.
func (a *Accounts) confirmTokens(ctx context.Context, userID string, pair int64) error {
	_, err := a.change(ctx, userID, sessionChange{Kind: changeConfirm, TokenPair: pair})
	if err == nil {
		a.awaitUnderWay(ctx, userID)
	}
	return err
}

// tokenAsCaller is for the reading of a session: whoever has a token does not wait behind all those who come from the same address, and are
// not known either.
func tokenAsCaller(ctx context.Context, hash tokenHash) context.Context {
	return caller.NewWork(ctx, caller.ID{For: string(hash[:])})
}
