package rooms

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"lyceum/matrix/auth"
	"lyceum/platform/db"
	"lyceum/platform/owned"
	"lyceum/platform/role"
	"lyceum/platform/stream"
	"lyceum/rooms/state"

	"lyceum/matrix"
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

// invitedUsers are the users whom a new room invites, in whichever way the request says so.
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

// countThirdParties counts those whom a new room invites and who have no user id.
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
	first := firstEvents{creator: creator, create: create, preset: p, request: b, alias: req.Alias}
	if req.Events, err = r.buildFirstEvents(ctx, first); err != nil {
		return "", err
	}
	if err = r.createAtOwner(ctx, roomID, req); err != nil {
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

// nonceKey is a key of the content of m.room.create that no other one has the value of.
const nonceKey = "org.lyceum.nonce"

func (r *Rooms) buildCreate(v event.Version, creator, roomID string, p preset, b *Create) (*event.Event, error) {
	content := map[string]json.RawMessage{}
	for k, raw := range b.CreationContent {
		if k != "creator" && k != "room_version" {
			content[k] = raw
		}
	}
	content["room_version"] = quoteJSON(v.ID)
	if v.RoomIDIsCreateHash { // else two rooms that one user makes within a millisecond are one
		content[nonceKey] = quoteJSON(rand.Text())
	}
	if v.CreatorInContent {
		content["creator"] = quoteJSON(creator)
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
		content["additional_creators"] = encodeJSON(more)
	}
	empty := ""
	return event.Build(v, event.Proto{
		ID: r.newEventID(v), RoomID: roomID, Type: event.TypeCreate, Sender: creator, StateKey: &empty, Content: encodeJSON(content),
		OriginServerTS: obs.Now().UnixMilli(), Depth: 1,
	}, r.Key)
}

// newEventID gives the id that an event of the room versions 1 and 2 carries; later versions compute it.
func (r *Rooms) newEventID(v event.Version) string {
	if v.IDFormat != event.IDField {
		return ""
	}
	return "$" + r.Process.NewID() + ":" + r.ServerName
}

// createCall is the name of appendFirstEvents between processes.
const createCall = "rooms.create"

// createAtOwner asks the owner of a new room to store its first events.
func (r *Rooms) createAtOwner(ctx context.Context, roomID string, req createRequest) error {
	if r.beforeOwnerCall != nil {
		r.beforeOwnerCall()
	}
	call := role.OwnerCall{Stream: r.stream, Name: createCall, Key: roomID}
	_, err := role.CallOwner(ctx, r.Process, call, req, r.appendFirstEvents)
	return err
}

// createRequest asks the owner of a room that does not exist yet for its first events.
type createRequest struct {
	Version    string `json:"version"`
	Visibility string `json:"visibility"`
	Alias      string `json:"alias,omitempty"`
	Create     []byte `json:"create"` // the m.room.create event, whose hash is the room's id since version 12
	CreateID   string `json:"create_id"`
	Events     []Send `json:"events"`
	// Upgrade is what is to be done when the room is there, stored with it; nil for nothing.
	Upgrade *pendingUpgrade `json:"upgrade,omitempty"`
}

// appendFirstEvents runs on the owner of the new room: it stores all its first events in one transaction.
func (r *Rooms) appendFirstEvents(ctx context.Context, roomID string, req createRequest) (struct{}, error) {
	v, ok := event.VersionByID(req.Version)
	if !ok {
		return struct{}{}, matrix.UnsupportedRoomVersion("Unknown room version " + req.Version)
	}
	create, err := event.ParseTrusted(v, req.Create, req.CreateID)
	if err != nil {
		return struct{}{}, err
	}
	var list []newEvent
	err = r.owned.Do(ctx, roomID, func(c *owned.Change[room]) (err error) {
		if !c.State().absent {
			return nil // a retry finds the room
		}
		rm := r.newRoom(roomID)
		rm.init(v, r.Tree(state.ID{}))
		rm.stateComplete = true
		if list, err = r.buildFirst(rm, create, req); err != nil {
			return err
		}
		entries := make([]*stream.Entry, len(list))
		for i, n := range list {
			entries[i] = r.entry(n)
		}
		c.Append(func(room *room, t *stream.Ticket) {
			rm.stateComplete = false // what is not there is looked up as in other rooms
			for _, n := range list {
				n.event.ticket = t
			}
			*room = *rm
		}, entries...)
		return nil
	})
	if err == nil {
		for _, n := range list {
			n.event.nodes.Store(nil)
		}
	}
	if db.IsUniqueOn(err, "aliases_pkey") {
		err = aliasTaken(req.Alias)
	}
	return struct{}{}, err
}

// buildFirst makes the first events of a room. The tree of each stays readable: nodes that a later event replaced are
// stored too.
func (r *Rooms) buildFirst(rm *room, create *event.Event, req createRequest) ([]newEvent, error) {
	tree, nodes, err := rm.tree.Set(context.Background(), state.Entry{Key: state.Key{Type: event.TypeCreate}, EventID: create.ID})
	if err != nil {
		return nil, err
	}
	first := newEvent{event: &Event{Event: create, Root: tree.Root(), Txn: serverTxnPrefix + create.ID, created: &createRow{
		version: req.Version, creator: create.Sender, visibility: req.Visibility, alias: req.Alias,
		ms: create.OriginServerTS, upgrade: req.Upgrade,
	}}, tree: tree}
	first.event.nodes.Store(&nodes)
	if err := auth.Allowed(rm.version, create, rm); err != nil {
		return nil, matrix.NewError(400, matrix.CodeInvalidRoomState, "The room can not be created: "+denied(err)).With(err)
	}
	rm.apply(first.event, tree, nil)
	list := []newEvent{first}
	scratch := owned.Unowned(rm)
	for _, s := range req.Events {
		if err := checkRequest(s); err != nil {
			return nil, err
		}
		n, err := r.buildEvent(scratch, s, &knownEvents{})
		if matrix.HasCode(err, matrix.CodeForbidden) {
			return nil, matrix.NewError(400, matrix.CodeInvalidRoomState, matrix.AsError(err).Message).With(err)
		}
		if err != nil {
			return nil, err
		}
		rm.apply(n.event, n.tree, nil)
		list = append(list, n)
	}
	return list, nil
}
