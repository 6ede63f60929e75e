package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"

	"lyceum/matrix"
	"lyceum/platform/caller"
	"lyceum/platform/db"
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

// Authenticate finds whom an access token belongs to. A token that this process knows costs no database
// statement, nor does an invented one. Errors: M_UNKNOWN_TOKEN (soft_logout when it only ran out and can be
// refreshed), M_USER_LOCKED.
func (a *Accounts) Authenticate(ctx context.Context, token string) (*web.Identity, error) {
	s, err := a.authenticate(ctx, token)
	if err != nil {
		return nil, err
	}
	if s.locked {
		return nil, matrix.UserLocked("This account is locked")
	}
	return &s.identity, nil
}

func (a *Accounts) authenticate(ctx context.Context, token string) (*session, error) {
	hash := hashToken(token)
	s, changes := a.sessions.get(hash)
	if s == nil {
		genuine, err := a.keys.hasChecksum(ctx, accessPrefix, token)
		if err != nil {
			return nil, err
		}
		if !genuine {
			return nil, matrix.UnknownToken(false)
		}
		if s, err = loadSession(tokenAsCaller(ctx, hash), a.db, hash); errors.Is(err, db.ErrNoRows) {
			return nil, matrix.UnknownToken(false)
		} else if err != nil {
			return nil, err
		}
		if s.parent != 0 && !s.expired(a.nowMs()) {
			if err := a.confirmTokens(ctx, s.identity.UserID, s.identity.TokenID); err != nil {
				return nil, err
			}
		} else {
			a.sessions.put(hash, s, changes)
		}
	}
	if s.expired(a.nowMs()) {
		return nil, matrix.UnknownToken(s.refreshable)
	}
	return s, nil
}

// confirmTokens ends the pair of tokens that another one replaces, as that is used now.
func (a *Accounts) confirmTokens(ctx context.Context, userID string, pair int64) error {
	_, err := a.change(ctx, userID, sessionChange{Kind: changeConfirm, TokenPair: pair})
	if err == nil {
		a.awaitUnderWay(ctx, userID)
	}
	return err
}

// tokenAsCaller is for the reading of a session: whoever has a token does not wait behind all those who come from the same address, and are
// not known either.
func tokenAsCaller(ctx context.Context, hash tokenHash) context.Context {
	return caller.NewWork(ctx, caller.ID{For: string(hash[:])})
}

func (s *session) expired(now int64) bool { return s.expires != 0 && s.expires <= now }

// The kinds of sessionChange.
const (
	changeRemove     = "remove"     // devices with their tokens
	changeConfirm    = "confirm"    // a refreshed token was used: the pair before it ends
	changeLogin      = "login"      // a log-in with a device id that the client chose: what tokens the device has end
	changeDevice     = "device"     // a device without a token
	changeReplace    = "replace"    // what processes of the version before ask for ahead of a log-in: the device's tokens end
	changePassword   = "password"   // a new password, and the other devices go if All
	changeDeactivate = "deactivate" // the account ends
	changeRights     = "rights"     // admin, locked, suspended
	changeProfile    = "profile"    // a field of the profile
	changeUpgrade    = "upgrade"    // a guest becomes a user with a password
)

// sessionChange is what the owner of the user's shard of "sessions" does in one transaction.
type sessionChange struct {
	Kind      string    `json:"kind"`
	Devices   []string  `json:"devices,omitempty"`
	All       bool      `json:"all,omitempty"`    // all devices
	Except    string    `json:"except,omitempty"` // but this one
	TokenPair int64     `json:"pair,omitempty"`   // id in tokens
	Proof     Proof     `json:"proof,omitempty"`  // change nothing when it does not hold any more
	Password  string    `json:"password,omitempty"`
	Erase     bool      `json:"erase,omitempty"`
	Admin     *bool     `json:"admin,omitempty"`
	Locked    *bool     `json:"locked,omitempty"`
	Suspended *bool     `json:"suspended,omitempty"`
	At        int64     `json:"at,omitempty"` // ms
	Login     *newLogin `json:"login,omitempty"`

	Interaction string `json:"interaction,omitempty"` // the row that holds Token
	Token       string `json:"token,omitempty"`       // the registration token that a guest uses, "" for none

	Field string          `json:"field,omitempty"` // of the profile
	Value json.RawMessage `json:"value,omitempty"` // nothing removes it
}

