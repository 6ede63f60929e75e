package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// Profile is the part of a user's profile that rooms show.
type Profile struct {
	DisplayName string // "" when there is none
	AvatarURL   string // mxc URI, "" when there is none

	Version     int64 // changes with each change of the profile; 0 for users of other servers
	Deactivated bool
}

const (
	fieldName   = "displayname"
	fieldAvatar = "avatar_url"

	maxProfile      = 64 << 10 // bytes of the whole profile as JSON
	maxProfileKey   = 255
	maxDisplayName  = 256  // characters
	maxAvatarLength = 1000 // bytes
)

// Profiles returns name and avatar of local users, in one database statement. Unknown users are left out.
func (a *Accounts) Profiles(ctx context.Context, userIDs []string) (map[string]Profile, error) {
	out := map[string]Profile{}
	return out, db.Each(func(row db.Row) error {
		var userID, name, value, text string
		p := Profile{}
		if err := row.Scan(&userID, &p.Version, &p.Deactivated, &name, &value); err != nil {
			return err
		}
		if before, known := out[userID]; known {
			p = before
		}
		if name != "" {
			if err := json.Unmarshal([]byte(value), &text); err != nil {
				return fmt.Errorf("profile of %s: %w", userID, err)
			}
		}
		switch name {
		case fieldName:
			p.DisplayName = text
		case fieldAvatar:
			p.AvatarURL = text
		}
		out[userID] = p
		return nil
	})(a.db.Query(ctx, `SELECT u.user_id, u.profile_ms + 1, u.deactivated_ms <> 0, COALESCE(f.name, ''), COALESCE(f.value, '') FROM users u
		LEFT JOIN profile_fields f ON f.user_id = u.user_id AND f.name IN ('displayname', 'avatar_url') WHERE u.user_id = ANY($1)`, userIDs))
}

// RequireActive makes a write fail with refuse if one of the users is deactivated or unknown. So what is written is either stored
// before a deactivation, whose clean-up then finds it, or not at all. The profiles of the users do not change until the write
// ends.
func RequireActive(w *db.Batch, refuse error, userIDs []string) {
	w.Require(refuse, len(userIDs), `SELECT 1 FROM users WHERE user_id = ANY($1) AND deactivated_ms = 0 ORDER BY user_id FOR SHARE`, userIDs)
}

// ProfileCopy is something at a place, such as the membership in a room, that was made from a version of a user's profile.
type ProfileCopy struct {
	UserID, Place, ID string
	Version           int64
}

// RecordOldProfiles records which copies were made from a profile that has changed since, to be renewed later. It must follow
// RequireActive in the same write: then a change of the profile either comes later and finds the copy, or is recorded.
func RecordOldProfiles(w *db.Batch, list []ProfileCopy) {
	users, places, ids, versions := make([]string, len(list)), make([]string, len(list)), make([]string, len(list)), make([]int64, len(list))
	for i, of := range list {
		users[i], places[i], ids[i], versions[i] = of.UserID, of.Place, of.ID, of.Version-1
	}
	w.Do(`INSERT INTO old_profiles (user_id, place, id) SELECT o.user_id, o.place, o.id
		FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS o (user_id, place, id, version)
		JOIN users u ON u.user_id = o.user_id WHERE u.profile_ms <> o.version
		ON CONFLICT (user_id, place) DO UPDATE SET id = excluded.id`, users, places, ids, versions)
}

// OldProfiles returns recorded copies, without versions: at most limit, in the order of users and places, from behind after
// (ProfileCopy{} for the first page).
func (a *Accounts) OldProfiles(ctx context.Context, after ProfileCopy, limit int) ([]ProfileCopy, error) {
	return db.List(func(row db.Row) (of ProfileCopy, err error) {
		return of, row.Scan(&of.UserID, &of.Place, &of.ID)
	})(a.db.Query(ctx, "SELECT user_id, place, id FROM old_profiles WHERE (user_id, place) > ($1, $2) ORDER BY user_id, "+
		"place LIMIT $3", after.UserID, after.Place, limit))
}

// ProfileRenewed deletes the record of a copy that was renewed, by exec. A record of a newer copy at the same place stays.
func (a *Accounts) ProfileRenewed(
	ctx context.Context, of ProfileCopy, exec func(ctx context.Context, query string, args ...any) error,
) error {
	return exec(ctx, "DELETE FROM old_profiles WHERE user_id = $1 AND place = $2 AND id = $3", of.UserID, of.Place, of.ID)
}

// Profile returns all fields of a user's profile as JSON values. It asks the other server for users who are not local. Errors:
// M_NOT_FOUND.
func (a *Accounts) Profile(ctx context.Context, userID string) (map[string]json.RawMessage, error) {
	if !matrix.ValidUserID(userID) {
		return nil, matrix.InvalidParam("This is not a user id")
	}
	if matrix.ServerOf(userID) != a.config.ServerName {
		if a.deps.RemoteProfiles == nil {
			return nil, matrix.NotFound("There is no such user")
		}
		return a.deps.RemoteProfiles.RemoteProfile(ctx, userID)
	}
	fields, err := readFields(ctx, a.db, userID)
	if err != nil || len(fields) > 0 {
		return fields, err
	}
	u, err := loadUser(ctx, a.db, userID)
	if errors.Is(err, db.ErrNoRows) || err == nil && u.deactivatedAt != 0 {
		return nil, matrix.NotFound("There is no such user")
	}
	return fields, err
}

