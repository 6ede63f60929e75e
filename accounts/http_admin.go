package accounts

import (
	"errors"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// whois shows an administrator, or the user, from where the user's devices are used (Client-Server API, GET
// /admin/whois/{userId}).
func (a *Accounts) whois(r *web.Request) (any, error) {
	userID := r.Path("userID")
	if userID != r.UserID() && !r.Identity.Admin {
		return nil, matrix.Forbidden("Only an administrator of the server may look at other users")
	}
	devices, err := a.Devices(r.Context(), userID)
	if err != nil {
		return nil, err
	}
	found := map[string]any{}
	for _, d := range devices {
		connection := map[string]any{"ip": d.SeenIP, "last_seen": d.SeenAt, "user_agent": d.UserAgent}
		found[d.DeviceID] = map[string]any{"sessions": []any{map[string]any{"connections": []any{connection}}}}
	}
	return map[string]any{"user_id": userID, "devices": found}, nil
}

// moderatedUser loads the user of the path for the endpoints under /admin/lock and /admin/suspend. Errors: M_INVALID_PARAM,
// M_FORBIDDEN, M_NOT_FOUND.
func (a *Accounts) moderatedUser(r *web.Request) (*user, error) {
	userID := r.Path("userID")
	if !a.Local(userID) {
		return nil, matrix.InvalidParam("The user does not belong to this server")
	}
	if userID == r.UserID() && r.Method != "GET" {
		return nil, matrix.Forbidden("An administrator can not do this to their own account")
	}
	u, err := loadUser(r.Context(), a.db, userID)
	if err != nil || u.deactivatedAt != 0 {
		if err == nil || errors.Is(err, db.ErrNoRows) {
			err = matrix.NotFound("There is no such user")
		}
		return nil, err
	}
	if u.admin && userID != r.UserID() {
		return nil, matrix.Forbidden("The user is an administrator of the server")
	}
	return u, nil
}

func (a *Accounts) getLock(r *web.Request) (any, error) {
	u, err := a.moderatedUser(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"locked": u.locked}, nil
}

func (a *Accounts) putLock(r *web.Request, body *struct {
	Locked *bool `json:"locked"`
},
) (any, error) {
	return a.putRight(r, "locked", body.Locked, Rights{Locked: body.Locked})
}

func (a *Accounts) getSuspend(r *web.Request) (any, error) {
	u, err := a.moderatedUser(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"suspended": u.suspended}, nil
}

func (a *Accounts) putSuspend(r *web.Request, body *struct {
	Suspended *bool `json:"suspended"`
},
) (any, error) {
	return a.putRight(r, "suspended", body.Suspended, Rights{Suspended: body.Suspended})
}

// putRight sets the right of a user that has a name in the body of the request, and answers with it.
func (a *Accounts) putRight(r *web.Request, name string, value *bool, rights Rights) (any, error) {
	if value == nil {
		return nil, matrix.MissingParam(name + " is needed")
	}
	u, err := a.moderatedUser(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{name: *value}, a.SetRights(r.Context(), u.id, rights)
}
