package presence

import (
	"context"
	"encoding/json"

	"lyceum/matrix"
	"lyceum/platform/web"
)

// Routes are the endpoints of the package.
func (p *Presence) Routes() []web.Route {
	const status = "/_matrix/client/v3/presence/{userID}/status"
	return []web.Route{
		{Pattern: "GET " + status, Auth: web.User, Role: "presence", Key: web.KeyPath("userID"), Limit: "read", Handler: p.getStatus},
		{Pattern: "PUT " + status, Auth: web.User, Role: "presence", Key: web.KeyPath("userID"), Limit: "write", Handler: web.JSON(p.putStatus)},
	}
}

type statusBody struct {
	Presence  string          `json:"presence"`
	StatusMsg json.RawMessage `json:"status_msg"`
}

const maxMessage = 1000 // bytes of a status message: it goes to everybody who shares a room

func (p *Presence) putStatus(r *web.Request, body *statusBody) (any, error) {
	if r.Path("userID") != r.UserID() {
		return nil, matrix.Forbidden("You can not set the presence of another user")
	}
	switch body.Presence {
	case Online, Unavailable, Offline:
	case "":
		return nil, matrix.MissingParam("presence: expected online, unavailable or offline")
	default:
		return nil, matrix.InvalidParam("presence: expected online, unavailable or offline")
	}
	message := "" // what a client leaves out is taken away
	if body.StatusMsg != nil && string(body.StatusMsg) != "null" {
		if err := json.Unmarshal(body.StatusMsg, &message); err != nil {
			return nil, matrix.BadJSON("status_msg: expected a string")
		}
		if len(message) > maxMessage {
			return nil, matrix.InvalidParam("status_msg: expected at most 1000 bytes")
		}
	}
	if message != "" {
		if err := r.MayAct(); err != nil {
			return nil, err
		}
	}
	return nil, p.Set(r.Context(), r.UserID(), r.DeviceID(), body.Presence, &message)
}

func (p *Presence) getStatus(r *web.Request) (any, error) {
	userID := r.Path("userID")
	ok, err := p.visible(r.Context(), r.UserID(), userID)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, matrix.Forbidden("You are not allowed to see the presence of this user")
	}
	list, err := p.ForUsers(r.Context(), []string{userID})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 || !p.config.Enabled {
		return Content(&Status{UserID: userID, Presence: Offline}, p.Now()), nil
	}
	return Content(p.withLatestActivity(r.Context(), list[0]), p.Now()), nil
}

// visible tells whether a user may see another's presence: they share a room.
func (p *Presence) visible(ctx context.Context, viewer, userID string) (bool, error) {
	if viewer == userID {
		return true, nil
	}
	return p.Rooms.SharesRoom(ctx, viewer, userID)
}