func readFields(ctx context.Context, q db.Querier, userID string) (map[string]json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	return fields, db.Each(func(row db.Row) error {
		var name, value string
		err := row.Scan(&name, &value)
		fields[name] = json.RawMessage(value)
		return err
	})(q.Query(ctx, `SELECT name, value FROM profile_fields WHERE user_id = $1`, userID))
}

// SetProfile sets one field of a local user's profile, or removes it when value is nil (Client-Server API,
// PUT /profile/{userId}/{keyName}). An empty displayname or avatar_url removes it too. Errors:
// M_INVALID_PARAM, M_KEY_TOO_LARGE, M_PROFILE_TOO_LARGE, M_NOT_FOUND.
func (a *Accounts) SetProfile(ctx context.Context, userID, name string, value json.RawMessage) error {
	if err := checkField(name, value); err != nil {
		return err
	}
	if string(value) == `""` && (name == fieldName || name == fieldAvatar) {
		value = nil
	}
	res, err := a.change(ctx, userID, sessionChange{Kind: changeProfile, Field: name, Value: value, At: a.nowMs()})
	switch {
	case err != nil:
		return err
	case !res.Found:
		u, err := loadUser(ctx, a.db, userID)
		if err == nil && u.deactivatedAt == 0 { // the owner runs the previous version, which does not know this change
			return stream.ErrNotOwner
		}
		if err != nil && !errors.Is(err, db.ErrNoRows) {
			return err
		}
		return matrix.NotFound("There is no such user")
	case res.TooLong > 0:
		return matrix.NewError(
			400,
			"M_PROFILE_TOO_LARGE",
			fmt.Sprintf("The profile would have %d bytes; at most %d are allowed", res.TooLong, maxProfile),
		)
	}
	return nil
}

// setField does a changeProfile in the transaction of the stream. It may run again in another transaction.
func setField(ctx context.Context, tx *db.Tx, userID string, p *pendingChange) error {
	// Updating the user's row locks it: of two changes of one profile the second sees the size after the first.
	n, err := tx.Exec(
		ctx,
		`UPDATE users SET profile_ms = CASE WHEN profile_ms < $2 THEN $2 ELSE profile_ms + 1 END WHERE user_id = $1 AND deactivated_ms = 0`,
		userID,
		p.At,
	)
	if err != nil || n == 0 {
		return err
	}
	p.result.Found = true
	fields, err := readFields(ctx, tx, userID)
	if err != nil {
		return err
	}
	old, had := fields[p.Field]
	if p.Value == nil {
		p.result.Changed = had
		_, err := tx.Exec(ctx, `DELETE FROM profile_fields WHERE user_id = $1 AND name = $2`, userID, p.Field)
		return err
	}
	fields[p.Field] = p.Value
	size := 2
	for key, val := range fields {
		size += len(matrix.AppendString(nil, key)) + len(val) + 2
	}
	if size > maxProfile {
		p.result.TooLong = size
		return nil
	}
	p.result.Changed = !had || string(old) != string(p.Value)
	_, err = tx.Exec(ctx, `INSERT INTO profile_fields (user_id, name, value) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, name) DO UPDATE SET value = excluded.value`, userID, p.Field, string(p.Value))
	if err == nil && p.Field == fieldName {
		err = tx.Bulk(ctx, insertNames, [][]any{nameRow(userID, string(p.Value))})
	}
	return err
}

func checkField(name string, value json.RawMessage) error {
	if len(name) > maxProfileKey {
		return matrix.NewError(400, "M_KEY_TOO_LARGE", "The name of a profile field has at most 255 bytes")
	}
	if name != fieldName && name != fieldAvatar && !namespaced(name) {
		return matrix.InvalidParam("The name of a profile field is displayname, avatar_url, m.tz or a namespaced word such as org.example.title")
	}
	if value == nil || name != fieldName && name != fieldAvatar && name != "m.tz" {
		return nil
	}
	var text *string
	if err := json.Unmarshal(value, &text); err != nil || text == nil {
		return matrix.InvalidParam(name + " must be a string")
	}
	switch {
	case strings.Contains(*text, "\x00"):
		return matrix.InvalidParam(name + " must not hold NUL")
	case name == fieldName && len([]rune(*text)) > maxDisplayName:
		return matrix.InvalidParam(fmt.Sprintf("A display name has at most %d characters", maxDisplayName))
	case name == fieldAvatar && len(*text) > maxAvatarLength:
		return matrix.InvalidParam(fmt.Sprintf("An avatar URL has at most %d bytes", maxAvatarLength))
	}
	return nil
}

// namespaced reports whether s matches the Common Namespaced Identifier Grammar and has at least one dot.
func namespaced(s string) bool {
	parts := strings.Split(s, ".")
	for n, part := range parts {
		for i := range len(part) {
			c := part[i]
			letter := c >= 'a' && c <= 'z'
			if !letter && (i == 0 && n == 0 || (c < '0' || c > '9') && c != '_' && c != '-') {
				return false
			}
		}
		if part == "" {
			return false
		}
	}
	return len(parts) > 1
}
