package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/platform/obs"
	"lyceum/platform/web"
	"lyceum/rooms/state"
)

// transferred are the types of state that a new room takes over (Client-Server API, "Room upgrades"). The
// power levels come last: until then the creator may set everything.
var transferred = []string{
	event.TypeServerACL, event.TypeEncryption, event.TypeName, event.TypeAvatar, event.TypeTopic,
	event.TypeGuestAccess, event.TypeHistoryVisibility, event.TypeJoinRules, event.TypeCanonicalAlias,
}

func (r *Rooms) postUpgrade(q *web.Request, b *struct {
	Version  string   `json:"new_version"`
	Creators []string `json:"additional_creators"`
},
) (any, error) {
	if err := r.mayAct(q); err != nil {
		return nil, err
	}
	if b.Version == "" {
		return nil, matrix.MissingParam("new_version is missing")
	}
	id, err := r.Upgrade(q.Context(), q.UserID(), q.Path("roomID"), b.Version, b.Creators)
	return map[string]string{"replacement_room": id}, err
}

// upgrade is what one upgrade works on.
type upgrade struct {
	user    string
	old     view
	state   map[state.Key]*Event
	version event.Version
	power   *auth.Power
}

// Upgrade replaces a room by one of another version and returns the new room's id. Errors: M_FORBIDDEN,
// M_UNSUPPORTED_ROOM_VERSION.
func (r *Rooms) Upgrade(ctx context.Context, userID, roomID, version string, creators []string) (string, error) {
	v, ok := event.VersionByID(version)
	if !ok || !v.Creatable {
		return "", matrix.UnsupportedRoomVersion("Rooms of version " + version + " can not be created here; versions 10, 11 and 12 can")
	}
	old, err := r.joinedView(ctx, userID, roomID)
	if err != nil {
		return "", err
	}
	u := upgrade{user: userID, old: old, version: v, state: map[state.Key]*Event{}}
	if u.power, err = r.PowerAt(ctx, old.head.Version, old.root); err != nil {
		return "", err
	}
	if !u.power.CanSend(userID, event.TypeTombstone, true) {
		return "", matrix.Forbidden("You may not upgrade this room: that needs the power to send m.room.tombstone")
	}
	events, err := r.FullState(ctx, old.root)
	if err != nil {
		return "", err
	}
	for _, e := range events {
		u.state[state.Key{Type: e.Type, StateKey: *e.StateKey}] = e
	}
	tombstone := u.state[state.Key{Type: event.TypeTombstone}]
	if tombstone != nil && obs.Now().UnixMilli()-tombstone.OriginServerTS < upgradeAgain.Milliseconds() {
		if newID, err := r.replacement(ctx, tombstone, v); err == nil {
			r.closeOld(ctx, u)
			return newID, nil
		}
	}
	// What was begun is finished, whether the client stays or not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), upgradeTime)
	defer cancel()
	newID, err := ofProfile(ctx, func() (string, error) { return r.createReplacement(ctx, u, creators) })
	if err != nil {
		return "", err
	}
	empty, before := "", ""
	if tombstone != nil {
		before = tombstone.ID
	}
	_, err = r.Send(ctx, roomID, Send{
		Sender: userID, Type: event.TypeTombstone, StateKey: &empty, Over: &before, Heir: newID,
		Content: encoded(map[string]string{"body": "This room has been replaced", "replacement_room": newID}),
	})
	switch {
	case matrix.HasCode(err, matrix.CodeBadState):
		r.abandon(ctx, u, newID)
		return r.upgradedMeanwhile(ctx, u)
	case err != nil:
		return "", err
	}
	r.closeOld(ctx, u)
	return newID, nil
}

// upgradeTime is how long an upgrade may take.
const upgradeTime = 45 * time.Second

// upgradeAgain is how long an upgrade to the same version, by whoever may, gets the room that is there: a retry, or a second
// administrator.
const upgradeAgain = 5 * time.Minute

// replacement is the room that a tombstone names, when it is of a version.
func (r *Rooms) replacement(ctx context.Context, tombstone *Event, v event.Version) (string, error) {
	id, _ := matrix.LookupString(tombstone.Content, "replacement_room")
	h, ok, err := r.Head(ctx, id)
	if err == nil && (!ok || h.Version.ID != v.ID) {
		err = matrix.NewError(409, matrix.CodeBadState, "The room was upgraded to another version meanwhile")
	}
	return id, err
}

