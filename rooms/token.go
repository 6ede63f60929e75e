package rooms

import (
	"strconv"

	"lyceum/matrix"
	"lyceum/platform/stream"
)

// TokenSize is the number of positions in a token of /sync: events 16, receipts 8, typing 8, presence 8,
// device lists 8, to-device 1, account data 1, in this order.
const TokenSize = Shards + 8 + 8 + 8 + 8 + 1 + 1

// PositionToken is the token of the place behind a position in the timeline of one room.
func PositionToken(pos int64) string { return "t" + strconv.FormatInt(max(pos, 0), 10) }

// PositionOf reads a token of one room or of /sync: the position of the last event before the place that
// it means. Errors: M_INVALID_PARAM.
func (r *Rooms) PositionOf(token, roomID string) (int64, error) {
	if len(token) > 1 && token[0] == 't' {
		if pos, err := strconv.ParseInt(token[1:], 10, 64); err == nil && pos >= 0 && pos < 1<<62 {
			return pos, nil
		}
	}
	if epoch, positions, err := stream.DecodeToken(token, TokenSize); err == nil && epoch == r.Process.LogEpoch() {
		return positions[r.stream.Shard(roomID)], nil
	}
	return 0, matrix.InvalidParam("This token was not given out by this server")
}
