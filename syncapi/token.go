package syncapi

import (
	"hash/maphash"

	"lyceum/matrix"
	"lyceum/platform/stream"
	"lyceum/presence"
	"lyceum/receipts"
	"lyceum/rooms"
	"lyceum/typing"
)

// The parts of a vector: all shards of the streams that are keyed by room or by other users, then this user's own shard of the
// streams that are keyed by receiver. What stands where is no secret of tokens: these name the streams.
const (
	eventsAt      = 0
	receiptsAt    = eventsAt + rooms.Shards
	typingAt      = receiptsAt + receipts.Shards
	presenceAt    = typingAt + typing.Shards
	deviceListsAt = presenceAt + presence.Shards
	toDeviceAt    = deviceListsAt + 8
	accountDataAt = toDeviceAt + 1
	tokenSize     = accountDataAt + 1
)

// vector is a position of every part of a token.
type vector [tokenSize]int64

// print stands for a vector where many are remembered only to be found equal: they are but for one in 2^64, and nobody
// outside can make two of the same.
type vectorHash uint64

var vectorSeed = maphash.MakeSeed()

func (v *vector) hash() vectorHash { return vectorHash(maphash.Comparable(vectorSeed, *v)) }

// parts are the streams of a vector.
func (d *Deps) parts() []stream.Part {
	return []stream.Part{
		d.Rooms.Stream().Part(eventsAt), d.Receipts.Stream().Part(receiptsAt), d.Typing.Stream().Part(typingAt),
		d.Presence.Stream().Part(presenceAt), d.Devices.DeviceListStream().Part(deviceListsAt),
		d.Devices.ToDeviceStream().OwnPart(toDeviceAt), d.Accounts.DataStream().OwnPart(accountDataAt),
	}
}

// origin is where a client goes on.
type origin struct {
	since   vector
	initial bool   // from nothing
	carried string // of the token, for streams that this process does not know
	// The token does not say where the client is in some streams:
	fromNow         []stream.Part // it does not know these, so the client gets what comes from now on
	fromStart       bool          // or knew them with other shards: they are given whole, from position 0
	eventsFromStart bool          // the events are among those, so each room is given as after a limited timeline
}

// from reads a token. One of another history of the database, or of a later format, is no error: the client begins anew.
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
		case t.Stale(p.Number), p.At == toDeviceAt: // of to-device messages, what waits was not given yet
			at.fromStart = true
			at.eventsFromStart = at.eventsFromStart || p.At == eventsAt
		default:
			at.fromNow = append(at.fromNow, p)
		}
	}
	return at, nil
}

// settle gives the streams that the token does not know their heads. It tells whether the answer should not wait for news:
// until the client has a token that knows all streams, a broken answer would cost it what came meanwhile.
func (at *origin) fillFromNow(head *vector) (atOnce bool) {
	for _, p := range at.fromNow {
		copy(at.since[p.At:p.At+p.N], head[p.At:])
	}
	return len(at.fromNow) > 0 || at.fromStart
}
