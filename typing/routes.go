package typing

import (
	"time"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
)

// Routes are the endpoints of the package.
func (t *Typing) Routes() []web.Route {
	return []web.Route{
		{Pattern: "PUT /_matrix/client/v3/rooms/{roomID}/typing/{userID}", Auth: web.User, Role: "typing", Key: web.KeyPath("roomID"), Limit: "write", Handler: web.JSON(t.putTyping)},
	}
}

type typingBody struct {
	Typing  *bool  `json:"typing"`
	Timeout *int64 `json:"timeout"` // ms
}

const defaultTimeout = 30 * time.Second // when the client names no time

func (t *Typing) putTyping(r *web.Request, body *typingBody) (any, error) {
	if r.Path("userID") != r.UserID() {
		return nil, matrix.Forbidden("You can not set the typing state of another user")
	}
	if body.Typing == nil {
		return nil, matrix.MissingParam("typing: expected true or false")
	}
	timeout := time.Duration(0)
	if *body.Typing { // it announces words
		if err := r.MayAct(); err != nil {
			return nil, err
		}
		timeout = defaultTimeout
		if body.Timeout != nil {
			if *body.Timeout < 0 {
				return nil, matrix.InvalidParam("timeout: expected milliseconds, 0 or more")
			}
			timeout = time.Duration(min(*body.Timeout, maxTimeout.Milliseconds())) * time.Millisecond
		}
	}
	m, err := t.Rooms.Membership(r.Context(), r.UserID(), r.Path("roomID"))
	if err != nil {
		return nil, err
	}
	if m.Membership != event.MembershipJoin {
		return nil, notMember()
	}
	return nil, t.Set(r.Context(), m, timeout)
}

func notMember() error { return matrix.Forbidden("You are not a member of this room") }
