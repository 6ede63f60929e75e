package users

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"lyceum/accounts"
	"lyceum/platform/obs"
	"lyceum/reports"
)

// Operations of a userRequest that are not about the rights of one user.
const (
	opList        = "list"
	opDeactivate  = "deactivate"
	opTokenNew    = "token new"
	opTokenList   = "token list"
	opTokenRevoke = "token revoke"
	opReports     = "reports"
	opReport      = "report"
	opReportClose = "report close"
)

// rightsOf are the operations that change what a user may do.
var rightsOf = map[string]accounts.Rights{
	"promote": {Admin: new(true)}, "demote": {Admin: new(false)},
	"lock": {Locked: new(true)}, "unlock": {Locked: new(false)},
	"suspend": {Suspended: new(true)}, "unsuspend": {Suspended: new(false)},
}

// listPage is how much of a list is asked for at once.
const listPage = 500

// SetRight changes what a user may do: promote, demote, lock, unlock, suspend or unsuspend. force does it also if no administrator is
// left. It returns the user's id.
func (u *Users) SetRight(ctx context.Context, change, name string, force bool) (userID string, err error) {
	return u.request(ctx, userRequest{Op: change, Name: name, Force: force})
}

// Deactivate ends an account for good; erase also removes what it kept, force does it also if no administrator is left. It returns
// the user's id.
func (u *Users) Deactivate(ctx context.Context, name string, erase, force bool) (userID string, err error) {
	return u.request(ctx, userRequest{Op: opDeactivate, Name: name, Erase: erase, Force: force})
}

// List calls fn for each user, in the order of their ids.
func (u *Users) List(ctx context.Context, fn func(accounts.User) error) error {
	for after := ""; ; {
		page, err := answerList[accounts.User](ctx, u, userRequest{Op: opList, After: after, Limit: listPage})
		if err != nil {
			return err
		}
		for _, user := range page {
			if err := fn(user); err != nil {
				return err
			}
			after = user.UserID
		}
		if len(page) < listPage {
			return nil
		}
	}
}

// NewToken makes a registration token: name "" makes one up, uses 0 is without end, expires 0 is never.
func (u *Users) NewToken(ctx context.Context, name string, uses int64, expires time.Duration) (token string, err error) {
	return u.request(ctx, userRequest{Op: opTokenNew, Name: name, Uses: uses, Expires: expires})
}

// Tokens lists the registration tokens.
func (u *Users) Tokens(ctx context.Context) ([]accounts.RegistrationToken, error) {
	return answerList[accounts.RegistrationToken](ctx, u, userRequest{Op: opTokenList})
}

// Invitation returns the registration token of the first administrator, which the first start printed; "" when it was used, or ended
// because somebody became administrator in another way.
func (u *Users) Invitation(ctx context.Context) (token string, err error) {
	tokens, err := u.Tokens(ctx)
	for _, t := range tokens {
		if t.First && t.Completed == 0 {
			token = t.Token
		}
	}
	return token, err
}

// RevokeToken removes a registration token.
func (u *Users) RevokeToken(ctx context.Context, token string) error {
	_, err := u.request(ctx, userRequest{Op: opTokenRevoke, Name: token})
	return err
}

// Reports lists what users reported, the newest first.
func (u *Users) Reports(ctx context.Context, limit int) ([]reports.Report, error) {
	return answerList[reports.Report](ctx, u, userRequest{Op: opReports, Limit: limit})
}

// Report is a report and the event that it is about, as clients see it; nil when it is about none, or the event is gone.
type Report struct {
	reports.Report
	Event json.RawMessage `json:"event,omitempty"`
}

// Report returns the report with an id.
func (u *Users) Report(ctx context.Context, id string) (r Report, err error) {
	text, err := u.request(ctx, userRequest{Op: opReport, Name: id})
	if err == nil {
		err = json.Unmarshal([]byte(text), &r)
	}
	return r, err
}

// CloseReport removes a report.
func (u *Users) CloseReport(ctx context.Context, id string) error {
	_, err := u.request(ctx, userRequest{Op: opReportClose, Name: id})
	return err
}

// report finds a report and its event.
func (u *Users) report(ctx context.Context, id string) (r Report, err error) {
	found, err := u.reports.Report(ctx, id)
	if err != nil {
		return r, err
	}
	if found == nil {
		return r, noReport(id)
	}
	r.Report = *found
	if found.EventID == "" {
		return r, nil
	}
	e, err := u.rooms.Event(ctx, found.EventID)
	if err == nil && e != nil {
		r.Event = e.ClientJSON()
	}
	return r, err
}

func noReport(id string) error {
	return errors.New("there is no report " + id + ": lyceum reports list shows them")
}

func answerList[T any](ctx context.Context, u *Users, r userRequest) (out []T, err error) {
	text, err := u.request(ctx, r)
	if err == nil {
		err = json.Unmarshal([]byte(text), &out)
	}
	return out, err
}

// changeServer executes a request that is not about one user; known is false for other operations. Lists are answered as JSON.
func (u *Users) changeServer(ctx context.Context, r userRequest) (text string, known bool, err error) {
	var list any
	switch r.Op {
	case opList:
		list, err = u.accounts.Users(ctx, r.After, r.Limit)
	case opTokenList:
		list, err = u.accounts.RegistrationTokens(ctx)
	case opReports:
		list, err = u.reports.List(ctx, r.After, r.Limit)
	case opReport:
		list, err = u.report(ctx, r.Name)
	case opReportClose:
		removed, err := u.reports.Delete(ctx, r.Name)
		if err == nil && !removed {
			err = noReport(r.Name)
		}
		return r.Name, true, err
	case opTokenNew:
		t := accounts.RegistrationToken{Token: r.Name, UsesAllowed: r.Uses}
		if r.Expires != 0 {
			t.Expires = obs.Now().Add(r.Expires).UnixMilli()
		}
		t, err = u.accounts.CreateRegistrationToken(ctx, t)
		return t.Token, true, err
	case opTokenRevoke:
		removed, err := u.accounts.DeleteRegistrationToken(ctx, r.Name)
		if err == nil && !removed {
			err = errors.New("there is no registration token " + r.Name)
		}
		return r.Name, true, err
	default:
		return "", false, nil
	}
	if err != nil {
		return "", true, err
	}
	b, err := json.Marshal(list)
	return string(b), true, err
}
