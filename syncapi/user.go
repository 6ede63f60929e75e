package syncapi

import (
	"sync"
	"sync/atomic"
)

// user is a user whom this process serves, or whose rooms it needed for another user.
type user struct {
	id         string
	ready      chan struct{} // closed when the rooms are loaded or err is set
	err        error
	usedAt     atomic.Int64  // when a request last needed the user, in ms since 1970
	requests   atomic.Int32  // requests under way
	signals    atomic.Uint64 // how often the user was signalled
	smallSlots chan struct{} // slots for small answers (slots.go)
	largeSlots queueUser     // the user's share of the slots for large answers
	served     atomic.Bool   // a client of the user asked this process for news, so updates are kept

	// Guarded by Sync.mu.
	rooms        map[string]*roomMembership // by room id
	loaded       bool
	updates      []roomUpdate // the newest last
	updatesSince uint64       // updates has all updates of later sequence numbers

	mu         sync.Mutex
	waiting    *waiter        // the first of the waiters that are called at the next signal
	issued     [4]issuedToken // the newest tokens that the user's clients got
	nextIssued int            // index of the one that is replaced next
}

// roomMembership is a user's membership of a room. It is never changed, only replaced.
type roomMembership struct {
	membership string // join, invite, knock, leave or ban
	eventID    string // of the membership event
	sender     string // of the membership event
	pos        int64  // position of the membership event
	// joined is the position at which the user joined, when this process saw the join. When it is negative, the user joined at or
	// before the position -joined. 0 means that nothing is known.
	joined    int64
	forgotten bool
}

// memberSince returns a position from which on the user is known to be a member, when the membership is join.
func (m *roomMembership) memberSince() int64 {
	if m.joined == 0 {
		return m.pos
	}
	return max(m.joined, -m.joined)
}

// roomUpdate says that a room has news for a user.
type roomUpdate struct {
	sequence uint64 // Sync.sequence when they came
	room     string
}

// issuedToken says how much this process had seen when it gave out a token.
type issuedToken struct {
	hash     vectorHash
	sequence uint64 // Sync.sequence at that time; 0 when the field of user.issued is not used yet
}

// updatesKept is how many room updates are kept for a user at least.
const updatesKept = 256

// addUpdate notes that a room has news and signals the user; the caller holds Sync.mu.
func (u *user) addUpdate(roomID string, sequence uint64) {
	if !u.served.Load() {
		return
	}
	if n := len(u.updates); n > 0 && u.updates[n-1].room == roomID {
		u.updates[n-1].sequence = sequence
	} else {
		if n >= 2*updatesKept {
			u.updatesSince = u.updates[n-updatesKept-1].sequence
			u.updates = append(u.updates[:0], u.updates[n-updatesKept:]...)
		}
		u.updates = append(u.updates, roomUpdate{sequence, roomID})
	}
	u.signal()
}

// tokenIssued notes a token that a client of the user gets.
func (u *user) tokenIssued(at *vector, sequence uint64) {
	token := issuedToken{at.hash(), sequence}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.issued[u.nextIssued] = token
	u.nextIssued = (u.nextIssued + 1) % len(u.issued)
}

// sequenceAt returns how much this process had seen when it gave out a token; not ok when it is not one of the last tokens.
func (u *user) sequenceAt(at *vector) (sequence uint64, ok bool) {
	hash := at.hash()
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range u.issued {
		if u.issued[i].sequence > 0 && u.issued[i].hash == hash {
			return u.issued[i].sequence, true
		}
	}
	return 0, false
}
