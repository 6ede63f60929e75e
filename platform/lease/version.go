package lease

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"lyceum/platform/db"
	"lyceum/platform/obs"
)

// ErrVersion says that this process's version may not be part of the fleet.
var ErrVersion = errors.New("this version can not be part of the fleet")

// versionRow is the row of table fleet that holds the X of the fleet's version X.Y.Z.
const versionRow = "version_x"

// major is the X of this process's version X.Y.Z; "" when it has another form, as in tests of packages.
func (l *Leases) major() string {
	v, err := obs.ParseVersion(l.opts.Version)
	if err != nil {
		return ""
	}
	return strconv.Itoa(v.X)
}

// checkMajor keeps the fleet at one X. A larger one is accepted when no other process is alive.
func (l *Leases) checkMajor(ctx context.Context, tx *db.Tx, others []Machine) error {
	mine := l.major()
	if mine == "" {
		return nil
	}
	stored, err := fleetMajor(ctx, tx)
	if err != nil || stored == mine {
		return err
	}
	if stored != "" {
		if len(others) > 0 {
			return fmt.Errorf("%w: this is %s and the fleet has version %s.*: another first number breaks, so stop all processes before you "+
				"start the first of the new version", ErrVersion, l.opts.Version, stored)
		}
		old, _ := strconv.Atoi(stored)
		if v, _ := strconv.Atoi(mine); v < old {
			return fmt.Errorf("%w: this is %s and the database belongs to version %s.*: start that version, or restore a backup made before it",
				ErrVersion, l.opts.Version, stored)
		}
	}
	_, err = tx.Exec(ctx, "INSERT INTO fleet (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
		versionRow, mine)
	return err
}

func fleetMajor(ctx context.Context, q db.Querier) (string, error) {
	var x string
	err := q.QueryRow(ctx, "SELECT value FROM fleet WHERE name = $1", versionRow).Scan(&x)
	if errors.Is(err, db.ErrNoRows) {
		return "", nil
	}
	return x, err
}

// sameMajor returns ErrVersion when the fleet has moved to another X, for example while this process was paused.
func (l *Leases) sameMajor(ctx context.Context, q db.Querier) error {
	mine := l.major()
	if mine == "" {
		return nil
	}
	x, err := fleetMajor(ctx, q)
	if err == nil && x != "" && x != mine {
		return fmt.Errorf("%w: this is %s and the fleet has version %s.* now", ErrVersion, l.opts.Version, x)
	}
	return err
}

// Metadata returns the metadata of the live processes by machine id.
func (l *Leases) Metadata(ctx context.Context) (map[int]string, error) {
	now, err := l.now(ctx, l.db)
	if err != nil {
		return nil, err
	}
	if l.opts.Embedded {
		return map[int]string{l.Self().ID: l.opts.Metadata}, nil
	}
	out := map[int]string{}
	others, err := readOthers(ctx, l.db, now, -1)
	for _, o := range others {
		out[o.ID] = o.Metadata
	}
	return out, err
}

// readOthers reads the live processes with their metadata.
func readOthers(ctx context.Context, q db.Querier, now int64, except int) ([]Machine, error) {
	return db.List(func(row db.Row) (m Machine, err error) {
		var roles string
		err = row.Scan(&m.ID, &m.Incarnation, &m.Address, &m.Host, &m.Version, &roles, &m.Draining, &m.Metadata)
		m.Roles = splitRoles(roles)
		return m, err
	})(q.Query(ctx, `SELECT id, incarnation, address, host, version, roles, draining, facts
		FROM machines WHERE expires_ms > $1 AND id <> $2 ORDER BY id`, now, int64(except)))
}
