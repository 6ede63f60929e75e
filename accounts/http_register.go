package accounts

import (
	"encoding/json"

	"lyceum/matrix"
	"lyceum/platform/web"
)

func (a *Accounts) postRegister(r *web.Request) (any, error) {
	begin := func(session string) *interaction {
		return &interaction{id: session, op: opRegister, from: r.RemoteIP()}
	}
	return resume(a, r, begin, true, a.registerStep)
}

// registerStep handles one request of a registration. body also has the parameters of earlier requests.
func (a *Accounts) registerStep(r *web.Request, body *registration) (any, error) {
	d := deviceOf(r, body.DeviceID, body.DeviceName, body.RefreshTokens)
	if body.Type == typeAppservice {
		id, err := a.appservice(r.Token())
		if err != nil {
			return nil, matrix.UnknownToken(false)
		}
		return credentialsOrError(a.registerForAppservice(r.Context(), id, body, d))
	}
	switch r.QueryParam("kind") {
	case "", "user":
	case "guest":
		return credentialsOrError(a.registerGuest(r.Context(), d))
	default:
		return nil, matrix.InvalidParam("kind is user or guest")
	}
	if a.config.Registration == ClosedRegistration {
		return nil, matrix.Forbidden("Registration is disabled")
	}
	check := func() error {
		if body.GuestToken != "" {
			if _, err := a.guestToUpgrade(r.Context(), body); err != nil {
				return err
			}
		} else if body.Username != "" {
			if _, err := a.checkAvailable(r.Context(), body.Username); err != nil {
				return err
			}
		}
		if body.Password != "" || len(body.Auth) > 0 {
			if err := a.checkNewPassword(body.Password); err != nil {
				return err
			}
		}
		return d.check()
	}
	kept := *body
	kept.Auth = nil
	told, err := json.Marshal(kept)
	if err != nil {
		return nil, err
	}
	start := func() *interaction {
		return &interaction{
			id: newSessionID(), op: opRegister, from: d.From, flows: a.registrationFlows(),
			paramsBody: told, requestBody: requestBodyOf(r.Context()),
		}
	}
	return a.runInteraction(r.Context(), start, body.Auth, check, func(i *interaction) (any, error) {
		return credentialsOrError(a.register(r.Context(), body, d, i))
	})
}

// credentialsOrError returns c as an answer, which must be untyped nil in case of an error.
func credentialsOrError(c *Credentials, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (a *Accounts) getAvailable(r *web.Request) (any, error) {
	name := r.QueryParam("username")
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
	valid, err := a.TokenValid(r.Context(), r.QueryParam("token"))
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
