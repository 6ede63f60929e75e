package rooms

import (
	"context"
	"database/sql"
	"errors"

	"lyceum/matrix"
	"lyceum/matrix/auth"
	"lyceum/matrix/event"
	"lyceum/platform/db"
	"lyceum/platform/obs"
	"lyceum/rooms/state"
)

// putAlias gives a room an alias; M_ROOM_IN_USE when the alias is taken.
func (r *Rooms) putAlias(ctx context.Context, alias, roomID, creator string) error {
	_, err := r.Process.DB.Exec(ctx, "INSERT INTO aliases (alias, room_id, creator, created_ms) VALUES ($1, $2, $3, $4)",
		alias, roomID, creator, obs.Now().UnixMilli())
	if db.IsUnique(err) {
		return aliasTaken(alias)
	}
	return err
}

func aliasTaken(alias string) error { return matrix.RoomInUse("The alias " + alias + " is taken") }

func (r *Rooms) deleteAlias(ctx context.Context, alias string) error {
	_, err := r.Process.DB.Exec(ctx, "DELETE FROM aliases WHERE alias = $1", alias)
	return err
}

// Resolve finds the room of an alias of this server; "" when there is none.
func (r *Rooms) Resolve(ctx context.Context, alias string) (roomID, creator string, err error) {
	err = r.Process.DB.QueryRow(ctx, "SELECT room_id, creator FROM aliases WHERE alias = $1", alias).Scan(&roomID, &creator)
	if errors.Is(err, sql.ErrNoRows) {
		return "", "", nil
	}
	return roomID, creator, err
}

// PowerAt computes the power levels of a state.
func (r *Rooms) PowerAt(ctx context.Context, v event.Version, root state.ID) (*auth.Power, error) {
	create, levels := state.Key{Type: event.TypeCreate}, state.Key{Type: event.TypePowerLevels}
	found, err := r.StateEvents(ctx, root, create, levels)
	if err != nil {
		return nil, err
	}
	pdu := func(k state.Key) *event.Event {
		if e := found[k]; e != nil {
			return e.Event
		}
		return nil
	}
	return auth.NewPower(v, pdu(create), pdu(levels)), nil
}
