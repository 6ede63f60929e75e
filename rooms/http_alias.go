package rooms

import (
	"lyceum/matrix"
	"lyceum/platform/web"
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
	if _, err := r.findJoinedView(req.Context(), req.UserID(), b.RoomID); err != nil {
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
	return nil, r.removeAlias(req.Context(), remover{req.UserID(), req.Identity.Admin}, a)
}

func (r *Rooms) getRoomAliases(req *web.Request) (any, error) {
	v, err := r.findRoomView(req.Context(), req.UserID(), req.Path("roomID"))
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
