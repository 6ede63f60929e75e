package auth

import (
	"crypto/ed25519"

	"lyceum/matrix"
	"lyceum/matrix/event"
)

// member is the rule about m.room.member.
func (c *checker) member() error {
	e := c.e
	if e.StateKey == nil {
		return deny("member: no state_key")
	}
	membership := e.Membership()
	switch membership {
	case event.MembershipJoin:
		return c.join(*e.StateKey)
	case event.MembershipInvite:
		return c.invite(*e.StateKey)
	case event.MembershipLeave:
		return c.leave(*e.StateKey)
	case event.MembershipBan:
		return c.ban(*e.StateKey)
	case event.MembershipKnock:
		if c.v.Knock {
			return c.knock(*e.StateKey)
		}
	}
	return deny("member: unknown membership %.40q", membership)
}

func (c *checker) join(target string) error {
	e := c.e
	if len(e.PrevEvents) == 1 && e.PrevEvents[0] == c.create.ID && target == CreatorOf(c.v, c.create) {
		return nil
	}
	if e.Sender != target {
		return deny("member, join: %s can not join for %s", e.Sender, target)
	}
	current := c.membership(target)
	if current == event.MembershipBan {
		return deny("member, join: %s is banned", target)
	}
	invited := current == event.MembershipInvite || current == event.MembershipJoin
	rule := c.joinRule()
	switch {
	case rule == "public":
		return nil
	case rule == "invite", rule == "knock" && c.v.Knock:
		if invited {
			return nil
		}
	case rule == "restricted" && c.v.Restricted, rule == "knock_restricted" && c.v.KnockRestricted:
		if invited {
			return nil
		}
		return c.authorised()
	}
	return deny("member, join: the join rule %.40q does not let %s in", rule, target)
}

// authorised is the rule about joins of restricted rooms.
func (c *checker) authorised() error {
	user, ok := c.e.ContentString("join_authorised_via_users_server")
	if !ok {
		return deny("member, join: a restricted room needs join_authorised_via_users_server or an invite")
	}
	if c.membership(user) != event.MembershipJoin {
		return deny("member, join: %s, who authorised the join, is not joined", user)
	}
	if level := c.power.UserLevel(user); level < c.power.Invite {
		return deny("member, join: level %d of %s, who authorised the join, is below the invite level %d", level, user, c.power.Invite)
	}
	return nil
}

func (c *checker) invite(target string) error {
	if third := matrix.Lookup(c.e.Content, "third_party_invite"); third != nil {
		return c.thirdPartyInvite(target, third)
	}
	if err := c.joined(); err != nil {
		return err
	}
	switch c.membership(target) {
	case event.MembershipJoin:
		return deny("member, invite: %s is joined already", target)
	case event.MembershipBan:
		return deny("member, invite: %s is banned", target)
	}
	if level := c.power.UserLevel(c.e.Sender); level < c.power.Invite {
		return deny("member, invite: level %d of the sender is below the invite level %d", level, c.power.Invite)
	}
	return nil
}

func (c *checker) joined() error {
	if c.membership(c.e.Sender) != event.MembershipJoin {
		return deny("member: the sender %s is not joined", c.e.Sender)
	}
	return nil
}

func (c *checker) thirdPartyInvite(target string, third []byte) error {
	if c.membership(target) == event.MembershipBan {
		return deny("member, third_party_invite: %s is banned", target)
	}
	signed := matrix.Lookup(third, "signed")
	if signed == nil {
		return deny("member, third_party_invite: not signed")
	}
	mxid, ok1 := matrix.LookupString(signed, "mxid")
	token, ok2 := matrix.LookupString(signed, "token")
	if !ok1 || !ok2 {
		return deny("member, third_party_invite: signed has no mxid or token")
	}
	if mxid != target {
		return deny("member, third_party_invite: made for %s, not for %s", mxid, target)
	}
	origin := c.s.Get(event.TypeThirdPartyInvite, token)
	if origin == nil {
		return deny("member, third_party_invite: the room has no m.room.third_party_invite for the token")
	}
	if origin.Sender != c.e.Sender {
		return deny("member, third_party_invite: the sender is not %s", origin.Sender)
	}
	if !anySignature(signed, invitePublicKeys(origin.Content)) {
		return deny("member, third_party_invite: no signature matches a key of the invite")
	}
	return nil
}

