package rooms

import (
	"context"
	"errors"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/rooms/state"
)

// PublicRoom is a room of the directory.
type PublicRoom struct {
	RoomID string
	Root   state.ID // its newest state
	Joined int
}

// PublicRooms lists the rooms of the directory, the ones with most members first. The statement says <> 'private' too, as the
// index rooms_public does: SQLite does not conclude it, and would read all rooms.
func (r *Rooms) PublicRooms(ctx context.Context) ([]PublicRoom, error) {
	return db.List(func(row db.Row) (l PublicRoom, err error) {
		var root []byte
		err = row.Scan(&l.RoomID, &root, &l.Joined)
		l.Root = state.IDFrom(root)
		return l, err
	})(r.Process.DB.Query(ctx, `SELECT room_id, root, joined FROM (SELECT r.room_id,
		(SELECT e.root FROM events e WHERE e.room_id = r.room_id ORDER BY e.pos DESC LIMIT 1) AS root,
		(SELECT COUNT(*) FROM memberships m WHERE m.room_id = r.room_id AND m.membership = 'join') AS joined
		FROM rooms r WHERE r.visibility = 'public' AND r.visibility <> 'private') listed WHERE root IS NOT NULL ORDER BY joined DESC, room_id`))
}

// DirectoryVisibility tells whether a room is "public", in the directory, or "private"; M_NOT_FOUND when there is no
// such room.
func (r *Rooms) DirectoryVisibility(ctx context.Context, roomID string) (string, error) {
	var v string
	err := r.Process.DB.QueryRow(ctx, "SELECT visibility FROM rooms WHERE room_id = $1", roomID).Scan(&v)
	if errors.Is(err, db.ErrNoRows) {
		return "", matrix.NotFound("There is no such room here")
	}
	return v, err
}

// SetDirectoryVisibility puts a room into the directory or takes it out: "public" or "private".
func (r *Rooms) SetDirectoryVisibility(ctx context.Context, roomID, visibility string) error {
	if visibility != "public" && visibility != "private" {
		return matrix.InvalidParam("visibility: expected public or private")
	}
	n, err := r.Process.DB.Exec(ctx, "UPDATE rooms SET visibility = $2 WHERE room_id = $1", roomID, visibility)
	if err == nil && n == 0 {
		err = matrix.NotFound("There is no such room here")
	}
	return err
}
