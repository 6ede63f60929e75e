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
	"lyceum/platform/web"
	"lyceum/rooms/state"
)

// alias is a row of the table aliases.
type alias struct {
	name, roomID, creator string
	createdMS             int64
}

// findAlias reads an alias of this server; not found when there is none.
func (r *Rooms) findAlias(ctx context.Context, name string) (a alias, found bool, err error) {
	a.name = name
	err = r.Process.DB.QueryRow(ctx, "SELECT room_id, creator, created_ms FROM aliases WHERE alias = $1", name).Scan(&a.roomID, &a.creator, &a.createdMS)
	if errors.Is(err, sql.ErrNoRows) {
		return alias{}, false, nil
	}
	return a, err == nil, err
}

// Resolve finds the room of an alias of this server; "" when there is none.
func (r *Rooms) Resolve(ctx context.Context, name string) (roomID, creator string, err error) {
	a, _, err := r.findAlias(ctx, name)
	return a.roomID, a.creator, err
}

// putAlias gives a room an alias; M_ROOM_IN_USE when the alias is taken, also by the same room. Whether the creator is a member is
// asked by the statement: a request may have stood still since it looked. request is of web.Request.Once: what is done again has
// the alias.
func (r *Rooms) putAlias(ctx context.Context, a alias, request string) error {
	n, err := r.Process.DB.Exec(ctx, `INSERT INTO aliases (alias, room_id, creator, created_ms, request)
		SELECT $1, m.room_id, m.user_id, $4, $5 FROM memberships m WHERE m.user_id = $3 AND m.room_id = $2 AND m.membership = 'join'`,
		a.name, a.roomID, a.creator, obs.Now().UnixMilli(), request)
	switch {
	case db.IsUnique(err):
		var same bool
		err = r.Process.DB.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM aliases WHERE alias = $1 AND room_id = $2 AND request = $3)", a.name, a.roomID, request).Scan(&same)
		if err == nil && !same {
			err = aliasTaken(a.name)
		}
		return err
	case err == nil && n == 0:
		return notMember()
	}
	return err
}

func aliasTaken(alias string) error { return matrix.RoomInUse("The alias " + alias + " is taken") }

// removal is what the right to remove an alias rests upon.
type removalRight struct {
	member string // who may as a member with power; "" for who made the alias and for administrators
	at     int64  // position of the room at which the power was looked at
}

// mayRemove tells by what right a user may remove an alias, or refuses it.
func (r *Rooms) mayRemove(ctx context.Context, by *web.Identity, a alias) (removalRight, error) {
	if a.creator == by.UserID || by.Admin {
		return removalRight{}, nil
	}
	v, err := r.joinedView(ctx, by.UserID, a.roomID)
	if err != nil {
		return removalRight{}, err
	}
	power, err := r.PowerAt(ctx, v.head.Version, v.root)
	if err != nil {
		return removalRight{}, err
	}
	if !power.CanSend(by.UserID, event.TypeCanonicalAlias, true) {
		return removalRight{}, matrix.Forbidden("You may remove aliases that you made, or those of rooms whose canonical alias you may set")
	}
	return removalRight{by.UserID, v.head.Pos}, nil
}

// removeAlias removes an alias that was found before; M_NOT_FOUND when it is gone by now, also when somebody else has it.
func (r *Rooms) removeAlias(ctx context.Context, by *web.Identity, a alias) error {
	for {
		right, err := r.mayRemove(ctx, by, a)
		if err != nil {
			return err
		}
		// The state first: a request that is cut between the two leaves an alias that can be removed again, not the name of none.
		if err := r.dropCanonical(ctx, by.UserID, a.roomID, a.name); err != nil && !matrix.HasCode(err, matrix.CodeForbidden) {
			return err
		}
		if done, err := r.deleteAlias(ctx, a, right); err != nil || done {
			return err
		}
		now, found, err := r.findAlias(ctx, a.name)
		if err != nil {
			return err
		}
		if !found || now.creator != a.creator || now.createdMS != a.createdMS {
			return noAlias()
		}
		a = now // an upgrade moved it, or powers changed: it is looked at again
	}
}

func noAlias() error { return matrix.NotFound("There is no such alias") }

const deleteFound = "DELETE FROM aliases WHERE alias = $1 AND room_id = $2 AND creator = $3 AND created_ms = $4"

// deleteAlias deletes an alias, while it is the one that was found and the right to it holds: a request may have stood still since.
func (r *Rooms) deleteAlias(ctx context.Context, a alias, right removalRight) (done bool, err error) {
	var n int64
	if right.member == "" {
		n, err = r.Process.DB.Exec(ctx, deleteFound, a.name, a.roomID, a.creator, a.createdMS)
	} else {
		n, err = r.Process.DB.Exec(ctx, deleteFound+`
			AND EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = $5 AND m.room_id = $2 AND m.membership = 'join')
			AND NOT EXISTS (SELECT 1 FROM events e WHERE e.room_id = $2 AND e.pos > $6 AND e.type = 'm.room.power_levels' AND e.state_key IS NOT NULL)`,
			a.name, a.roomID, a.creator, a.createdMS, right.member, right.at)
	}
	return n > 0, err
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
