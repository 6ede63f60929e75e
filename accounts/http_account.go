package accounts

import (
	"encoding/json"
	"time"

	"lyceum/platform/web"
)

func (a *Accounts) whoami(r *web.Request) (any, error) {
	return struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id,omitempty"`
		Guest    bool   `json:"is_guest,omitempty"`
	}{r.Identity.UserID, r.Identity.DeviceID, r.Identity.Guest}, nil
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
		err := a.deactivate(r.Context(), r.UserID(), sessionChange{Proof: p, Erase: body.Erase})
		return map[string]string{"id_server_unbind_result": "success"}, err
	})
}

func (a *Accounts) getThreepids(*web.Request) (any, error) {
	return map[string]any{"threepids": []struct{}{}}, nil
}

const openIDLife = time.Hour

// requestOpenID creates a token that another service may exchange for the caller's user id (Client-Server API, POST
// /user/{userId}/openid/request_token).
func (a *Accounts) requestOpenID(r *web.Request, _ *struct{}) (any, error) {
	userID, err := a.ownUserID(r)
	if err != nil {
		return nil, err
	}
	token, err := a.secret.newToken(r.Context(), openIDPrefix)
	if err != nil {
		return nil, err
	}
	hash := hashToken(token)
	_, err = a.db.Exec(
		r.Context(), `INSERT INTO openid_tokens (hash, user_id, expires_ms) VALUES ($1, $2, $3)`, hash[:], userID,
		a.nowMs()+openIDLife.Milliseconds(),
	)
	return map[string]any{
		"access_token":       token,
		"token_type":         "Bearer",
		"matrix_server_name": a.config.ServerName,
		"expires_in":         int(openIDLife.Seconds()),
	}, err
}
