package rooms

import (
	"context"
	"encoding/json"
	"fmt"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
)

type roomIDReply struct {
	RoomID string `json:"room_id"`
}

func (r *Rooms) postCreateRoom(req *web.Request, b *Create) (any, error) {
	if err := req.MayAct(); err != nil {
		return nil, err
	}
	if len(b.Invite3PID) > 0 {
		return nil, errThreepid()
	}
	users, err := b.invitedUsers()
	if err != nil {
		return nil, err
	}
	others := b.countThirdParties()
	if len(users)+others > r.config.MaxCreateUsers {
		return nil, matrix.InvalidParam(fmt.Sprintf("invite, initial_state: expected at most %d users", r.config.MaxCreateUsers))
	}
	if err := r.checkInvites(req, others, users...); err != nil {
		return nil, err
	}
	id, err := r.Create(req.Context(), req.UserID(), b)
	return roomIDReply{id}, err
}

func errThreepid() error {
	return matrix.Forbidden("This server has no identity server: invite users by their user id")
}

// checkInvites is what every request that invites passes: it takes the limit of invites, also for so many people without a user
// id, and refuses invites to those who want none (Client-Server API, "Invite permission").
func (r *Rooms) checkInvites(req *web.Request, others int, users ...string) error {
	for _, userID := range users {
		if !matrix.ValidUserID(userID) {
			return matrix.InvalidParam("Expected a user id such as @alice:example.org")
		}
	}
	if req.Route.Limit != inviteLimit { // else the route has taken it
		if err := req.Take(inviteLimit, len(users)+others); err != nil {
			return err
		}
	}
	for _, userID := range users {
		if err := r.checkInvitePermission(req.Context(), userID); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rooms) checkInvitePermission(ctx context.Context, userID string) error {
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

func (r *Rooms) getJoinedRooms(req *web.Request) (any, error) {
	all, err := r.Memberships(req.Context(), req.UserID())
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

func (r *Rooms) postJoinAny(req *web.Request, b *joinBody) (any, error) {
	id, err := r.resolveRoom(req.Context(), req.Path("roomIDOrAlias"))
	if err != nil {
		return nil, err
	}
	return r.joinFor(req, id, b)
}

func (r *Rooms) postJoin(req *web.Request, b *joinBody) (any, error) {
	return r.joinFor(req, req.Path("roomID"), b)
}

func (r *Rooms) joinFor(req *web.Request, roomID string, b *joinBody) (any, error) {
	if err := req.MayAct(); err != nil {
		return nil, err
	}
	_, err := r.join(req.Context(), roomID, membershipRequest{
		Sender: req.UserID(), Device: req.TransactionScope(), Reason: b.reason, Content: b.more, Guest: req.Identity.Guest,
	})
	return roomIDReply{roomID}, err
}

func (r *Rooms) postKnock(req *web.Request, b *memberBody) (any, error) {
	if err := req.MayAct(); err != nil {
		return nil, err
	}
	id, err := r.resolveRoom(req.Context(), req.Path("roomIDOrAlias"))
	if err != nil {
		return nil, err
	}
	_, err = r.setMembership(req.Context(), id, membershipRequest{
		Sender: req.UserID(), Device: req.TransactionScope(), Target: req.UserID(), Membership: event.MembershipKnock, Reason: b.Reason,
	})
	return roomIDReply{id}, err
}

func (r *Rooms) postInvite(req *web.Request, b *memberBody) (any, error) {
	if b.UserID == "" && b.Medium != "" {
		return nil, errThreepid()
	}
	if err := b.target(); err != nil {
		return nil, err
	}
	if err := req.MayAct(); err != nil {
		return nil, err
	}
	if err := r.checkInvites(req, 0, b.UserID); err != nil {
		return nil, err
	}
	return r.change(req, b, event.MembershipInvite)
}

func (r *Rooms) postLeave(req *web.Request, b *memberBody) (any, error) {
	b.UserID = req.UserID()
	return r.change(req, b, event.MembershipLeave)
}

func (r *Rooms) postKick(req *web.Request, b *memberBody) (any, error) {
	return r.moderate(req, b, event.MembershipLeave, event.MembershipJoin, event.MembershipInvite, event.MembershipKnock)
}

func (r *Rooms) postBan(req *web.Request, b *memberBody) (any, error) {
	return r.moderate(req, b, event.MembershipBan)
}

func (r *Rooms) postUnban(req *web.Request, b *memberBody) (any, error) {
	return r.moderate(req, b, event.MembershipLeave, event.MembershipBan)
}

func (r *Rooms) moderate(req *web.Request, b *memberBody, membership string, while ...string) (any, error) {
	if err := b.target(); err != nil {
		return nil, err
	}
	if err := req.MayAct(); err != nil {
		return nil, err
	}
	return r.change(req, b, membership, while...)
}

func (r *Rooms) change(req *web.Request, b *memberBody, membership string, while ...string) (any, error) {
	_, err := r.setMembership(req.Context(), req.Path("roomID"), membershipRequest{
		Sender: req.UserID(), Device: req.TransactionScope(), Target: b.UserID, Membership: membership, Reason: b.Reason, IfMembership: while,
	})
	return nil, err
}

func (r *Rooms) postForget(req *web.Request) (any, error) {
	return nil, r.Forget(req.Context(), req.UserID(), req.Path("roomID"))
}
