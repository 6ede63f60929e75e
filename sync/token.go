package sync

import (
	"lyceum/matrix"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

// The parts of a token, in this order: all shards of the streams that are keyed by room or by other
// users, then this user's own shard of the streams that are keyed by receiver.
const (
	eventsAt      = 0
	receiptsAt    = eventsAt + rooms.Shards
	typingAt      = receiptsAt + 8
	presenceAt    = typingAt + 8
	deviceListsAt = presenceAt + 8
	toDeviceAt    = deviceListsAt + 8
	accountDataAt = toDeviceAt + 1
	tokenSize     = accountDataAt + 1
)

// vector is a position of every part of a token.
type vector [tokenSize]int64

func (v *vector) encode(epoch uint32) string { return stream.EncodeToken(epoch, v[:]) }

// decodeToken reads a token; fresh is true when it is of another history of the database, so the client
// must begin anew.
func decodeToken(token string, epoch uint32) (v vector, fresh bool, err error) {
	of, positions, err := stream.DecodeToken(token, tokenSize)
	if err != nil {
		return v, false, matrix.InvalidParam("since: expected a next_batch of this server").With(err)
	}
	copy(v[:], positions)
	return v, of != epoch, nil
}

// DeviceListPositions reads the positions of the stream of device lists from a token.
func DeviceListPositions(token string) ([]int64, error) {
	_, positions, err := stream.DecodeToken(token, tokenSize)
	if err != nil {
		return nil, matrix.InvalidParam("Expected a token that /sync of this server gave out").With(err)
	}
	return positions[deviceListsAt:toDeviceAt], nil
}
