package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
)

// firstEvents says what follows the m.room.create event of a new room.
type firstEvents struct {
	creator string
	create  *event.Event
	preset  preset
	request *Create
	alias   string // of the room; "" for none

	profiles map[string]accounts.Profile // of the creator and those who are invited
	list     []Send
}

// add adds a state event. content is a json.RawMessage or what encodeJSON takes.
func (f *firstEvents) add(typ, stateKey string, content any) {
	raw, isRaw := content.(json.RawMessage)
	if !isRaw {
		raw = encodeJSON(content)
	}
	f.list = append(f.list, Send{
		Sender: f.creator, Type: typ, StateKey: &stateKey, Content: raw,
		Txn: serverTxnPrefix + f.create.ID + "/" + fmt.Sprint(len(f.list)),
	})
}

// buildFirstEvents gives what follows the m.room.create event, in the order of the specification ("Creation").
func (r *Rooms) buildFirstEvents(ctx context.Context, f firstEvents) ([]Send, error) {
	b := f.request
	invited, err := b.invitedUsers()
	if err != nil {
		return nil, err
	}
	if f.profiles, err = r.Accounts.Profiles(ctx, append(invited, f.creator)); err != nil {
		return nil, err
	}
	f.add(event.TypeMember, f.creator, memberContent(event.MembershipJoin, f.profiles[f.creator], false))
	levels, err := r.powerLevels(f.create, f.creator, f.preset, b)
	if err != nil {
		return nil, err
	}
	f.add(event.TypePowerLevels, "", levels)
	if f.alias != "" {
		f.add(event.TypeCanonicalAlias, "", map[string]string{"alias": f.alias})
	}
	f.addPreset()
	for _, s := range b.InitialState {
		if err := r.checkInitial(ctx, &f, s); err != nil {
			return nil, err
		}
		f.add(s.Type, s.StateKey, s.Content)
	}
	if b.Name != "" {
		f.add(event.TypeName, "", map[string]string{"name": b.Name})
	}
	if b.Topic != "" {
		f.add(event.TypeTopic, "", map[string]any{
			"topic": b.Topic, "m.topic": map[string]any{"m.text": []map[string]string{{"body": b.Topic}}},
		})
	}
	for _, user := range b.Invite {
		if user != f.creator {
			f.add(event.TypeMember, user, memberContent(event.MembershipInvite, f.profiles[user], b.IsDirect))
		}
	}
	for i := range f.list {
		if s := &f.list[i]; s.Type == event.TypeMember {
			if err := s.requireTarget(f.profiles[*s.StateKey]); err != nil {
				return nil, err
			}
		}
	}
	return f.list, nil
}

// addPreset adds what the preset sets and the initial state does not.
func (f *firstEvents) addPreset() {
	for _, e := range []struct{ typ, member, value string }{
		{event.TypeJoinRules, "join_rule", f.preset.joinRule},
		{event.TypeHistoryVisibility, "history_visibility", f.preset.history},
		{event.TypeGuestAccess, "guest_access", f.preset.guests},
	} {
		isSet := func(s InitialState) bool { return s.Type == e.typ && s.StateKey == "" }
		if !slices.ContainsFunc(f.request.InitialState, isSet) {
			f.add(e.typ, "", map[string]string{e.member: e.value})
		}
	}
}

// checkInitial refuses what may not be among the initial state of a room.
func (r *Rooms) checkInitial(ctx context.Context, f *firstEvents, s InitialState) error {
	switch {
	case s.Type == "", s.Type == event.TypeCreate, s.Type == event.TypeMember && s.StateKey == f.creator:
		return matrix.InvalidParam("initial_state: expected types other than m.room.create and the creator's own m.room.member")
	case s.Type == event.TypeCanonicalAlias:
		named, err := aliasesIn(s.Content)
		if err != nil {
			return err
		}
		return r.checkAliases(ctx, f.create.RoomID, named, []string{f.alias})
	}
	return nil
}

func (r *Rooms) powerLevels(create *event.Event, creator string, p preset, b *Create) (json.RawMessage, error) {
	v := create.Version()
	users := map[string]int{}
	if !v.PrivilegedCreators {
		users[creator] = 100
		if p.trusted {
			for _, user := range b.Invite {
				users[user] = 100
			}
		}
	}
	tombstone := 100
	if v.PrivilegedCreators {
		tombstone = 150
	}
	content := map[string]json.RawMessage{
		"ban": encodeJSON(50), "kick": encodeJSON(50), "redact": encodeJSON(50), "invite": encodeJSON(0),
		"events_default": encodeJSON(0), "state_default": encodeJSON(50), "users_default": encodeJSON(0),
		"users": encodeJSON(users), "notifications": encodeJSON(map[string]int{"room": 50}),
		"events": encodeJSON(map[string]int{
			event.TypeName: 50, event.TypeAvatar: 50, event.TypeCanonicalAlias: 50, event.TypeHistoryVisibility: 100,
			event.TypePowerLevels: 100, event.TypeEncryption: 100, event.TypeServerACL: 100, event.TypeTombstone: tombstone,
		}),
	}
	for k, raw := range b.PowerLevels {
		content[k] = raw
	}
	if v.PrivilegedCreators {
		var named map[string]json.RawMessage
		if err := json.Unmarshal(content["users"], &named); err != nil {
			return nil, matrix.BadJSON("power_level_content_override.users: expected an object of levels")
		}
		for _, user := range auth.Creators(v, create) {
			if _, found := named[user]; found && b.Version == nil { // who does not choose the version need not know its rules
				delete(named, user)
			} else if found {
				return nil, matrix.InvalidParam("power_level_content_override.users: creators of the room have no level in this room version")
			}
		}
		content["users"] = encodeJSON(named)
	}
	return encodeJSON(content), nil
}

// memberContent is the content of a membership with the profile of its user.
func memberContent(membership string, p accounts.Profile, direct bool) json.RawMessage {
	content := map[string]any{"membership": membership}
	if p.DisplayName != "" {
		content["displayname"] = p.DisplayName
	}
	if p.AvatarURL != "" {
		content["avatar_url"] = p.AvatarURL
	}
	if direct {
		content["is_direct"] = true
	}
	return encodeJSON(content)
}
