package rooms

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"lyceum/rooms/state"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/obs"
)

// alias is a row of the table aliases.
type alias struct {
	name, roomID, creator string
	createdMS             int64
}

// findAlias reads an alias of this server; not found when there is none.
func (r *Rooms) findAlias(ctx context.Context, name string) (a alias, found bool, err error) {
	a.name = name
	err = r.Process.DB.QueryRow(ctx, "SELECT room_id, creator, created_ms FROM aliases WHERE alias = $1", name).
		Scan(&a.roomID, &a.creator, &a.createdMS)
	if errors.Is(err, sql.ErrNoRows) {
		return alias{}, false, nil
	}
	return a, err == nil, err
}

// Resolve finds the room of an alias of this server; "" when there is none.
func (r *Rooms) Resolve(ctx context.Context, name string) (roomID, creator string, err error) {
	a, _, err := r.findAlias(ctx, name)
	return a.roomID, a.creator, err
}

// putAlias gives a room an alias; M_ROOM_IN_USE when the alias is taken, also by the same room. Whether the creator is a member is
// asked by the statement: a request may have stood still since it looked. request identifies the request: one that is
// done again finds its alias.
func (r *Rooms) putAlias(ctx context.Context, a alias, request string) error {
	n, err := r.Process.DB.Exec(ctx, `INSERT INTO aliases (alias, room_id, creator, created_ms, request)
		SELECT $1, m.room_id, m.user_id, $4, $5 FROM memberships m WHERE m.user_id = $3 AND m.room_id = $2 AND m.membership = 'join'`,
		a.name, a.roomID, a.creator, obs.Now().UnixMilli(), request)
	switch {
	case db.IsUnique(err):
		var same bool
		err = r.Process.DB.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM aliases WHERE alias = $1 AND room_id = $2 AND request = $3)",
			a.name, a.roomID, request).Scan(&same)
		if err == nil && !same {
			err = aliasTaken(a.name)
		}
		return err
	case err == nil && n == 0:
		return notMember()
	}
	return err
}

func aliasTaken(alias string) error { return matrix.RoomInUse("The alias " + alias + " is taken") }

// removalRight is what the right to remove an alias rests upon.
type removalRight struct {
	member string // who may as a member with power; "" for who made the alias and for administrators
	at     int64  // position of the room at which the power was looked at
}

// remover is who wants to remove an alias.
type remover struct {
	userID string
	admin  bool
}

// mayRemove tells by what right a user may remove an alias, or refuses it.
func (r *Rooms) mayRemove(ctx context.Context, by remover, a alias) (removalRight, error) {
	if a.creator == by.userID || by.admin {
		return removalRight{}, nil
	}
	v, err := r.findJoinedView(ctx, by.userID, a.roomID)
	if err != nil {
		return removalRight{}, err
	}
	power, err := r.PowerAt(ctx, v.head.Version, v.root)
	if err != nil {
		return removalRight{}, err
	}
	if !power.CanSend(by.userID, event.TypeCanonicalAlias, true) {
		return removalRight{}, matrix.Forbidden("You may remove aliases that you made, or those of rooms whose canonical alias you may set")
	}
	return removalRight{by.userID, v.head.Pos}, nil
}

// removeAlias removes an alias that was found before; M_NOT_FOUND when it is gone by now, also when somebody else has it.
func (r *Rooms) removeAlias(ctx context.Context, by remover, a alias) error {
	for {
		right, err := r.mayRemove(ctx, by, a)
		if err != nil {
			return err
		}
		// The state first: a request that is cut between the two leaves an alias that can be removed again, not the name of none.
		if err := r.dropCanonical(ctx, by.userID, a.roomID, a.name); err != nil && !matrix.HasCode(err, matrix.CodeForbidden) {
			return err
		}
		if done, err := r.deleteAlias(ctx, a, right); err != nil || done {
			return err
		}
		now, found, err := r.findAlias(ctx, a.name)
		if err != nil {
			return err
		}
		if !found || now.creator != a.creator || now.createdMS != a.createdMS {
			return noAlias()
		}
		a = now // an upgrade moved it, or powers changed: it is looked at again
	}
}

func noAlias() error { return matrix.NotFound("There is no such alias") }

const deleteFound = "DELETE FROM aliases WHERE alias = $1 AND room_id = $2 AND creator = $3 AND created_ms = $4"

