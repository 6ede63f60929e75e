package rooms

import (
	"lyceum/matrix"
	"lyceum/platform/web"
)

func (r *Rooms) postUpgrade(req *web.Request, b *struct {
	Version  string   `json:"new_version"`
	Creators []string `json:"additional_creators"`
},
) (any, error) {
	if err := req.MayAct(); err != nil {
		return nil, err
	}
	if b.Version == "" {
		return nil, matrix.MissingParam("new_version is missing")
	}
	id, err := r.Upgrade(req.Context(), req.UserID(), req.Path("roomID"), b.Version, b.Creators)
	return map[string]string{"replacement_room": id}, err
}
