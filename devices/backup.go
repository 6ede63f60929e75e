package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/db"
)

// backupVersion is a key backup of a user (Client-Server API, "Server-side key backups").
type backupVersion struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int64           `json:"count"`
	ETag      string          `json:"etag"`
	Version   string          `json:"version"`

	userID       string
	number, etag int64
}

// backupState is the answer to a change of the keys of a backup.
type backupState struct {
	ETag  string `json:"etag"`
	Count int64  `json:"count"`
}

// backupKey is one session of a backup (KeyBackupData), as stored or as a client sends it.
type backupKey struct {
	FirstIndex  *int64          `json:"first_message_index"`
	Forwarded   *int64          `json:"forwarded_count"`
	Verified    *bool           `json:"is_verified"`
	SessionData json.RawMessage `json:"session_data"`

	roomID, sessionID string
}

// sessionKey identifies a session.
type sessionKey struct{ roomID, sessionID string }

// backupSessions are the sessions of a room by id.
type backupSessions struct {
	Sessions map[string]*backupKey `json:"sessions"`
}

// maxSessionData bounds one session, which normally has about 1 KiB, and so a page of them. In bytes.
const maxSessionData = 16 << 10

// check validates a session. Errors: M_BAD_JSON, M_INVALID_PARAM, M_TOO_LARGE.
func (k *backupKey) check() error {
	if !validName(k.roomID) || !validName(k.sessionID) {
		return matrix.InvalidParam("Room and session ids have 1 to 255 bytes, without NUL")
	}
	if k.FirstIndex == nil || k.Forwarded == nil || k.Verified == nil || *k.FirstIndex < 0 || *k.Forwarded < 0 {
		return matrix.BadJSON("A session needs first_message_index and forwarded_count, both 0 or more, and is_verified")
	}
	if len(k.SessionData) == 0 || k.SessionData[0] != '{' {
		return matrix.BadJSON("A session needs session_data, an object")
	}
	if len(k.SessionData) > maxSessionData {
		return matrix.TooLarge(fmt.Sprintf("The session_data of a session has at most %d bytes", maxSessionData))
	}
	return nil
}

// replaces reports whether the key replaces a stored one of the same session: verified before unverified, then the lower
// first_message_index, then the lower forwarded_count.
func (k *backupKey) replaces(than *backupKey) bool {
	if *k.Verified != *than.Verified {
		return *k.Verified
	}
	if *k.FirstIndex != *than.FirstIndex {
		return *k.FirstIndex < *than.FirstIndex
	}
	return *k.Forwarded < *than.Forwarded
}

// flatten validates the sessions of all rooms and returns them with their room and session ids.
func flatten(rooms map[string]backupSessions) ([]*backupKey, error) {
	var out []*backupKey
	for roomID, room := range rooms {
		for sessionID, k := range room.Sessions {
			if k == nil {
				return nil, matrix.BadJSON("A session must be an object")
			}
			k.roomID, k.sessionID = roomID, sessionID
			if err := k.check(); err != nil {
				return nil, err
			}
			out = append(out, k)
		}
	}
	return out, nil
}

var errNoBackup = matrix.NotFound("Unknown backup version")

// newBackup creates a version. Numbers of deleted versions are not used again.
func (x *Devices) newBackup(ctx context.Context, userID, algorithm string, authData json.RawMessage) (version int64, err error) {
	stored := func(ctx context.Context, q db.Querier) (there bool, err error) {
		err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM backup_versions WHERE user_id = $1 AND version = $2 AND algorithm = $3
			AND auth_data = $4)`,
			userID, version, algorithm, string(authData)).
			Scan(&there)
		return there, err
	}
	err = x.db.Settle(ctx, func(tx *db.Tx) error {
		if err := accounts.LockUser(ctx, tx, userID); err != nil { // concurrent requests get different numbers
			return err
		}
		if there, err := stored(ctx, tx); err != nil || there { // an earlier attempt was stored after all
			return err
		}
		err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(version), 0) + 1 FROM backup_versions WHERE user_id = $1`, userID).Scan(&version)
		if err != nil {
			return err
		}
		_, err = tx.Exec(
			ctx, `INSERT INTO backup_versions (user_id, version, algorithm, auth_data) VALUES ($1, $2, $3, $4)`, userID, version, algorithm,
			string(authData),
		)
		return err
	}, stored)
	return version, err
}

