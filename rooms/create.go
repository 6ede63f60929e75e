package rooms

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/platform/obs"
)

// Create asks for a room; its fields are those of POST /createRoom.
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3createroom
type Create struct {
	Alias           string                     `json:"room_alias_name"`
	Visibility      string                     `json:"visibility"`
	Preset          string                     `json:"preset"`
	Name            string                     `json:"name"`
	Topic           string                     `json:"topic"`
	Invite          []string                   `json:"invite"`
	Invite3PID      []json.RawMessage          `json:"invite_3pid"`
	Version         *string                    `json:"room_version"`
	CreationContent map[string]json.RawMessage `json:"creation_content"`
	InitialState    []InitialState             `json:"initial_state"`
	IsDirect        bool                       `json:"is_direct"`
	PowerLevels     map[string]json.RawMessage `json:"power_level_content_override"`
}

// InitialState is a state event that a new room begins with.
type InitialState struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// maxInitialState bounds what is stored in the one transaction that makes a room.
const maxInitialState = 500

// invited are the users whom a new room invites, in whichever way the request says so.
func (b *Create) invitedUsers() ([]string, error) {
	users := slices.Clone(b.Invite)
	for _, s := range b.InitialState {
		if s.Type != event.TypeMember {
			continue
		}
		// Not a struct: that would also take a "Membership" for the membership. Double keys are refused later.
		content := map[string]json.RawMessage{}
		var membership string
		if json.Unmarshal(s.Content, &content) != nil || json.Unmarshal(content["membership"], &membership) != nil {
			return nil, matrix.BadJSON("initial_state: the content of a m.room.member needs the string membership")
		}
		if membership == event.MembershipInvite {
			users = append(users, s.StateKey)
		}
	}
	return users, nil
}

// thirdParties counts those whom a new room invites and who have no user id.
func (b *Create) countThirdParties() int {
	n := 0
	for _, s := range b.InitialState {
		if s.Type == event.TypeThirdPartyInvite {
			n++
		}
	}
	return n
}

// preset is what the presets of the specification set ("Creation", POST /createRoom).
type preset struct {
	joinRule, history, guests string
	trusted                   bool // invitees get the creator's power
}

var presets = map[string]preset{
	"private_chat":         {"invite", "shared", "can_join", false},
	"trusted_private_chat": {"invite", "shared", "can_join", true},
	"public_chat":          {"public", "shared", "forbidden", false},
}

// Create makes a room with all its first events in one transaction and returns its id.
func (r *Rooms) Create(ctx context.Context, creator string, b *Create) (string, error) {
	v, p, err := r.checkCreate(creator, b)
	if err != nil {
		return "", err
	}
	roomID := ""
	if !v.RoomIDIsCreateHash {
		roomID = "!" + r.Process.NewID() + ":" + r.ServerName
	}
	create, err := r.buildCreate(v, creator, roomID, p, b)
	if err != nil {
		return "", err
	}
	roomID = create.RoomID
	req := createRequest{Version: v.ID, Visibility: b.Visibility, Create: create.JSON, CreateID: create.ID}
	if b.Alias != "" {
		req.Alias = "#" + b.Alias + ":" + r.ServerName
		if taken, _, err := r.Resolve(ctx, req.Alias); err != nil || taken != "" {
			return "", cmp.Or(err, aliasTaken(req.Alias))
		}
	}
	if req.Events, err = r.firstEvents(ctx, creator, create, p, b, req.Alias); err != nil {
		return "", err
	}
	if _, err = r.create(ctx, roomID, req); err != nil {
		return roomID, err
	}
	if before := predecessor(create); before != "" { // an upgrade by hand
		err = r.carryOver(ctx, creator, before, roomID)
	}
	return roomID, err
}

func unknownVersion(version string) error {
	if len(version) > 40 {
		version = version[:40]
	}
	return matrix.UnsupportedRoomVersion("Unknown room version " + strings.ToValidUTF8(version, "") + ": expected one of 1 to 12")
}

func (r *Rooms) checkCreate(creator string, b *Create) (event.Version, preset, error) {
	fail := func(err error) (event.Version, preset, error) { return event.Version{}, preset{}, err }
	version := r.config.DefaultVersion
	if b.Version != nil {
		version = *b.Version
	}
	v, ok := event.VersionByID(version)
	if !ok {
		return fail(unknownVersion(version))
	}
	switch b.Visibility {
	case "":
		b.Visibility = "private"
	case "private", "public":
	default:
		return fail(matrix.InvalidParam("visibility: expected public or private"))
	}
	if b.Preset == "" {
		b.Preset = map[string]string{"private": "private_chat", "public": "public_chat"}[b.Visibility]
	}
	p, ok := presets[b.Preset]
	if !ok {
		return fail(matrix.InvalidParam("preset: expected private_chat, trusted_private_chat or public_chat"))
	}
	if len(b.Invite) > r.config.MaxCreateUsers {
		return fail(matrix.InvalidParam(fmt.Sprintf("invite: expected at most %d users", r.config.MaxCreateUsers)))
	}
	if len(b.InitialState) > maxInitialState {
		return fail(matrix.InvalidParam(fmt.Sprintf("initial_state: expected at most %d events", maxInitialState)))
	}
	for _, user := range b.Invite {
		if !matrix.ValidUserID(user) {
			return fail(matrix.InvalidParam("invite: expected user ids such as @alice:example.org"))
		}
	}
	if b.Alias != "" && (strings.ContainsAny(b.Alias, ":#") || !matrix.ValidAlias("#"+b.Alias+":"+r.ServerName)) {
		return fail(matrix.InvalidParam("room_alias_name: expected the part of the alias between # and :"))
	}
	return v, p, nil
}