// deleteAlias deletes an alias, while it is the one that was found and the right to it holds: a request may have stood still since.
func (r *Rooms) deleteAlias(ctx context.Context, a alias, right removalRight) (done bool, err error) {
	var n int64
	if right.member == "" {
		n, err = r.Process.DB.Exec(ctx, deleteFound, a.name, a.roomID, a.creator, a.createdMS)
	} else {
		n, err = r.Process.DB.Exec(ctx, deleteFound+`
			AND EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = $5 AND m.room_id = $2 AND m.membership = 'join')
			AND NOT EXISTS (SELECT 1 FROM events e
				WHERE e.room_id = $2 AND e.pos > $6 AND e.type = 'm.room.power_levels' AND e.state_key IS NOT NULL)`,
			a.name, a.roomID, a.creator, a.createdMS, right.member, right.at)
	}
	return n > 0, err
}

// checkCanonicalAlias refuses aliases that the present event does not name and that do not point at the
// room (Client-Server API, PUT /rooms/{roomId}/state: M_BAD_ALIAS).
func (r *Rooms) checkCanonicalAlias(ctx context.Context, roomID string, content json.RawMessage) error {
	named, err := aliasesIn(content)
	if err != nil || len(named) == 0 {
		return err
	}
	h, ok, err := r.Head(ctx, roomID)
	if err != nil || !ok {
		return err // Send says that there is no such room
	}
	k := state.Key{Type: event.TypeCanonicalAlias}
	found, err := r.StateEvents(ctx, h.Root, k)
	if err != nil {
		return err
	}
	var before []string
	if e := found[k]; e != nil {
		before, _ = aliasesIn(e.Content) // what is there may be of any shape
	}
	return r.checkAliases(ctx, roomID, named, before)
}

// checkAliases refuses aliases that are not among those allowed and do not point at the room.
func (r *Rooms) checkAliases(ctx context.Context, roomID string, named, allowed []string) error {
	for _, alias := range named {
		if slices.Contains(allowed, alias) {
			continue
		}
		if !matrix.ValidAlias(alias) {
			return matrix.InvalidParam("Expected a room alias such as #room:example.org")
		}
		id, _, err := r.Resolve(ctx, alias)
		if err != nil {
			return err
		}
		if id != roomID {
			return matrix.BadAlias("The alias " + alias + " does not point at this room")
		}
	}
	return nil
}

func aliasesIn(content json.RawMessage) ([]string, error) {
	var c struct {
		Alias *string  `json:"alias"`
		Alts  []string `json:"alt_aliases"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, matrix.BadJSON("m.room.canonical_alias: expected the string alias and the list of strings alt_aliases").With(err)
	}
	if c.Alias != nil && *c.Alias != "" {
		return append(c.Alts, *c.Alias), nil
	}
	return c.Alts, nil
}

// localAlias checks an alias that is to be made or removed here.
func (r *Rooms) localAlias(alias string) error {
	switch {
	case !matrix.ValidAlias(alias), matrix.LocalpartOf(alias) == "":
		return matrix.InvalidParam("Expected a room alias such as #room:example.org")
	case matrix.ServerOf(alias) != r.ServerName:
		return matrix.InvalidParam("The alias belongs to another server than " + r.ServerName)
	}
	return nil
}

// dropCanonical takes an alias out of m.room.canonical_alias; M_FORBIDDEN when the user may not.
func (r *Rooms) dropCanonical(ctx context.Context, userID, roomID, alias string) error {
	h, ok, err := r.Head(ctx, roomID)
	if err != nil || !ok {
		return err
	}
	k := state.Key{Type: event.TypeCanonicalAlias}
	there, err := r.StateEvents(ctx, h.Root, k)
	if err != nil || there[k] == nil {
		return err
	}
	var content map[string]json.RawMessage
	if err := json.Unmarshal(there[k].Content, &content); err != nil {
		return err
	}
	changed := false
	if string(content["alias"]) == string(quoteJSON(alias)) {
		delete(content, "alias")
		changed = true
	}
	var alts, left []string
	if json.Unmarshal(content["alt_aliases"], &alts) == nil {
		for _, a := range alts {
			if a != alias {
				left = append(left, a)
			}
		}
		if len(left) < len(alts) {
			content["alt_aliases"] = encodeJSON(append([]string{}, left...))
			changed = true
		}
	}
	if !changed {
		return nil
	}
	empty := ""
	_, err = r.Send(ctx, roomID, Send{Sender: userID, Type: event.TypeCanonicalAlias, StateKey: &empty, Content: encodeJSON(content)})
	return err
}

// Aliases lists the local aliases of a room; never nil.
func (r *Rooms) Aliases(ctx context.Context, roomID string) ([]string, error) {
	list, err := db.Texts(r.Process.DB.Query(ctx, "SELECT alias FROM aliases WHERE room_id = $1 ORDER BY created_ms, alias", roomID))
	return append([]string{}, list...), err
}

// resolveRoom gives the room of an id or alias; M_NOT_FOUND when there is none.
func (r *Rooms) resolveRoom(ctx context.Context, idOrAlias string) (string, error) {
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
