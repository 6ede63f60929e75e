package rooms

import (
	"strconv"

	"lyceum/matrix"
)

// PositionToken is the token of the place behind a position in the timeline of one room.
func PositionToken(pos int64) string { return "t" + strconv.FormatInt(max(pos, 0), 10) }

// PositionOf reads a token of one room or of /sync: the position of the last event before the place that it means. It is
// not known when the token is one of /sync and of another history of the database or of another number of shards; that is no
// error, so the reader begins at an end. Errors: M_INVALID_PARAM.
func (r *Rooms) PositionOf(token, roomID string) (pos int64, known bool, err error) {
	if len(token) > 1 && token[0] == 't' {
		if pos, err := strconv.ParseInt(token[1:], 10, 64); err == nil && pos >= 0 && pos < 1<<62 {
			return pos, true, nil
		}
	}
	positions, err := r.positionsOf(token)
	if err != nil || positions == nil {
		return 0, false, err
	}
	return positions[r.stream.Shard(roomID)], true, nil
}

// positionsOf reads the positions of the events stream from a token of /sync; nil when they are not known.
func (r *Rooms) positionsOf(token string) ([]int64, error) {
	positions := make([]int64, Shards)
	t, err := r.layout.Decode(token, positions)
	if err != nil {
		return nil, matrix.InvalidParam("This token was not given out by this server").With(err)
	}
	if t.Log != r.Process.LogEpoch() || !t.Has(r.stream.Number()) {
		return nil, nil
	}
	return positions, nil
}