// sessionResult tells what was removed.
type sessionResult struct {
	Found           bool             `json:"found"`
	Devices         []string         `json:"devices,omitempty"`
	Pos             int64            `json:"pos,omitempty"`      // of the change
	Changed         bool             `json:"changed,omitempty"`  // the profile is another
	TooLong         int              `json:"too_long,omitempty"` // bytes that the profile would have, when that is too much
	PendingCleanups []pendingCleanup `json:"left,omitempty"`     // the device was here before, and what it left must go before it is made again
	Created         bool             `json:"created,omitempty"`  // the device is new
	Ended           bool             `json:"ended,omitempty"`    // the device had tokens
	Stale           bool             `json:"stale,omitempty"`    // the password is another by now
}

// pendingChange is the Value of a row on its way into the database.
type pendingChange struct {
	sessionChange
	result sessionResult
}

// changeHere runs on the owner of the user's shard.
func (a *Accounts) changeHere(ctx context.Context, userID string, c sessionChange) (sessionResult, error) {
	st := a.sessions.stream
	p := &pendingChange{sessionChange: c}
	e := &stream.Entry{Stream: st, Row: stream.Row{Shard: st.Shard(userID), Key: userID, Data: []byte("{}"), Value: p}, Bytes: len(c.Value)}
	err := a.deps.Process.Streams.Append(ctx, e)
	p.result.Pos = e.Pos
	return p.result, err
}

// removeDevices changes sessions and tells the listeners which devices are gone. Errors: M_FORBIDDEN when the proof does not hold.
func (a *Accounts) removeDevices(ctx context.Context, userID string, c sessionChange) (sessionResult, error) {
	c.At = a.nowMs()
	res, err := a.change(ctx, userID, c)
	if err == nil && res.Stale {
		err = ErrWrongPassword
	}
	if err == nil && (c.All || len(c.Devices) > 0) { // also of what is gone already: who removed it may be waiting
		a.awaitUnderWay(ctx, userID)
	}
	if err == nil && len(res.Devices) > 0 {
		a.cleanUpDevicesNow(ctx, userID, res)
	}
	return res, err
}

// RemoveDevices ends devices of a user: their tokens, and through the DeviceListeners all that belongs to
// them. Unknown devices are left out silently. proof is "" where the user's password was not asked for.
func (a *Accounts) RemoveDevices(ctx context.Context, userID string, proof Proof, deviceIDs []string) error {
	if len(deviceIDs) == 0 {
		return nil
	}
	_, err := a.removeDevices(ctx, userID, sessionChange{Kind: changeRemove, Proof: proof, Devices: deviceIDs})
	return err
}

// Logout ends all devices of a user but one ("" for really all).
func (a *Accounts) Logout(ctx context.Context, userID, except string) error {
	_, err := a.removeDevices(ctx, userID, sessionChange{Kind: changeRemove, All: true, Except: except})
	return err
}

// sessionStore keeps the newest change of each user, and does the changes themselves.
type sessionStore struct{}

var changeRows = &db.Table{
	Name: "session_changes", Columns: db.Columns("user_id text, shard integer, pos integer"),
	Conflict: `ON CONFLICT (user_id) DO UPDATE SET shard = excluded.shard, pos = excluded.pos`,
}

// Insert is part of stream.Store.
func (sessionStore) Insert(ctx context.Context, w *db.Batch, batch []*stream.Entry) error {
	tx, err := w.Tx()
	if err != nil {
		return err
	}
	if err := lockUsers(ctx, tx, batch); err != nil {
		return err
	}
	var newest db.Newest[string]
	var left [][]any
	for _, e := range batch {
		e.Data = []byte("{}")
		p := e.Value.(*pendingChange)
		if p.Login != nil { // it looks for what a removal of the device leaves, which may be in this batch
			w.Rows(followUpRows, left)
			left = nil
		}
		if err := applyChange(ctx, tx, e.Key, p); err != nil {
			return err
		}
		newest.Put(e.Key, e.Key, e.Shard, e.Pos)
		if n := p.followUp(); n.Kind != "" {
			row, err := n.row(e)
			if err != nil {
				return err
			}
			left = append(left, row)
			e.Data = []byte(row[4].(string))
		}
	}
	w.Rows(followUpRows, left)
	w.Rows(changeRows, newest.Rows())
	return nil
}

