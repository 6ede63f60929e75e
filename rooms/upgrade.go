package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/platform/caller"
	"lyceum/platform/obs"
	"lyceum/rooms/state"
)

// transferred are the types of state that a new room takes over (Client-Server API, "Room upgrades"). The
// power levels come last: until then the creator may set everything.
var transferred = []string{
	event.TypeServerACL, event.TypeEncryption, event.TypeName, event.TypeAvatar, event.TypeTopic,
	event.TypeGuestAccess, event.TypeHistoryVisibility, event.TypeJoinRules, event.TypeCanonicalAlias,
}

// upgrade is what one upgrade works on.
type upgrade struct {
	user    string
	old     roomView
	state   map[state.Key]*Event
	version event.Version
	power   *auth.Power
}

// Upgrade replaces a room by one of another version and returns the new room's id. An upgrade that was begun and is not finished
// is finished instead, with the room that it made. Errors: M_FORBIDDEN, M_NOT_FOUND, M_UNSUPPORTED_ROOM_VERSION.
func (r *Rooms) Upgrade(ctx context.Context, userID, roomID, version string, creators []string) (string, error) {
	u, err := r.mayUpgrade(ctx, userID, roomID, version)
	if err != nil {
		return "", err
	}
	// What was begun is finished, whether the client stays or not.
	ctx, cancel := context.WithTimeout(caller.Stays(ctx), upgradeTime)
	defer cancel()
	p, found, err := r.pendingUpgrade(ctx, roomID, u.version)
	for err == nil && found { // a retry, or a second administrator
		if id, err := r.finish(ctx, u, p); !matrix.IsRefusal(err) {
			return id, err
		} // else who began it may not finish it
		p, found, err = r.pendingUpgrade(ctx, roomID, u.version)
	}
	if err != nil {
		return "", err
	}
	tombstone := u.state[state.Key{Type: event.TypeTombstone}]
	if tombstone != nil && obs.Now().UnixMilli()-tombstone.OriginServerTS < upgradeAgain.Milliseconds() {
		if newID, err := r.replacement(ctx, tombstone, u.version); err == nil {
			return newID, nil
		}
	}
	if p, err = r.createReplacement(ctx, u, creators); err != nil {
		return "", err
	}
	return r.finish(ctx, u, p)
}

// mayUpgrade reads what an upgrade works on, when the user may do it.
func (r *Rooms) mayUpgrade(ctx context.Context, userID, roomID, version string) (u upgrade, err error) {
	v, ok := event.VersionByID(version)
	if !ok {
		return u, unknownVersion(version)
	}
	if _, ok, err := r.Head(ctx, roomID); err != nil || !ok {
		return u, cmp.Or(err, error(matrix.NotFound("Unknown room")))
	}
	u = upgrade{user: userID, version: v, state: map[state.Key]*Event{}}
	if u.old, err = r.findJoinedView(ctx, userID, roomID); err != nil {
		return u, err
	}
	if u.power, err = r.PowerAt(ctx, u.old.head.Version, u.old.root); err != nil {
		return u, err
	}
	if !u.power.CanSend(userID, event.TypeTombstone, true) {
		return u, matrix.Forbidden("You may not upgrade this room: that needs the power to send m.room.tombstone")
	}
	events, err := r.FullState(ctx, u.old.root)
	for _, e := range events {
		u.state[state.Key{Type: e.Type, StateKey: *e.StateKey}] = e
	}
	return u, err
}

// finish completes an upgrade and gives the room that is the replacement.
func (r *Rooms) finish(ctx context.Context, u upgrade, p pendingUpgrade) (string, error) {
	err := r.completeUpgrade(ctx, p, func(ctx context.Context, query string, args ...any) error {
		_, err := r.Process.DB.Exec(ctx, query, args...)
		return err
	})
	switch {
	case matrix.HasCode(err, matrix.CodeBadState):
		return r.upgradedMeanwhile(ctx, u)
	case err != nil:
		return "", err
	}
	return p.NewRoom, nil
}

// upgradeTime is how long an upgrade may take until it goes on in the background.
const upgradeTime = 45 * time.Second

// upgradeAgain is how long an upgrade to the same version, by whoever may, gets the room that is there: a retry, or a second
// administrator.
const upgradeAgain = 5 * time.Minute

// replacement is the room that a tombstone names, when it is of a version.
func (r *Rooms) replacement(ctx context.Context, tombstone *Event, v event.Version) (string, error) {
	id := replacementOf(tombstone.Event)
	h, ok, err := r.Head(ctx, id)
	if err == nil && (!ok || h.Version.ID != v.ID) {
		err = matrix.BadState("The room was upgraded to another version meanwhile")
	}
	return id, err
}

// upgradedMeanwhile answers for an upgrade that came second: with the room that the first one made.
func (r *Rooms) upgradedMeanwhile(ctx context.Context, u upgrade) (string, error) {
	now, err := r.findJoinedView(ctx, u.user, u.old.head.RoomID)
	if err != nil {
		return "", err
	}
	key := state.Key{Type: event.TypeTombstone}
	found, err := r.StateEvents(ctx, now.root, key)
	if err != nil {
		return "", err
	}
	if found[key] == nil {
		return "", fmt.Errorf("room %s has no m.room.tombstone, which somebody sent", now.head.RoomID)
	}
	return r.replacement(ctx, found[key], u.version)
}

