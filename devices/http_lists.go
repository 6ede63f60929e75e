package devices

import (
	"lyceum/matrix"
	"lyceum/platform/web"
)

func (x *Devices) getChanges(r *web.Request) (any, error) {
	from, to := r.QueryParam("from"), r.QueryParam("to")
	if from == "" || to == "" {
		return nil, matrix.MissingParam("from and to are needed: tokens that /sync gave")
	}
	after, err := x.positionsOf(from, 0) // all that ever was
	if err != nil {
		return nil, err
	}
	upto, err := x.positionsOf(to, 1<<62) // now
	if err != nil {
		return nil, err
	}
	changed, err := x.ChangedUsers(r.Context(), r.UserID(), after, upto)
	if err != nil {
		return nil, err
	}
	changed, left, err := x.deps.SharedRooms.SharedRoomChanges(r.Context(), r.UserID(), from, to, changed)
	if err != nil {
		return nil, err
	}
	return map[string]any{"changed": changed, "left": left}, nil
}

// positionsOf returns the positions of the stream "device_lists" in a token of /sync. All positions are otherwise if the token has
// none, because it is from another history of the database or another number of shards. Errors: M_INVALID_PARAM for what is not a
// token.
func (x *Devices) positionsOf(token string, otherwise int64) ([]int64, error) {
	positions := make([]int64, x.lists.Shards())
	t, err := x.layout.Decode(token, positions)
	if err != nil {
		return nil, matrix.InvalidParam("Expected a token that /sync of this server gave out").With(err)
	}
	if t.Log != x.deps.Process.LogEpoch() || !t.Has(x.lists.Number()) {
		for i := range positions {
			positions[i] = otherwise
		}
	}
	return positions, nil
}
