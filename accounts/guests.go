package accounts

import (
	"context"
	"errors"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/stream"
)

var errNoGuests = matrix.GuestAccessForbidden("Guests are not let in here: register, or log in")

// registerGuest registers a guest, who gets a generated name, no password and one device (Client-Server API, "Guest Access").
func (a *Accounts) registerGuest(ctx context.Context, d loginDevice) (*Credentials, error) {
	if !a.config.Guests {
		return nil, errNoGuests
	}
	userID, err := a.userID(newName())
	if err != nil {
		return nil, err
	}
	d.ID = "" // the specification lets no guest choose a device id
	return a.insertRegistered(ctx, NewUser{Name: userID, Kind: kindGuest}, "", d, registerOptions{})
}

// guestToUpgrade returns the guest who wants to become a user and keeps the name. Errors: M_FORBIDDEN.
func (a *Accounts) guestToUpgrade(ctx context.Context, body *registration) (userID string, err error) {
	s, err := a.authenticate(ctx, body.GuestToken)
	if err != nil && !matrix.HasCode(err, matrix.CodeUnknownToken) {
		return "", err
	}
	if err != nil || !s.identity.Guest || s.locked || !strings.EqualFold(body.Username, matrix.LocalpartOf(s.identity.UserID)) {
		return "", matrix.Forbidden("guest_access_token must be that of a guest, and username the local part of the guest's user id")
	}
	return s.identity.UserID, nil
}

// upgradeToUser turns a guest into a user with a password, who keeps the user id, the rooms and the devices.
func (a *Accounts) upgradeToUser(ctx context.Context, body *registration, d loginDevice, i *interaction) (*Credentials, error) {
	userID, err := a.guestToUpgrade(ctx, body)
	if err != nil {
		return nil, err
	}
	i.registered = userID
	hash, err := a.newHash(ctx, body.Password)
	if err != nil {
		return nil, err
	}
	res, err := a.change(ctx, userID, sessionChange{
		Kind: changeUpgrade, Password: hash, Interaction: i.rowID(), Token: i.token, At: a.nowMs(),
	})
	if err != nil {
		return nil, err
	}
	u, err := loadUser(ctx, a.db, userID)
	switch {
	case err != nil:
		return nil, err
	case res.Stale:
		return nil, errBadToken
	case !res.Found && u.kind == kindGuest && u.deactivatedAt == 0: // the owner runs the previous version, which does not know this change
		return nil, stream.ErrNotOwner
	case !res.Found:
		return nil, matrix.Forbidden("The guest has gone, or is a user already")
	case body.InhibitLogin:
		return &Credentials{UserID: userID, HomeServer: a.config.ServerName}, nil
	}
	return a.login(ctx, u, d)
}

// upgradeGuest does a changeUpgrade in the transaction of the stream. It may run again, also after an attempt that succeeded
// although its outcome was unknown.
func upgradeGuest(ctx context.Context, tx *db.Tx, userID string, p *pendingChange) error {
	u, err := loadUser(ctx, tx, userID)
	if errors.Is(err, db.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if p.result.Found = u.kind != kindGuest && u.password == p.Password; p.result.Found || u.kind != kindGuest || u.deactivatedAt != 0 {
		return nil
	}
	admin := false
	if p.Token != "" {
		if admin, err = completeTokenUse(ctx, tx, p.Interaction, p.Token); errors.Is(err, errBadToken) {
			p.result.Stale = true
			return nil
		}
		if err != nil {
			return err
		}
	}
	n, err := tx.Exec(ctx, `UPDATE users SET kind = '', password = $2, admin = $3
		WHERE user_id = $1 AND kind = 'guest' AND deactivated_ms = 0`, userID, p.Password, admin)
	p.result.Found = n > 0
	if err == nil && admin {
		err = voidFirstToken(ctx, tx, p.At)
	}
	return err
}

// logoutGuest ends the account of a guest who logs out: without a password nobody can log in to it again. The session was read before,
// so the guest may be a user by now: then it reports done = false, and nothing has changed.
func (a *Accounts) logoutGuest(ctx context.Context, userID string) (done bool, err error) {
	err = a.deactivate(ctx, userID, sessionChange{OnlyGuest: true})
	if errors.Is(err, ErrWrongPassword) {
		return false, nil
	}
	return true, err
}

// GuestsAmong returns which of the users are guests.
func (a *Accounts) GuestsAmong(ctx context.Context, userIDs []string) ([]string, error) {
	if len(userIDs) == 0 {
		return nil, nil
	}
	return db.Texts(a.db.Query(ctx, "SELECT user_id FROM users WHERE user_id = ANY($1) AND kind = $2", userIDs, kindGuest))
}