// lockUsers locks the users of several changes in the order of their ids, as RequireActive does: else each may wait for the other.
func lockUsers(ctx context.Context, tx *db.Tx, batch []*stream.Entry) error {
	users := make([]string, 0, len(batch))
	for _, e := range batch {
		users = append(users, e.Key)
	}
	slices.Sort(users)
	if users = slices.Compact(users); len(users) < 2 {
		return nil
	}
	_, err := db.Texts(tx.Query(ctx, `SELECT user_id FROM users WHERE user_id = ANY($1) ORDER BY user_id FOR UPDATE`, users))
	return err
}

// Read is part of stream.Store.
func (sessionStore) Read(ctx context.Context, q db.Querier, r stream.Range) ([]stream.Row, error) {
	return db.List(func(row db.Row) (stream.Row, error) {
		out := stream.Row{Shard: r.Shard, Data: []byte("{}")}
		err := row.Scan(&out.Key, &out.Pos)
		return out, err
	})(q.Query(ctx, `SELECT user_id, pos FROM session_changes WHERE shard = $1 AND pos > $2 AND pos <= $3 ORDER BY pos
		LIMIT $4`, r.Shard, r.After, r.Upto, r.Limit))
}

// applied tells that this very change was stored by a try whose outcome nobody knew: it gave the password, or the time of the end.
func (c *sessionChange) applied(ctx context.Context, tx *db.Tx, userID string) (there bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM users WHERE user_id = $1 AND ($2 <> '' AND password = $2 OR $3
		AND deactivated_ms = $4))`,
		userID, c.Password, c.Kind == changeDeactivate, c.At).
		Scan(&there)
	return there, err
}

// applyChange does one change. It may run again in another transaction, so it sets the result anew.
func applyChange(ctx context.Context, tx *db.Tx, userID string, p *pendingChange) error {
	p.result = sessionResult{}
	if there, err := p.Proof.Holds(ctx, tx, userID); err != nil {
		return err
	} else if !there {
		if done, err := p.applied(ctx, tx, userID); err != nil || !done {
			p.result.Stale = !done
			return err
		}
	}
	switch p.Kind {
	case changeConfirm:
		return confirmTokenPair(ctx, tx, p.TokenPair)
	case changeReplace:
		_, err := tx.Exec(ctx, `DELETE FROM tokens WHERE user_id = $1 AND device_id = ANY($2)`, userID, p.Devices)
		return err
	case changeLogin, changeDevice:
		return applyLogin(ctx, tx, userID, p)
	case changeProfile:
		return setField(ctx, tx, userID, p)
	case changeUpgrade:
		return upgradeGuest(ctx, tx, userID, p)
	case changeRights:
		n, err := setRights(ctx, tx, userID, p.sessionChange)
		p.result.Found = n > 0
		return err
	case changePassword:
		n, err := tx.Exec(ctx, `UPDATE users SET password = $2 WHERE user_id = $1 AND deactivated_ms = 0`, userID, p.Password)
		if err != nil || n == 0 {
			return err
		}
		p.result.Found = true
		// What was confirmed with the old password counts no more. user_id <> '' is what the index says of itself.
		if _, err := tx.Exec(ctx, `DELETE FROM interactive_sessions WHERE user_id = $1 AND user_id <> '' AND NOT used`, userID); err != nil {
			return err
		}
	case changeDeactivate:
		n, err := tx.Exec(ctx, `UPDATE users SET password = '', admin = FALSE, `+cleanupColumn+` = TRUE, erased = (erased OR $3),
			deactivated_ms = $2 WHERE user_id = $1 AND deactivated_ms = 0`, userID, p.At, p.Erase)
		if err != nil {
			return err
		}
		p.result.Found = n > 0
	}
	if !p.All && len(p.Devices) == 0 {
		return nil
	}
	devices, err := DeviceIDs(ctx, tx, userID)
	if err != nil {
		return err
	}
	for _, id := range devices {
		if id != p.Except && (p.All || slices.Contains(p.Devices, id)) {
			p.result.Devices = append(p.result.Devices, id)
		}
	}
	if len(p.result.Devices) == 0 {
		return nil
	}
	if p.Kind != changeDeactivate {
		if err := rememberAddresses(ctx, tx, userID, p.result.Devices, p.At); err != nil {
			return err
		}
	}
	// The devices first: a refresh holds its device, so the tokens it made are seen.
	if _, err := tx.Exec(ctx, `DELETE FROM user_devices WHERE user_id = $1 AND device_id = ANY($2)`, userID, p.result.Devices); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM tokens WHERE user_id = $1 AND device_id = ANY($2)`, userID, p.result.Devices)
	return err
}