// backup returns a version, the newest for "". Errors: M_NOT_FOUND.
func (x *Devices) backup(ctx context.Context, q db.Querier, userID, version string) (*backupVersion, error) {
	const columns = `SELECT version, algorithm, auth_data, etag, total FROM backup_versions WHERE user_id = $1 AND NOT deleted `
	query, args := columns+`ORDER BY version DESC LIMIT 1`, []any{userID}
	if version != "" {
		n, err := strconv.ParseInt(version, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != version { // 02 and +2 are not names of version 2
			return nil, errNoBackup
		}
		query, args = columns+`AND version = $2`, []any{userID, n}
	}
	b := &backupVersion{userID: userID}
	var authData string
	err := q.QueryRow(ctx, query, args...).Scan(&b.number, &b.Algorithm, &authData, &b.etag, &b.Count)
	if errors.Is(err, db.ErrNoRows) {
		return nil, errNoBackup
	}
	b.AuthData, b.Version, b.ETag = json.RawMessage(authData), strconv.FormatInt(b.number, 10), strconv.FormatInt(b.etag, 10)
	return b, err
}

// changeBackup replaces the auth data of a version. Errors: M_NOT_FOUND, M_INVALID_PARAM.
func (x *Devices) changeBackup(ctx context.Context, userID, version, algorithm string, authData json.RawMessage) error {
	b, err := x.backup(ctx, x.db, userID, version)
	if err != nil {
		return err
	}
	if b.Algorithm != algorithm {
		return matrix.InvalidParam("The algorithm of a backup can not be changed: expected " + b.Algorithm)
	}
	n, err := x.db.Exec(
		ctx, `UPDATE backup_versions SET auth_data = $3 WHERE user_id = $1 AND version = $2 AND NOT deleted`, userID, b.number,
		string(authData),
	)
	if err == nil && n == 0 {
		return errNoBackup
	}
	return err
}

// deleteBackup deletes a version with its keys. Errors: M_NOT_FOUND.
func (x *Devices) deleteBackup(ctx context.Context, userID, version string) error {
	b, err := x.backup(ctx, x.db, userID, version)
	if err != nil {
		return err
	}
	return x.db.Tx(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `UPDATE backup_versions SET deleted = TRUE WHERE user_id = $1 AND version = $2 AND NOT deleted`, userID, b.number)
		if err != nil {
			return err
		}
		if n == 0 {
			return errNoBackup
		}
		_, err = tx.Exec(ctx, `DELETE FROM backup_keys WHERE user_id = $1 AND version = $2`, userID, b.number)
		return err
	})
}

// changeKeys runs fn with the lock of a version and stores how many keys were added and whether any changed.
func (x *Devices) changeKeys(
	ctx context.Context,
	userID string,
	number int64,
	fn func(tx *db.Tx) (added int64, changed bool, err error),
) (state backupState, err error) {
	err = x.db.Tx(ctx, func(tx *db.Tx) error {
		var etag int64
		err := tx.QueryRow(ctx, `SELECT etag, total FROM backup_versions WHERE user_id = $1 AND version = $2
			AND NOT deleted FOR UPDATE`, userID, number).
			Scan(&etag, &state.Count)
		if errors.Is(err, db.ErrNoRows) {
			return errNoBackup
		}
		if err != nil {
			return err
		}
		added, changed, err := fn(tx)
		if err != nil {
			return err
		}
		if changed {
			etag++
			state.Count += added
			_, err = tx.Exec(
				ctx, `UPDATE backup_versions SET etag = $3, total = $4 WHERE user_id = $1 AND version = $2`, userID, number, etag, state.Count,
			)
		}
		state.ETag = strconv.FormatInt(etag, 10)
		return err
	})
	return state, err
}

