package rooms

import (
	"strings"

	"lyceum/matrix"
	"lyceum/platform/web"
)

func (r *Rooms) getRoomSummary(req *web.Request) (any, error) {
	id := req.Path("roomIDOrAlias")
	missing := matrix.NotFound("There is no such room, or you may not know of it")
	if strings.HasPrefix(id, "#") {
		var err error
		if id, err = r.resolveRoom(req.Context(), id); err != nil {
			return nil, err
		}
	}
	s, membership, ok, err := r.SummaryFor(req.Context(), req.UserID(), id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, missing
	}
	return struct {
		Summary
		Membership string `json:"membership,omitempty"`
	}{s, membership}, nil
}
