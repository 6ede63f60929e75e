package accounts

import (
	"lyceum/matrix"
	"lyceum/platform/web"
)

// ownUserID returns the user id of the path, which must be the caller's. Errors: M_FORBIDDEN.
func (a *Accounts) ownUserID(r *web.Request) (string, error) {
	if r.Path("userID") != r.UserID() {
		return "", matrix.Forbidden("This belongs to another user")
	}
	return r.UserID(), nil
}

// deviceOf returns the device of a log-in with what the request tells about the client.
func deviceOf(r *web.Request, id, name string, refresh bool) loginDevice {
	return loginDevice{ID: id, Name: name, Refresh: refresh, From: r.RemoteIP(), Agent: storableUserAgent(r.UserAgent())}
}

func (a *Accounts) getLogin(*web.Request) (any, error) {
	type flow struct {
		Type string `json:"type"`
	}
	flows := []flow{{stagePassword}}
	if a.deps.Appservices != nil {
		flows = append(flows, flow{typeAppservice})
	}
	return map[string]any{"flows": flows}, nil
}

const typeAppservice = "m.login.application_service"

// loginBody is the body of POST /login.
type loginBody struct {
	Type          string          `json:"type"`
	Identifier    *userIdentifier `json:"identifier"`
	User          string          `json:"user"`
	Password      string          `json:"password"`
	DeviceID      string          `json:"device_id"`
	DeviceName    string          `json:"initial_device_display_name"`
	RefreshTokens bool            `json:"refresh_token"`
}

func (a *Accounts) postLogin(r *web.Request, body *loginBody) (any, error) {
	name := (&authData{Identifier: body.Identifier, User: body.User}).name()
	d := deviceOf(r, body.DeviceID, body.DeviceName, body.RefreshTokens)
	var u *user
	switch body.Type {
	case stagePassword:
		if body.Identifier != nil && body.Identifier.Type != "m.id.user" {
			return nil, matrix.NewError(400, matrix.CodeUnknown, "Only m.id.user is known as an identifier")
		}
		if name == "" {
			return nil, matrix.InvalidParam("An identifier of type m.id.user with a user is needed")
		}
		var err error
		if u, err = a.checkPassword(r.Context(), name, body.Password, d.From); err != nil {
			return nil, err
		}
	case typeAppservice:
		id, err := a.appservice(r.Token())
		if err != nil {
			return nil, matrix.UnknownToken(false)
		}
		if u, err = a.findUser(r.Context(), name); err != nil || u.deactivatedAt != 0 || !a.deps.Appservices.Owns(id, u.id) {
			return nil, matrix.Forbidden("The user is not in the namespaces of the application service")
		}
	case "":
		return nil, matrix.MissingParam("type is needed")
	default:
		return nil, matrix.NewError(400, matrix.CodeUnknown, "This login type is not offered here; GET /login tells which are")
	}
	if u.locked {
		return nil, matrix.UserLocked("This account is locked")
	}
	creds, err := a.login(r.Context(), u, d)
	if err != nil {
		return nil, err
	}
	if a.config.WellKnown.Client != "" {
		creds.WellKnown = a.clientWellKnown()
	}
	return creds, nil
}

func (a *Accounts) postRefresh(r *web.Request, body *struct {
	RefreshToken string `json:"refresh_token"`
},
) (any, error) {
	if body.RefreshToken == "" {
		return nil, matrix.MissingParam("refresh_token is needed")
	}
	creds, err := a.Refresh(r.Context(), body.RefreshToken)
	if err != nil {
		return nil, err
	}
	return creds, nil
}

// logoutSession returns the session that a logout ends. The route has no authentication because locked users may log out.
func (a *Accounts) logoutSession(r *web.Request) (*session, error) {
	if r.Token() == "" {
		return nil, matrix.MissingToken()
	}
	return a.authenticate(r.Context(), r.Token())
}

func (a *Accounts) postLogout(r *web.Request) (any, error) {
	s, err := a.logoutSession(r)
	if err != nil {
		return nil, err
	}
	if s.identity.Guest {
		if done, err := a.logoutGuest(r.Context(), s.identity.UserID); done || err != nil {
			return nil, err
		}
	}
	return nil, a.RemoveDevices(r.Context(), s.identity.UserID, "", []string{s.identity.DeviceID})
}

func (a *Accounts) postLogoutAll(r *web.Request) (any, error) {
	s, err := a.logoutSession(r)
	if err != nil {
		return nil, err
	}
	if s.identity.Guest {
		if done, err := a.logoutGuest(r.Context(), s.identity.UserID); done || err != nil {
			return nil, err
		}
	}
	return nil, a.Logout(r.Context(), s.identity.UserID, "")
}