// putBackupKeys adds sessions to the newest version. Errors: M_NOT_FOUND, M_WRONG_ROOM_KEYS_VERSION.
func (x *Devices) putBackupKeys(ctx context.Context, userID, version string, keys []*backupKey) (backupState, error) {
	newest, err := x.backup(ctx, x.db, userID, "")
	if err != nil {
		return backupState{}, err
	}
	if newest.Version != version {
		if _, err := x.backup(ctx, x.db, userID, version); err != nil {
			return backupState{}, err
		}
		return backupState{}, matrix.WrongRoomKeysVersion(newest.Version)
	}
	return x.changeKeys(ctx, userID, newest.number, func(tx *db.Tx) (added int64, changed bool, err error) {
		stored, err := loadBackupKeys(ctx, tx, userID, newest.number, keys)
		if err != nil {
			return 0, false, err
		}
		var rows [][]any
		for _, k := range keys {
			old := stored[sessionKey{k.roomID, k.sessionID}]
			if old != nil && !k.replaces(old) {
				continue
			}
			if old == nil {
				added++
			}
			rows = append(rows, []any{userID, newest.number, k.roomID, k.sessionID, *k.FirstIndex, *k.Forwarded, *k.Verified, string(k.SessionData)})
		}
		return added, len(rows) > 0, tx.Bulk(ctx, insertBackupKeys, rows)
	})
}

const insertBackupKeys = `INSERT INTO backup_keys
	(user_id, version, room_id, session_id, first_index, forwarded_count, is_verified, session_data) VALUES ?
	ON CONFLICT (user_id, version, room_id, session_id) DO UPDATE
	SET first_index = excluded.first_index, forwarded_count = excluded.forwarded_count,
	is_verified = excluded.is_verified, session_data = excluded.session_data`

const backupKeyColumns = `SELECT room_id, session_id, first_index, forwarded_count, is_verified, session_data FROM backup_keys
	WHERE user_id = $1 AND version = $2 `

// loadBackupKeys returns the stored sessions with the ids of keys, by room and session.
func loadBackupKeys(ctx context.Context, tx *db.Tx, userID string, number int64, keys []*backupKey) (map[sessionKey]*backupKey, error) {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.sessionID
	}
	slices.Sort(ids)
	stored, err := scanBackupKeys(ctx, tx, backupKeyColumns+`AND session_id = ANY($3)`, userID, number, slices.Compact(ids))
	out := make(map[sessionKey]*backupKey, len(stored))
	for _, k := range stored {
		out[sessionKey{k.roomID, k.sessionID}] = k
	}
	return out, err
}

func scanBackupKeys(ctx context.Context, q db.Querier, query string, args ...any) ([]*backupKey, error) {
	return db.List(func(row db.Row) (*backupKey, error) {
		k := &backupKey{FirstIndex: new(int64), Forwarded: new(int64), Verified: new(bool)}
		var data string
		err := row.Scan(&k.roomID, &k.sessionID, k.FirstIndex, k.Forwarded, k.Verified, &data)
		k.SessionData = json.RawMessage(data)
		return k, err
	})(q.Query(ctx, query, args...))
}

// backupPage reads at most backupPageSize sessions of a version, ordered by room id and session id, from behind after. With a
// roomID it reads that room only.
func (x *Devices) backupPage(ctx context.Context, b *backupVersion, roomID string, after sessionKey) ([]*backupKey, error) {
	return scanBackupKeys(
		ctx, x.db,
		backupKeyColumns+`AND ($3 = '' OR room_id = $3) AND (room_id, session_id) > ($4, $5) ORDER BY room_id, session_id LIMIT $6`,
		b.userID, b.number, roomID, after.roomID, after.sessionID, backupPageSize,
	)
}

// deleteBackupKeys deletes all sessions of a version, those of one room ("" for all), or a single one. Errors: M_NOT_FOUND.
func (x *Devices) deleteBackupKeys(ctx context.Context, userID, version, roomID, sessionID string) (backupState, error) {
	b, err := x.backup(ctx, x.db, userID, version)
	if err != nil {
		return backupState{}, err
	}
	return x.changeKeys(ctx, userID, b.number, func(tx *db.Tx) (int64, bool, error) {
		n, err := tx.Exec(
			ctx,
			`DELETE FROM backup_keys WHERE user_id = $1 AND version = $2 AND ($3 = '' OR room_id = $3) AND ($4 = '' OR session_id = $4)`,
			userID, b.number, roomID, sessionID,
		)
		return -n, n > 0, err
	})
}