// onlyThis is a key of the content of m.room.create that no other one has the value of.
const nonceKey = "org.lyceum.nonce"

func (r *Rooms) buildCreate(v event.Version, creator, roomID string, p preset, b *Create) (*event.Event, error) {
	content := map[string]json.RawMessage{}
	for k, raw := range b.CreationContent {
		if k != "creator" && k != "room_version" {
			content[k] = raw
		}
	}
	content["room_version"] = quoted(v.ID)
	if v.RoomIDIsCreateHash { // else two rooms that one user makes within a millisecond are one
		content[nonceKey] = quoted(rand.Text())
	}
	if v.CreatorInContent {
		content["creator"] = quoted(creator)
	}
	if v.PrivilegedCreators && p.trusted && len(b.Invite) > 0 {
		var more []string
		if raw := content["additional_creators"]; raw != nil {
			if err := json.Unmarshal(raw, &more); err != nil {
				return nil, matrix.BadJSON("creation_content.additional_creators: expected a list of user ids")
			}
		}
		for _, user := range b.Invite {
			if !slices.Contains(more, user) && user != creator {
				more = append(more, user)
			}
		}
		content["additional_creators"] = encoded(more)
	}
	empty := ""
	return event.Build(v, event.Proto{
		ID: r.newEventID(v), RoomID: roomID, Type: event.TypeCreate, Sender: creator, StateKey: &empty, Content: encoded(content),
		OriginServerTS: obs.Now().UnixMilli(), Depth: 1,
	}, r.Key)
}

// mintEventID gives the id that an event of the room versions 1 and 2 carries; later versions compute it.
func (r *Rooms) newEventID(v event.Version) string {
	if v.IDFormat != event.IDField {
		return ""
	}
	return "$" + r.Process.NewID() + ":" + r.ServerName
}

// firstEvents are what follows the create event, in the order of the specification.
func (r *Rooms) firstEvents(ctx context.Context, creator string, create *event.Event, p preset, b *Create, alias string) ([]Send, error) {
	invited, err := b.invitedUsers()
	if err != nil {
		return nil, err
	}
	profiles, err := r.Accounts.Profiles(ctx, append(invited, creator))
	if err != nil {
		return nil, err
	}
	var list []Send
	add := func(typ, stateKey string, content any) {
		raw, isRaw := content.(json.RawMessage)
		if !isRaw {
			raw = encoded(content)
		}
		list = append(list, Send{
			Sender: creator, Type: typ, StateKey: &stateKey, Content: raw,
			Txn: serverTxnPrefix + create.ID + "/" + fmt.Sprint(len(list)),
		})
	}
	add(event.TypeMember, creator, memberContent(event.MembershipJoin, profiles[creator], false))
	levels, err := r.powerLevels(create, creator, p, b)
	if err != nil {
		return nil, err
	}
	add(event.TypePowerLevels, "", levels)
	if alias != "" {
		add(event.TypeCanonicalAlias, "", map[string]string{"alias": alias})
	}
	given := func(typ string) bool {
		return slices.ContainsFunc(b.InitialState, func(s InitialState) bool { return s.Type == typ && s.StateKey == "" })
	}
	for _, e := range []struct{ typ, member, value string }{
		{event.TypeJoinRules, "join_rule", p.joinRule},
		{event.TypeHistoryVisibility, "history_visibility", p.history},
		{event.TypeGuestAccess, "guest_access", p.guests},
	} {
		if !given(e.typ) {
			add(e.typ, "", map[string]string{e.member: e.value})
		}
	}
	for _, s := range b.InitialState {
		if err := r.checkInitial(ctx, creator, create.RoomID, alias, s); err != nil {
			return nil, err
		}
		add(s.Type, s.StateKey, s.Content)
	}
	if b.Name != "" {
		add(event.TypeName, "", map[string]string{"name": b.Name})
	}
	if b.Topic != "" {
		add(event.TypeTopic, "", map[string]any{
			"topic": b.Topic, "m.topic": map[string]any{"m.text": []map[string]string{{"body": b.Topic}}},
		})
	}
	for _, user := range b.Invite {
		if user != creator {
			add(event.TypeMember, user, memberContent(event.MembershipInvite, profiles[user], b.IsDirect))
		}
	}
	for i := range list {
		if s := &list[i]; s.Type == event.TypeMember {
			if err := s.requireTarget(profiles[*s.StateKey]); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// checkInitial refuses what may not be among the first state of a room, whose alias is "" for none.
func (r *Rooms) checkInitial(ctx context.Context, creator, roomID, alias string, s InitialState) error {
	switch {
	case s.Type == "", s.Type == event.TypeCreate, s.Type == event.TypeMember && s.StateKey == creator:
		return matrix.InvalidParam("initial_state: expected types other than m.room.create and the creator's own m.room.member")
	case s.Type == event.TypeCanonicalAlias:
		named, err := aliasesIn(s.Content)
		if err != nil {
			return err
		}
		return r.checkAliases(ctx, roomID, named, []string{alias})
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
		"ban": encoded(50), "kick": encoded(50), "redact": encoded(50), "invite": encoded(0),
		"events_default": encoded(0), "state_default": encoded(50), "users_default": encoded(0),
		"users": encoded(users), "notifications": encoded(map[string]int{"room": 50}),
		"events": encoded(map[string]int{
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
		content["users"] = encoded(named)
	}
	return encoded(content), nil
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
	return encoded(content)
}

// encoded is v as JSON; what this package gives it can not fail.
func encoded(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func quoted(s string) json.RawMessage { return matrix.AppendString(nil, s) }
