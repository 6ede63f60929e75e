package rooms

import (
	"context"
	"encoding/json"
	"slices"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// membershipRequest is a request that changes somebody's membership.
type membershipRequest struct {
	Sender, Device string
	Target         string
	Membership     string
	Reason         string
	Content        map[string]json.RawMessage // more content; a displayname or avatar_url here stands before the profile's
	IfMembership   []string                   // sent only when the target has one of these memberships; see Send.IfMembership
	Always         bool                       // send also what changes nothing in the membership
	Txn            string
	Guest          bool // the target is a guest, see Send
}

// setMembership sends the m.room.member event of a change and returns its id.
func (r *Rooms) setMembership(ctx context.Context, roomID string, m membershipRequest) (string, error) {
	req, err := r.memberEvent(ctx, m)
	if err != nil {
		return "", err
	}
	return r.Send(ctx, roomID, req)
}

// memberEvent makes the m.room.member event of a change with the profile of now.
func (r *Rooms) memberEvent(ctx context.Context, m membershipRequest) (Send, error) {
	content := map[string]json.RawMessage{}
	for k, v := range m.Content {
		content[k] = v
	}
	content["membership"] = quoteJSON(m.Membership)
	if m.Reason != "" {
		content["reason"] = quoteJSON(m.Reason)
	}
	req := Send{
		Sender: m.Sender, Device: m.Device, Txn: m.Txn, Type: event.TypeMember, StateKey: &m.Target,
		IfMembership: m.IfMembership, RequireGuestAccess: m.Guest,
	}
	if m.Membership != event.MembershipLeave && m.Membership != event.MembershipBan {
		profiles, err := r.Accounts.Profiles(ctx, []string{m.Target})
		if err != nil {
			return Send{}, err
		}
		p := profiles[m.Target]
		if err := req.requireTarget(p); err != nil {
			return Send{}, err
		}
		if p.DisplayName != "" && content["displayname"] == nil {
			content["displayname"] = quoteJSON(p.DisplayName)
		}
		if p.AvatarURL != "" && content["avatar_url"] == nil {
			content["avatar_url"] = quoteJSON(p.AvatarURL)
		}
	}
	req.Content = encodeJSON(content)
	if !m.Always && m.IfMembership == nil && m.Sender == m.Target &&
		(m.Membership == event.MembershipJoin || m.Membership == event.MembershipLeave) {
		req.SkipIfMembership = m.Membership
	}
	return req, nil
}

// requireTarget makes the event of a membership depend on its target, whose profile is p: who is deactivated can not be made a member
// or invited. Only users' own memberships depend on what the profile is, as a new name comes to those who joined only.
func (s *Send) requireTarget(p accounts.Profile) error {
	own := s.Sender == *s.StateKey
	switch {
	case p.Deactivated && own:
		return matrix.Forbidden("This account is deactivated")
	case p.Deactivated:
		return matrix.Forbidden("This user has deactivated the account")
	case own:
		s.ProfileVersion = p.Version
	default:
		s.RequireActive = p.Version != 0 // others are not known here
	}
	return nil
}

// join makes the sender of m a member and returns the id of the m.room.member event, "" when the sender was one. Target and
// Membership of m are set here.
func (r *Rooms) join(ctx context.Context, roomID string, m membershipRequest) (string, error) {
	h, ok, err := r.Head(ctx, roomID)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", matrix.NotFound("Unknown room")
	}
	more := map[string]json.RawMessage{}
	for k, v := range m.Content {
		more[k] = v
	}
	delete(more, "join_authorised_via_users_server")
	via, err := r.authoriser(ctx, h, m.Sender)
	if err != nil {
		return "", err
	}
	if via != "" {
		more["join_authorised_via_users_server"] = quoteJSON(via)
	}
	m.Target, m.Membership, m.Content = m.Sender, event.MembershipJoin, more
	id, err := r.setMembership(ctx, roomID, m)
	if err == nil { // also when the user was joined: the request may be one that failed behind this
		err = r.carryOverFrom(ctx, m.Sender, h)
	}
	return id, err
}

// authoriser names a member who may let the user into a restricted room, as the join needs one (room
// version 8, "Restricted rooms"); "" when the join needs none.
func (r *Rooms) authoriser(ctx context.Context, h Head, userID string) (string, error) {
	rules := state.Key{Type: event.TypeJoinRules}
	me := state.Key{Type: event.TypeMember, StateKey: userID}
	found, err := r.StateEvents(ctx, h.Root, rules, me)
	if err != nil {
		return "", err
	}
	if m := found[me]; m != nil && (m.Membership() == event.MembershipInvite || m.Membership() == event.MembershipJoin) {
		return "", nil
	}
	rule := found[rules]
	if rule == nil || !h.Version.Restricted {
		return "", nil
	}
	switch kind, _ := rule.ContentString("join_rule"); kind {
	case "restricted", "knock_restricted":
	default:
		return "", nil
	}
	allowed := false
	for _, id := range allowedRooms(rule) {
		m, err := r.Membership(ctx, userID, id)
		if err != nil {
			return "", err
		}
		allowed = allowed || m.Membership == event.MembershipJoin
	}
	if !allowed {
		return "", nil
	}
	return r.inviter(ctx, h)
}

// inviter is a local member of the room who may invite.
func (r *Rooms) inviter(ctx context.Context, h Head) (string, error) {
	power, err := r.PowerAt(ctx, h.Version, h.Root)
	if err != nil {
		return "", err
	}
	members, err := r.Members(ctx, h.RoomID, event.MembershipJoin)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(members, func(m Membership) bool {
		return matrix.ServerOf(m.UserID) == r.ServerName && power.UserLevel(m.UserID) >= power.Invite
	})
	if i < 0 {
		return "", matrix.UnableToAuthoriseJoin("No member of this server may invite to the room")
	}
	return members[i].UserID, nil
}

// Forget takes a room that the user has left from the user's lists.
func (r *Rooms) Forget(ctx context.Context, userID, roomID string) error {
	n, err := r.Process.DB.Exec(ctx, `UPDATE memberships SET forgotten = TRUE
		WHERE user_id = $1 AND room_id = $2 AND membership IN ('leave', 'ban')`, userID, roomID)
	if err != nil {
		return err
	}
	if n == 0 {
		m, err := r.Membership(ctx, userID, roomID)
		if err != nil {
			return err
		}
		if m.RoomID == "" {
			return matrix.NotFound("You were never in this room")
		}
		return matrix.NewError(400, matrix.CodeUnknown, "You must leave the room before you forget it")
	}
	return nil
}
