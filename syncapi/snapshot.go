package syncapi

import (
	"slices"
	"strings"
)

// snapshot is what this process knew for a user at one time.
type snapshot struct {
	positions  vector
	sequence   uint64          // Sync.sequence
	candidates []candidateRoom // the rooms that may have news, by room id
}

// candidateRoom is a room that may have news, with the user's membership.
type candidateRoom struct {
	room string
	*roomMembership
}

// takeSnapshot copies positions and memberships under one lock, so that no membership is newer than the positions. With known, only
// rooms with news after the sequence number since are candidates.
func (s *Sync) takeSnapshot(u *user, into *snapshot, since uint64, known bool) {
	s.mu.RLock()
	s.positionsFor(u, &into.positions)
	into.sequence, into.candidates = s.sequence, into.candidates[:0]
	if known && since >= u.updatesSince {
		for i := len(u.updates) - 1; i >= 0 && u.updates[i].sequence > since; i-- {
			room := u.updates[i].room
			if m := u.rooms[room]; m != nil {
				into.candidates = append(into.candidates, candidateRoom{room, m})
			}
		}
	} else {
		into.candidates = slices.Grow(into.candidates, len(u.rooms))
		for id, m := range u.rooms {
			into.candidates = append(into.candidates, candidateRoom{id, m})
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(into.candidates, func(a, b candidateRoom) int { return strings.Compare(a.room, b.room) })
	into.candidates = slices.CompactFunc(into.candidates, func(a, b candidateRoom) bool { return a.room == b.room })
}

// positionsFor returns the positions of the rows that have been received, as a vector of the user; the caller holds mu.
func (s *Sync) positionsFor(u *user, v *vector) {
	copy(v[eventsAt:], s.received.events)
	copy(v[receiptsAt:], s.received.receipts)
	copy(v[typingAt:], s.received.typing)
	copy(v[presenceAt:], s.received.presence)
	copy(v[deviceListsAt:], s.received.deviceLists)
	v[toDeviceAt] = s.received.toDevice[s.Devices.ToDeviceStream().Shard(u.id)]
	v[accountDataAt] = s.received.accountData[s.Accounts.DataStream().Shard(u.id)]
}