// createReplacement makes the new room and, with it, the row of the upgrade.
func (r *Rooms) createReplacement(ctx context.Context, u upgrade, creators []string) (p pendingUpgrade, err error) {
	content := map[string]json.RawMessage{}
	oldCreate := u.state[state.Key{Type: event.TypeCreate}]
	if oldCreate == nil {
		return p, fmt.Errorf("room %s has no m.room.create", u.old.head.RoomID)
	}
	if err := json.Unmarshal(oldCreate.Content, &content); err != nil {
		return p, err
	}
	delete(content, "additional_creators")
	delete(content, nonceKey)
	before := map[string]string{"room_id": u.old.head.RoomID}
	if !u.version.PrivilegedCreators {
		before["event_id"] = u.old.head.EventID
	}
	content["predecessor"] = encodeJSON(before)
	if u.version.PrivilegedCreators && len(creators) > 0 {
		content["additional_creators"] = encodeJSON(creators)
	}
	roomID := ""
	if !u.version.RoomIDIsCreateHash {
		roomID = "!" + r.Process.NewID() + ":" + r.ServerName
	}
	create, err := r.buildCreate(u.version, u.user, roomID, preset{}, &Create{CreationContent: content})
	if err != nil {
		return p, err
	}
	visibility, err := r.DirectoryVisibility(ctx, u.old.head.RoomID)
	if err != nil {
		return p, err
	}
	p = pendingUpgrade{NewRoom: create.RoomID, OldRoom: u.old.head.RoomID, User: u.user}
	if e := u.state[state.Key{Type: event.TypeTombstone}]; e != nil {
		p.Tombstone = e.ID
	}
	req := createRequest{Version: u.version.ID, Visibility: visibility, Create: create.JSON, CreateID: create.ID, Upgrade: &p}
	if req.Events, err = r.replacementEvents(ctx, u, create); err != nil {
		return p, err
	}
	return p, r.createAtOwner(ctx, create.RoomID, req)
}

func (r *Rooms) replacementEvents(ctx context.Context, u upgrade, create *event.Event) ([]Send, error) {
	profiles, err := r.Accounts.Profiles(ctx, []string{u.user})
	if err != nil {
		return nil, err
	}
	var list []Send
	add := func(typ, stateKey string, content json.RawMessage) {
		list = append(list, Send{
			Sender: u.user, Type: typ, StateKey: &stateKey, Content: content,
			Txn: serverTxnPrefix + create.ID + "/" + fmt.Sprint(len(list)),
		})
	}
	if profiles[u.user].Deactivated {
		return nil, matrix.Forbidden("This account is deactivated")
	}
	add(event.TypeMember, u.user, memberContent(event.MembershipJoin, profiles[u.user], false))
	list[0].ProfileVersion = profiles[u.user].Version
	// Since room version 6 there are no floats in events: what holds one stays behind.
	fits := func(e *Event) bool {
		_, err := u.version.Canonical(e.Content)
		return err == nil
	}
	for _, typ := range transferred {
		if e := u.state[state.Key{Type: typ}]; e != nil && fits(e) {
			add(typ, "", e.Content)
		}
	}
	for k, e := range u.state {
		switch {
		case !fits(e):
		case k.Type == event.TypeMember && e.Membership() == event.MembershipBan && k.StateKey != u.user:
			add(k.Type, k.StateKey, e.Content)
		case k.Type == "m.space.child" && len(e.Content) > len("{}"):
			add(k.Type, k.StateKey, e.Content)
		}
	}
	levels, err := u.levels(create)
	if err != nil {
		return nil, err
	}
	add(event.TypePowerLevels, "", levels)
	return list, nil
}

// levels gives the power levels of the new room: those of the old one, without the creators where the new
// version sets them above all levels, and with them where it does not.
func (u upgrade) levels(create *event.Event) (json.RawMessage, error) {
	content := map[string]json.RawMessage{}
	if e := u.state[state.Key{Type: event.TypePowerLevels}]; e != nil {
		if err := json.Unmarshal(e.Content, &content); err != nil {
			return nil, err
		}
	}
	events := copied(u.power.Events)
	users := copied(u.power.Users)
	maps.DeleteFunc(users, func(user string, _ int64) bool { return !matrix.ValidUserID(user) })
	// As numbers: before room version 10 they may be strings.
	for name, level := range map[string]int64{
		"ban": u.power.Ban, "events_default": u.power.EventsDefault, "invite": u.power.Invite, "kick": u.power.Kick,
		"redact": u.power.Redact, "state_default": u.power.StateDefault, "users_default": u.power.UsersDefault,
	} {
		if content[name] != nil {
			content[name] = encodeJSON(level)
		}
	}
	if content["notifications"] != nil {
		content["notifications"] = encodeJSON(copied(u.power.Notifications))
	}
	if u.version.PrivilegedCreators {
		for _, user := range auth.Creators(u.version, create) {
			delete(users, user)
		}
		if !u.old.head.Version.PrivilegedCreators {
			events[event.TypeTombstone] = max(events[event.TypeTombstone], 150)
		}
	} else if u.old.head.Version.PrivilegedCreators {
		const most = 100
		for _, user := range u.power.Creators {
			users[user] = most
		}
		for typ, level := range events {
			events[typ] = min(level, most)
		}
	}
	content["events"], content["users"] = encodeJSON(events), encodeJSON(users)
	return encodeJSON(content), nil
}

func copied(levels map[string]int64) map[string]int64 {
	out := make(map[string]int64, len(levels))
	for k, n := range levels {
		out[k] = n
	}
	return out
}
