package accounts

import (
	"context"
	"errors"

	"lyceum/matrix"
	"lyceum/platform/caller"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// Authenticate returns the identity that an access token belongs to. It makes no database statement for a token that this
// process remembers, nor for one without a right checksum. Errors: M_UNKNOWN_TOKEN (with soft_logout when the token expired and
// can be refreshed), M_USER_LOCKED, M_GUEST_ACCESS_FORBIDDEN for a guest of an earlier time where guests are not let in any more: such a
// guest may still log out, or become a user, which both call authenticate.
func (a *Accounts) Authenticate(ctx context.Context, token string) (*web.Identity, error) {
	s, err := a.authenticate(ctx, token)
	if err != nil {
		return nil, err
	}
	if s.locked {
		return nil, matrix.UserLocked("This account is locked")
	}
	if s.identity.Guest && !a.config.Guests {
		return nil, errNoGuests
	}
	return &s.identity, nil
}

func (a *Accounts) authenticate(ctx context.Context, token string) (*session, error) {
	hash := hashToken(token)
	s, changes := a.sessions.get(hash)
	if s == nil {
		genuine, err := a.secret.hasChecksum(ctx, accessPrefix, token)
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

// confirmTokens is called at the first use of a refreshed token pair: it ends the pair that was refreshed.
func (a *Accounts) confirmTokens(ctx context.Context, userID string, pair int64) error {
	_, err := a.change(ctx, userID, sessionChange{Kind: changeConfirm, TokenPair: pair})
	if err == nil {
		a.awaitUnderWay(ctx, userID)
	}
	return err
}

// tokenAsCaller returns a context for loading a session, in which the token is the caller. So a request with a token does not queue
// behind all other requests from the same address that are not authenticated yet.
func tokenAsCaller(ctx context.Context, hash tokenHash) context.Context {
	return caller.NewWork(ctx, caller.ID{For: string(hash[:])})
}