// upgradedMeanwhile answers for an upgrade that came second: with the room that the first one made.
func (r *Rooms) upgradedMeanwhile(ctx context.Context, u upgrade) (string, error) {
	now, err := r.joinedView(ctx, u.user, u.old.head.RoomID)
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

// abandon empties a room that took nobody's place.
func (r *Rooms) abandon(ctx context.Context, u upgrade, roomID string) {
	err := r.SetVisibility(ctx, roomID, "private")
	if err == nil {
		_, err = r.Send(ctx, roomID, Send{
			Sender: u.user, Type: event.TypeMember, StateKey: &u.user, Content: encoded(map[string]string{"membership": event.MembershipLeave}),
		})
	}
	if err != nil {
		r.Process.Log.Warn("a room that was made by an upgrade which came second is left", "room", roomID, "error", err)
	}
}

func (r *Rooms) createReplacement(ctx context.Context, u upgrade, creators []string) (string, error) {
	content := map[string]json.RawMessage{}
	oldCreate := u.state[state.Key{Type: event.TypeCreate}]
	if oldCreate == nil {
		return "", fmt.Errorf("room %s has no m.room.create", u.old.head.RoomID)
	}
	if err := json.Unmarshal(oldCreate.Content, &content); err != nil {
		return "", err
	}
	delete(content, "additional_creators")
	delete(content, onlyThis)
	before := map[string]string{"room_id": u.old.head.RoomID}
	if !u.version.PrivilegedCreators {
		before["event_id"] = u.old.head.EventID
	}
	content["predecessor"] = encoded(before)
	if u.version.PrivilegedCreators && len(creators) > 0 {
		content["additional_creators"] = encoded(creators)
	}
	roomID := ""
	if !u.version.RoomIDIsCreateHash {
		roomID = "!" + r.Process.MintID() + ":" + r.ServerName
	}
	create, err := r.buildCreate(u.version, u.user, roomID, preset{}, &Create{CreationContent: content})
	if err != nil {
		return "", err
	}
	visibility, err := r.Visibility(ctx, u.old.head.RoomID)
	if err != nil {
		return "", err
	}
	req := createRequest{Version: u.version.ID, Visibility: visibility, Create: create.JSON, CreateID: create.ID}
	if req.Events, err = r.replacementEvents(ctx, u, create); err != nil {
		return "", err
	}
	_, err = r.create(ctx, create.RoomID, req)
	return create.RoomID, err
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
			Txn: minted + create.ID + "/" + fmt.Sprint(len(list)),
		})
	}
	if profiles[u.user].Deactivated {
		return nil, matrix.Forbidden("This account is deactivated")
	}
	add(event.TypeMember, u.user, memberContent(event.MembershipJoin, profiles[u.user], false))
	list[0].Profile = profiles[u.user].Version
	for _, typ := range transferred {
		if e := u.state[state.Key{Type: typ}]; e != nil {
			add(typ, "", e.Content)
		}
	}
	for k, e := range u.state {
		switch {
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
	content["events"], content["users"] = encoded(events), encoded(users)
	return encoded(content), nil
}

func copied(levels map[string]int64) map[string]int64 {
	out := make(map[string]int64, len(levels))
	for k, n := range levels {
		out[k] = n
	}
	return out
}

// closeOld keeps people from talking on in a room that was replaced, as far as the user may. It may be done again.
func (r *Rooms) closeOld(ctx context.Context, u upgrade) {
	roomID, empty := u.old.head.RoomID, ""
	warn := func(what string, err error) {
		if err != nil && !matrix.HasCode(err, matrix.CodeForbidden) {
			r.Process.Log.Warn("a replaced room keeps "+what, "room", roomID, "error", err)
		}
	}
	warn("its place in the directory", r.SetVisibility(ctx, roomID, "private"))
	if e := u.state[state.Key{Type: event.TypeCanonicalAlias}]; e != nil && strings.Contains(string(e.Content), `"#`) {
		_, err := r.Send(ctx, roomID, Send{Sender: u.user, Type: event.TypeCanonicalAlias, StateKey: &empty, Content: json.RawMessage("{}")})
		warn("its canonical alias", err)
	}
	content := map[string]json.RawMessage{}
	if e := u.state[state.Key{Type: event.TypePowerLevels}]; e != nil {
		if err := json.Unmarshal(e.Content, &content); err != nil {
			warn("its power levels", err)
			return
		}
	}
	restricted := encoded(max(50, u.power.UsersDefault+1))
	if u.power.EventsDefault < max(50, u.power.UsersDefault+1) {
		content["events_default"] = restricted
	}
	if u.power.Invite < max(50, u.power.UsersDefault+1) {
		content["invite"] = restricted
	}
	_, err := r.Send(ctx, roomID, Send{Sender: u.user, Type: event.TypePowerLevels, StateKey: &empty, Content: encoded(content)})
	warn("its power levels", err)
}
