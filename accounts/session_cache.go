package accounts

import (
	"sync"

	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// sessions remembers whose the tokens are that were lately used in this process.
type sessions struct {
	stream *stream.Stream

	mu              sync.RWMutex
	rowsSeen        uint64            // rows of the stream seen
	lastChange      map[string]uint64 // by user id: the newest of them, as far as it is above forgot
	lastChangeFloor uint64
	tokens          *secondChanceCache[tokenHash, *session]
	byUser          map[string]map[tokenHash]struct{}
	erased          *secondChanceCache[string, bool] // by user id
}

// session is a valid access token.
type session struct {
	identity    web.Identity
	expires     int64 // ms; 0 is never
	refreshable bool  // a refresh token belongs to it, so its end is a soft logout
	locked      bool
	parent      int64 // the pair of tokens that this one replaces at its first use
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

// maxLastChanges is of how many users it is remembered when their sessions changed.
const maxLastChanges = 10_000

// onRows forgets the tokens of users whose sessions changed.
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

func (s *sessions) get(hash tokenHash) (found *session, changes uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	found, _ = s.tokens.get(hash)
	return found, s.rowsSeen
}

// put remembers what was read from the database when the stream stood at changes. If sessions of its user changed since, it may have
// been read before and is not kept.
func (s *sessions) put(hash tokenHash, found *session, changes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if changes < s.lastChangeFloor || changes < s.lastChange[found.identity.UserID] {
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
