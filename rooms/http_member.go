package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
)

type roomIDReply struct {
	RoomID string `json:"room_id"`
}

func (r *Rooms) postCreateRoom(q *web.Request, b *Create) (any, error) {
	if err := q.MayAct(); err != nil {
		return nil, err
	}
	if len(b.Invite3PID) > 0 {
		return nil, errThreepid()
	}
	users, err := b.invited()
	if err != nil {
		return nil, err
	}
	others := b.thirdParties()
	if len(users)+others > r.config.MaxCreateUsers {
		return nil, matrix.InvalidParam(fmt.Sprintf("invite, initial_state: expected at most %d users", r.config.MaxCreateUsers))
	}
	if err := r.mayInvite(q, others, users...); err != nil {
		return nil, err
	}
	id, err := r.Create(q.Context(), q.UserID(), b)
	return roomIDReply{id}, err
}

func errThreepid() error {
	return matrix.Forbidden("This server has no identity server: invite users by their user id")
}

// mayInvite is what every request that invites passes: it takes the limit of invites, also for so many people without a user
// id, and refuses invites to those who want none (Client-Server API, "Invite permission").
func (r *Rooms) mayInvite(q *web.Request, others int, users ...string) error {
	for _, userID := range users {
		if !matrix.ValidUserID(userID) {
			return matrix.InvalidParam("Expected a user id such as @alice:example.org")
		}
	}
	if q.Route.Limit != inviteLimit { // else the route has taken it
		if err := q.Take(inviteLimit, len(users)+others); err != nil {
			return err
		}
	}
	for _, userID := range users {
		if err := r.takesInvites(q.Context(), userID); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rooms) takesInvites(ctx context.Context, userID string) error {
	if !r.Accounts.Local(userID) {
		return nil
	}
	raw, err := r.Accounts.AccountData(ctx, userID, "", "m.invite_permission_config")
	if err != nil || raw == nil {
		return err
	}
	var config struct {
		Default string `json:"default_action"`
	}
	if json.Unmarshal(raw, &config) == nil && config.Default == "block" {
		return matrix.NewError(403, "M_INVITE_BLOCKED", "This user takes no invites")
	}
	return nil
}

func (r *Rooms) getJoinedRooms(q *web.Request) (any, error) {
	all, err := r.Memberships(q.Context(), q.UserID())
	joined := []string{}
	for _, m := range all {
		if m.Membership == event.MembershipJoin {
			joined = append(joined, m.RoomID)
		}
	}
	return map[string][]string{"joined_rooms": joined}, err
}

// memberBody is the body of the requests that change a membership.
type memberBody struct {
	UserID string `json:"user_id"`
	Reason string `json:"reason"`
	Medium string `json:"medium"` // of an invite by address
}

// target checks the user that a request is about.
func (b *memberBody) target() error {
	switch {
	case b.UserID == "":
		return matrix.MissingParam("user_id is missing")
	case !matrix.ValidUserID(b.UserID):
		return matrix.InvalidParam("user_id: expected a user id such as @alice:example.org")
	}
	return nil
}

// find gives the room of an id or alias; M_NOT_FOUND when there is none.
func (r *Rooms) find(ctx context.Context, idOrAlias string) (string, error) {
	if !strings.HasPrefix(idOrAlias, "#") {
		if !matrix.ValidRoomID(idOrAlias) {
			return "", matrix.InvalidParam("Expected a room id or alias, such as #room:example.org")
		}
		return idOrAlias, nil
	}
	if !matrix.ValidAlias(idOrAlias) {
		return "", matrix.InvalidParam("Expected a room alias such as #room:example.org")
	}
	id, _, err := r.Resolve(ctx, idOrAlias)
	if err == nil && id == "" {
		err = matrix.NotFound("There is no room with this alias")
	}
	return id, err
}

// joinBody is the body of a request to join: what it holds becomes content of the m.room.member event.
type joinBody struct {
	reason string
	more   map[string]json.RawMessage
}

// UnmarshalJSON implements json.Unmarshaler.
func (b *joinBody) UnmarshalJSON(text []byte) error {
	if err := json.Unmarshal(text, &b.more); err != nil {
		return err
	}
	if raw := b.more["reason"]; raw != nil {
		if err := json.Unmarshal(raw, &b.reason); err != nil {
			return err
		}
	}
	for _, key := range []string{"reason", "membership", "third_party_signed", "third_party_invite"} {
		delete(b.more, key)
	}
	return nil
}

func (r *Rooms) postJoinAny(q *web.Request, b *joinBody) (any, error) {
	id, err := r.find(q.Context(), q.Path("roomIDOrAlias"))
	if err != nil {
		return nil, err
	}
	return r.joinFor(q, id, b)
}

func (r *Rooms) postJoin(q *web.Request, b *joinBody) (any, error) {
	return r.joinFor(q, q.Path("roomID"), b)
}

func (r *Rooms) joinFor(q *web.Request, roomID string, b *joinBody) (any, error) {
	if err := q.MayAct(); err != nil {
		return nil, err
	}
	_, err := r.join(q.Context(), roomID, member{Sender: q.UserID(), Device: q.Sender(), Reason: b.reason, Content: b.more, Guest: q.Identity.Guest})
	return roomIDReply{roomID}, err
}

func (r *Rooms) postKnock(q *web.Request, b *memberBody) (any, error) {
	if err := q.MayAct(); err != nil {
		return nil, err
	}
	id, err := r.find(q.Context(), q.Path("roomIDOrAlias"))
	if err != nil {
		return nil, err
	}
	_, err = r.setMembership(q.Context(), id, member{
		Sender: q.UserID(), Device: q.Sender(), Target: q.UserID(), Membership: event.MembershipKnock, Reason: b.Reason,
	})
	return roomIDReply{id}, err
}

func (r *Rooms) postInvite(q *web.Request, b *memberBody) (any, error) {
	if b.UserID == "" && b.Medium != "" {
		return nil, errThreepid()
	}
	if err := b.target(); err != nil {
		return nil, err
	}
	if err := q.MayAct(); err != nil {
		return nil, err
	}
	if err := r.mayInvite(q, 0, b.UserID); err != nil {
		return nil, err
	}
	return r.change(q, b, event.MembershipInvite)
}

func (r *Rooms) postLeave(q *web.Request, b *memberBody) (any, error) {
	b.UserID = q.UserID()
	return r.change(q, b, event.MembershipLeave)
}

func (r *Rooms) postKick(q *web.Request, b *memberBody) (any, error) {
	return r.moderate(q, b, event.MembershipLeave, event.MembershipJoin, event.MembershipInvite, event.MembershipKnock)
}

func (r *Rooms) postBan(q *web.Request, b *memberBody) (any, error) {
	return r.moderate(q, b, event.MembershipBan)
}

func (r *Rooms) postUnban(q *web.Request, b *memberBody) (any, error) {
	return r.moderate(q, b, event.MembershipLeave, event.MembershipBan)
}

func (r *Rooms) moderate(q *web.Request, b *memberBody, membership string, while ...string) (any, error) {
	if err := b.target(); err != nil {
		return nil, err
	}
	if err := q.MayAct(); err != nil {
		return nil, err
	}
	return r.change(q, b, membership, while...)
}

func (r *Rooms) change(q *web.Request, b *memberBody, membership string, while ...string) (any, error) {
	_, err := r.setMembership(q.Context(), q.Path("roomID"), member{
		Sender: q.UserID(), Device: q.Sender(), Target: b.UserID, Membership: membership, Reason: b.Reason, While: while,
	})
	return nil, err
}

func (r *Rooms) postForget(q *web.Request) (any, error) {
	return nil, r.Forget(q.Context(), q.UserID(), q.Path("roomID"))
}
