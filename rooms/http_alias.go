package rooms

import (
	"context"
	"encoding/json"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/web"
	"lyceum/rooms/state"
)

func (r *Rooms) getAlias(req *web.Request) (any, error) {
	id, err := r.resolveRoom(req.Context(), "#"+trimHash(req.Path("alias")))
	if err != nil {
		return nil, err
	}
	return map[string]any{"room_id": id, "servers": []string{r.ServerName}}, nil
}

// trimHash takes the sigil off, so that what is no alias stays none.
func trimHash(alias string) string {
	if alias != "" && alias[0] == '#' {
		return alias[1:]
	}
	return ""
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

func (r *Rooms) putAliasHTTP(req *web.Request, b *struct {
	RoomID string `json:"room_id"`
},
) (any, error) {
	name := req.Path("alias")
	if err := r.localAlias(name); err != nil {
		return nil, err
	}
	if b.RoomID == "" {
		return nil, matrix.MissingParam("room_id is missing")
	}
	if err := req.MayAct(); err != nil {
		return nil, err
	}
	if _, err := r.joinedView(req.Context(), req.UserID(), b.RoomID); err != nil {
		return nil, err
	}
	err := r.putAlias(req.Context(), alias{name: name, roomID: b.RoomID, creator: req.UserID()}, req.Once())
	if matrix.HasCode(err, matrix.CodeRoomInUse) {
		return nil, matrix.NewError(409, matrix.CodeUnknown, "The alias "+name+" exists already")
	}
	return nil, err
}

func (r *Rooms) deleteAliasHTTP(req *web.Request) (any, error) {
	name := req.Path("alias")
	if err := r.localAlias(name); err != nil {
		return nil, err
	}
	a, found, err := r.findAlias(req.Context(), name)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, noAlias()
	}
	if err := req.MayAct(); err != nil {
		return nil, err
	}
	return nil, r.removeAlias(req.Context(), req.Identity, a)
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
	if string(content["alias"]) == string(quoted(alias)) {
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
			content["alt_aliases"] = encoded(append([]string{}, left...))
			changed = true
		}
	}
	if !changed {
		return nil
	}
	empty := ""
	_, err = r.Send(ctx, roomID, Send{Sender: userID, Type: event.TypeCanonicalAlias, StateKey: &empty, Content: encoded(content)})
	return err
}

func (r *Rooms) getRoomAliases(req *web.Request) (any, error) {
	v, err := r.roomView(req.Context(), req.UserID(), req.Path("roomID"))
	if err != nil {
		return nil, err
	}
	if !v.joined() {
		at, err := r.visibilityStateAt(req.Context(), v.head.Root, "")
		if err != nil {
			return nil, err
		}
		if at.history != worldReadable {
			return nil, notMember()
		}
	}
	list, err := r.Aliases(req.Context(), v.head.RoomID)
	return map[string][]string{"aliases": list}, err
}

// Aliases lists the local aliases of a room; never nil.
func (r *Rooms) Aliases(ctx context.Context, roomID string) ([]string, error) {
	list, err := db.Texts(r.Process.DB.Query(ctx, "SELECT alias FROM aliases WHERE room_id = $1 ORDER BY created_ms, alias", roomID))
	return append([]string{}, list...), err
}
