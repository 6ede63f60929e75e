package accounts

import (
	"sync"

	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// sessions remembers the access tokens that were recently used in this process, and follows the stream "sessions".
type sessions struct {
	stream *stream.Stream

	mu              sync.RWMutex
	rowsSeen        uint64            // rows of the stream that were received
	lastChange      map[string]uint64 // by user id: rowsSeen after the user's newest row
	lastChangeFloor uint64            // users who are not in the map count as changed at this number of rows
	tokens          *secondChanceCache[tokenHash, *session]
	byUser          map[string]map[tokenHash]struct{}
	erased          *secondChanceCache[string, bool] // by user id: whether the user is erased
}

// session is a valid access token.
type session struct {
	identity    web.Identity
	expires     int64 // ms; 0 is never
	refreshable bool  // it has a refresh token, so that its expiry is a soft logout
	locked      bool
	parent      int64 // id of the token pair that ends at the first use of this one; 0 for none
}

func (s *session) expired(now int64) bool { return s.expires != 0 && s.expires <= now }

func newSessions(size int) *sessions {
	return &sessions{
		tokens:     newSecondChanceCache[tokenHash, *session](size),
		byUser:     map[string]map[tokenHash]struct{}{},
		lastChange: map[string]uint64{},
		erased:     newSecondChanceCache[string, bool](size),
	}
}

// maxLastChanges is for how many users the cache remembers when their sessions changed.
const maxLastChanges = 10_000

// onRows receives rows of the stream and forgets the tokens of the users whose sessions changed.
func (s *sessions) onRows(rows []stream.Row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range rows {
		if s.rowsSeen++; len(s.lastChange) >= maxLastChanges {
			clear(s.lastChange)
			s.lastChangeFloor = s.rowsSeen - 1
		}
		s.lastChange[row.Key] = s.rowsSeen
		for hash := range s.byUser[row.Key] {
			s.tokens.delete(hash)
		}
		delete(s.byUser, row.Key)
		s.erased.delete(row.Key)
	}
}

// get returns the session of a token, nil when it is not remembered, and the number of rows seen, which put needs.
func (s *sessions) get(hash tokenHash) (found *session, rowsSeen uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	found, _ = s.tokens.get(hash)
	return found, s.rowsSeen
}

// put remembers a session that was read from the database after get returned rowsSeen. It is not kept if the sessions of its user
// changed since, because it may be older than the change.
func (s *sessions) put(hash tokenHash, found *session, rowsSeen uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rowsSeen < s.lastChangeFloor || rowsSeen < s.lastChange[found.identity.UserID] {
		return
	}
	if oldHash, old, pushed := s.tokens.put(hash, found); pushed {
		of := s.byUser[old.identity.UserID]
		if delete(of, oldHash); len(of) == 0 {
			delete(s.byUser, old.identity.UserID)
		}
	}
	of := s.byUser[found.identity.UserID]
	if of == nil {
		of = map[tokenHash]struct{}{}
		s.byUser[found.identity.UserID] = of
	}
	of[hash] = struct{}{}
}