// invitePublicKeys lists the keys of an m.room.third_party_invite.
func invitePublicKeys(content []byte) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	add := func(obj []byte) {
		if s, ok := matrix.LookupString(obj, "public_key"); ok {
			if k, err := matrix.DecodeBase64(s); err == nil && len(k) == ed25519.PublicKeySize {
				keys = append(keys, k)
			}
		}
	}
	add(content)
	list := matrix.Lookup(content, "public_keys")
	for i := 1; len(list) > 0 && list[0] == '['; {
		obj, next, ok := matrix.NextElement(list, i)
		if !ok {
			break
		}
		i = next
		add(obj)
	}
	return keys
}

// anySignature reports whether any signature of signed is by any of the keys.
func anySignature(signed []byte, keys []ed25519.PublicKey) bool {
	msg := matrix.AppendWithout(nil, signed, "signatures", "unsigned")
	servers := matrix.Lookup(signed, "signatures")
	for i := 1; len(servers) > 0 && servers[0] == '{'; {
		server, next, ok := matrix.NextMember(servers, i)
		if !ok {
			break
		}
		i = next
		for j := 1; server.Value[0] == '{'; {
			sig, next, ok := matrix.NextMember(server.Value, j)
			if !ok {
				break
			}
			j = next
			text, ok := matrix.Unquote(sig.Value)
			for _, k := range keys {
				if ok && matrix.VerifyBytes(msg, text, k) == nil {
					return true
				}
			}
		}
	}
	return false
}

func (c *checker) leave(target string) error {
	if c.e.Sender == target {
		switch m := c.membership(target); {
		case m == event.MembershipInvite, m == event.MembershipJoin, m == event.MembershipKnock && c.v.Knock:
			return nil
		}
		return deny("member, leave: %s is neither joined nor invited", target)
	}
	if err := c.joined(); err != nil {
		return err
	}
	sender := c.power.UserLevel(c.e.Sender)
	if c.membership(target) == event.MembershipBan && sender < c.power.Ban {
		return deny("member, leave: level %d of the sender is below the ban level %d", sender, c.power.Ban)
	}
	if sender < c.power.Kick {
		return deny("member, leave: level %d of the sender is below the kick level %d", sender, c.power.Kick)
	}
	return c.above(sender, target)
}

func (c *checker) ban(target string) error {
	if err := c.joined(); err != nil {
		return err
	}
	sender := c.power.UserLevel(c.e.Sender)
	if sender < c.power.Ban {
		return deny("member, ban: level %d of the sender is below the ban level %d", sender, c.power.Ban)
	}
	return c.above(sender, target)
}

// above refuses an act against someone of the same or a higher level.
func (c *checker) above(sender int64, target string) error {
	if level := c.power.UserLevel(target); level >= sender {
		return deny("member: level %d of %s is not below that of the sender", level, target)
	}
	return nil
}

func (c *checker) knock(target string) error {
	rule := c.joinRule()
	if rule != "knock" && (rule != "knock_restricted" || !c.v.KnockRestricted) {
		return deny("member, knock: the join rule is %.40q", rule)
	}
	if c.e.Sender != target {
		return deny("member, knock: %s can not knock for %s", c.e.Sender, target)
	}
	switch m := c.membership(target); m {
	case event.MembershipBan, event.MembershipInvite, event.MembershipJoin:
		return deny("member, knock: the membership is %s", m)
	}
	return nil
}
