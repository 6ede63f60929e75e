package syncapi

import (
	"hash/maphash"

	"lyceum/devices"
	"lyceum/matrix"
	"lyceum/platform/stream"
	"lyceum/presence"
	"lyceum/receipts"
	"lyceum/rooms"
	"lyceum/typing"
)

// The indexes of a vector at which the streams begin: streams that are keyed by room or by other users have all their shards in it,
// streams that are keyed by their receiver only the shard of the user. Tokens do not depend on these indexes, as they number the streams.
const (
	eventsAt      = 0
	receiptsAt    = eventsAt + rooms.Shards
	typingAt      = receiptsAt + receipts.Shards
	presenceAt    = typingAt + typing.Shards
	deviceListsAt = presenceAt + presence.Shards
	toDeviceAt    = deviceListsAt + devices.ListShards
	accountDataAt = toDeviceAt + 1
	tokenSize     = accountDataAt + 1
)

// vector is a position of every part of a token.
type vector [tokenSize]int64

// vectorHash stands for a vector where many are kept only to be compared. Two vectors have the same hash with a probability of 2^-64, and
// clients can not make such vectors, as they do not know the seed.
type vectorHash uint64

var vectorSeed = maphash.MakeSeed()

func (v *vector) hash() vectorHash { return vectorHash(maphash.Comparable(vectorSeed, *v)) }

// parts returns the streams of a vector.
func (d *Deps) parts() []stream.Part {
	return []stream.Part{
		d.Rooms.Stream().Part(eventsAt), d.Receipts.Stream().Part(receiptsAt), d.Typing.Stream().Part(typingAt),
		d.Presence.Stream().Part(presenceAt), d.Devices.DeviceListStream().Part(deviceListsAt),
		d.Devices.ToDeviceStream().OwnPart(toDeviceAt), d.Accounts.DataStream().OwnPart(accountDataAt),
	}
}

// origin is the position from which a client goes on.
type origin struct {
	since   vector
	initial bool   // the client has nothing
	carried string // the part of the token for streams that this process does not know

	// A token may lack the position of the client in some streams.
	fromNow         []stream.Part // streams that the token does not name: the client gets what comes from now on
	fromStart       bool          // there are streams that the token names with other shards: the client gets them from position 0
	eventsFromStart bool          // the events are one of these, so each room is answered as with a limited timeline
}

// decodeToken reads a token. A token of another history of the database, or of a later format, is not an error: the answer is initial.
func (s *Sync) decodeToken(token string) (at origin, err error) {
	t, err := s.layout.Decode(token, at.since[:])
	if err != nil {
		return at, matrix.InvalidParam("since: expected a next_batch of this server").With(err)
	}
	if t.NewerFormat || t.Log != s.Process.LogEpoch() {
		return origin{initial: true}, nil
	}
	at.carried = t.Carried
	for _, p := range s.parts {
		switch {
		case t.Has(p.Number):
		case t.Stale(p.Number), p.At == toDeviceAt: // to-device messages wait until the client has them, so none are skipped
			at.fromStart = true
			at.eventsFromStart = at.eventsFromStart || p.At == eventsAt
		default:
			at.fromNow = append(at.fromNow, p)
		}
	}
	return at, nil
}

// fillFromNow sets the positions of the streams in fromNow to the newest ones. It reports whether the answer must not wait for news:
// as long as the client has no token that names all streams, it would lose what came meanwhile if the answer got lost.
func (at *origin) fillFromNow(newest *vector) (atOnce bool) {
	for _, p := range at.fromNow {
		copy(at.since[p.At:p.At+p.N], newest[p.At:])
	}
	return len(at.fromNow) > 0 || at.fromStart
}
