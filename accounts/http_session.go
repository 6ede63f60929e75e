package accounts

import (
	"encoding/json"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/web"
)

// ownUserID gives the user id of the path, which must be the caller's.
func (a *Accounts) ownUserID(r *web.Request) (string, error) {
	if r.Path("userID") != r.UserID() {
		return "", matrix.Forbidden("This belongs to another user")
	}
	return r.UserID(), nil
}

// deviceOf describes the device of a login from the request.
func deviceOf(r *web.Request, id, name string, refresh bool) loginDevice {
	agent := strings.ReplaceAll(strings.ToValidUTF8(r.UserAgent(), ""), "\x00", "")
	return loginDevice{ID: id, Name: name, Refresh: refresh, From: r.RemoteIP(), Agent: agent[:min(len(agent), maxAgent)]}
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

// logoutSession finds whose token a logout ends: locked users may log out, so the server does not authenticate.
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
		return nil, a.deactivateGuest(r.Context(), s.identity.UserID)
	}
	return nil, a.RemoveDevices(r.Context(), s.identity.UserID, "", []string{s.identity.DeviceID})
}

func (a *Accounts) postLogoutAll(r *web.Request) (any, error) {
	s, err := a.logoutSession(r)
	if err != nil {
		return nil, err
	}
	if s.identity.Guest {
		return nil, a.deactivateGuest(r.Context(), s.identity.UserID)
	}
	return nil, a.Logout(r.Context(), s.identity.UserID, "")
}

func (a *Accounts) whoami(r *web.Request) (any, error) {
	return struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id,omitempty"`
		Guest    bool   `json:"is_guest,omitempty"`
	}{r.Identity.UserID, r.Identity.DeviceID, r.Identity.Guest}, nil
}

func (a *Accounts) postRegister(r *web.Request) (any, error) {
	begin := func(session string) *interaction {
		return &interaction{id: session, op: opRegister, from: r.RemoteIP()}
	}
	return resume(a, r, begin, true, a.registerStep)
}

// registerStep takes one request of a registration, with what the ones before it told.
func (a *Accounts) registerStep(r *web.Request, body *registration) (any, error) {
	d := deviceOf(r, body.DeviceID, body.DeviceName, body.RefreshTokens)
	if body.Type == typeAppservice {
		id, err := a.appservice(r.Token())
		if err != nil {
			return nil, matrix.UnknownToken(false)
		}
		return credentialsOrError(a.registerForAppservice(r.Context(), id, body, d))
	}
	switch r.Query1("kind") {
	case "", "user":
	case "guest":
		return credentialsOrError(a.registerGuest(r.Context(), d))
	default:
		return nil, matrix.InvalidParam("kind is user or guest")
	}
	if a.config.Registration == ClosedRegistration {
		return nil, matrix.Forbidden("Registration is disabled")
	}
	if body.GuestToken != "" {
		if _, err := a.guestToUpgrade(r.Context(), body); err != nil {
			return nil, err
		}
	} else if body.Username != "" {
		if _, err := a.checkAvailable(r.Context(), body.Username); err != nil {
			return nil, err
		}
	}
	if body.Password != "" || len(body.Auth) > 0 {
		if err := a.checkNewPassword(body.Password); err != nil {
			return nil, err
		}
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	kept := *body
	kept.Auth = nil
	told, err := json.Marshal(kept)
	if err != nil {
		return nil, err
	}
	start := func() *interaction {
		return &interaction{
			id: newSessionID(), op: opRegister, from: d.From, flows: a.registrationFlows(), paramsBody: told, requestBody: requestBodyOf(r.Context()),
		}
	}
	return a.runInteraction(r.Context(), start, body.Auth, func(i *interaction) (any, error) {
		return credentialsOrError(a.register(r.Context(), body, d, i))
	})
}

// credentialsOrError keeps a nil pointer from becoming an answer.
func credentialsOrError(c *Credentials, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (a *Accounts) getAvailable(r *web.Request) (any, error) {
	name := r.Query1("username")
	if name == "" {
		return nil, matrix.MissingParam("username is needed")
	}
	if a.config.Registration == ClosedRegistration {
		return nil, matrix.Forbidden("Registration is disabled")
	}
	if _, err := a.checkAvailable(r.Context(), name); err != nil {
		return nil, err
	}
	return map[string]bool{"available": true}, nil
}

func (a *Accounts) getTokenValidity(r *web.Request) (any, error) {
	if a.config.Registration == ClosedRegistration {
		return nil, matrix.Forbidden("Registration is disabled")
	}
	if !r.Query().Has("token") {
		return nil, matrix.MissingParam("token is needed")
	}
	valid, err := a.TokenValid(r.Context(), r.Query1("token"))
	return map[string]bool{"valid": valid}, err
}

func (a *Accounts) getNonce(r *web.Request) (any, error) {
	if a.config.SharedSecret.Reveal() == "" {
		return nil, matrix.NewError(400, matrix.CodeUnknown, "Shared secret registration is not enabled")
	}
	nonce, err := a.newNonce(r.Context())
	return map[string]string{"nonce": nonce}, err
}

func (a *Accounts) postSecretRegister(r *web.Request, body *secretRegistration) (any, error) {
	if a.config.SharedSecret.Reveal() == "" {
		return nil, matrix.NewError(400, matrix.CodeUnknown, "Shared secret registration is not enabled")
	}
	return credentialsOrError(a.registerBySecret(r.Context(), body, deviceOf(r, "", "", false)))
}

// passwordBody is the body of POST /account/password.
type passwordBody struct {
	Auth     json.RawMessage `json:"auth"`
	Password string          `json:"new_password"`
	Logout   *bool           `json:"logout_devices"`
}

func (a *Accounts) postPassword(r *web.Request, body *passwordBody) (any, error) {
	if body.Password != "" || len(body.Auth) > 0 {
		if err := a.checkNewPassword(body.Password); err != nil {
			return nil, err
		}
	}
	logout := body.Logout == nil || *body.Logout
	params := map[string]any{"new_password": body.Password, "logout_devices": logout}
	return a.Interactive(r, body.Auth, params, func(p Proof) (any, error) {
		return nil, a.setPassword(r.Context(), r.UserID(), passwordChange{
			Password: body.Password, Logout: logout, Except: r.DeviceID(), Proof: p,
		})
	})
}

// deactivation is the body of POST /account/deactivate.
type deactivation struct {
	Auth  json.RawMessage `json:"auth"`
	Erase bool            `json:"erase"`
}

func (a *Accounts) postDeactivate(r *web.Request, body *deactivation) (any, error) {
	return a.Interactive(r, body.Auth, map[string]any{"erase": body.Erase}, func(p Proof) (any, error) {
		err := a.deactivate(r.Context(), r.UserID(), p, body.Erase)
		return map[string]string{"id_server_unbind_result": "success"}, err
	})
}
