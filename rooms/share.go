package rooms

import (
	"context"
	"database/sql"
	"errors"

	"lyceum/platform/db"
)

// SharesRoom tells that two users are members of one room.
func (r *Rooms) SharesRoom(ctx context.Context, userA, userB string) (bool, error) {
	var one int
	err := r.Process.DB.QueryRow(ctx, `SELECT 1 FROM memberships a JOIN memberships b ON b.room_id = a.room_id
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.user_id = $2 AND b.membership = 'join' LIMIT 1`, userA, userB).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// UsersSharingRoom lists the users, of all servers, who are members of a room that the user is in. The user
// is not among them.
func (r *Rooms) UsersSharingRoom(ctx context.Context, userID string) ([]string, error) {
	return db.Texts(r.Process.DB.Query(ctx, `SELECT DISTINCT b.user_id FROM memberships a JOIN memberships b ON b.room_id = a.room_id
		WHERE a.user_id = $1 AND a.membership = 'join' AND b.membership = 'join' AND b.user_id <> $1`, userID))
}

// JoinedRooms lists the rooms that each of some users is a member of.
func (r *Rooms) JoinedRooms(ctx context.Context, userIDs []string) (map[string][]string, error) {
	return db.Groups[string, string](r.Process.DB.Query(ctx,
		"SELECT user_id, room_id FROM memberships WHERE user_id = ANY($1) AND membership = 'join'", userIDs))
}

// MembersOfAny lists those of some users who are members of at least one of some rooms.
func (r *Rooms) MembersOfAny(ctx context.Context, roomIDs, userIDs []string) ([]string, error) {
	return db.Texts(r.Process.DB.Query(ctx,
		"SELECT DISTINCT user_id FROM memberships WHERE user_id = ANY($1) AND room_id = ANY($2) AND membership = 'join'", userIDs, roomIDs))
}
