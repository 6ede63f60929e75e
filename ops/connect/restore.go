package connect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"lyceum/fleet"
	"lyceum/ops/up"
	"lyceum/platform/conf"
	"lyceum/platform/disk"
	"lyceum/platform/engines"
)

// WithRestoreTarget calls fn with the configuration of the place that a backup is restored to. For the directory of a stopped
// lyceum up, and with makeUp for a directory that shall be one, it runs the PostgreSQL of that fleet for as long; then of is the
// directory, and otherwise "". When fn fails, nothing is left of what was made.
func WithRestoreTarget(ctx context.Context, s conf.Sources, makeUp bool, fn func(c *fleet.Config, of string) error) (err error) {
	c, err := Load(s)
	if err != nil {
		return err
	}
	dir := fleetDirectory(c)
	if dir == "" {
		if !c.Embedded() || !makeUp && !c.IsUpDirectory() && !c.HasUpPostgres() {
			return fn(c, "")
		}
		if !disk.Absent(c.DatabaseFile()) {
			return fmt.Errorf("server.data: %s is the directory of a lyceum serve, with its database %s: name another one with --data, "+
				"or leave --up out", c.Server.Data, filepath.Base(c.DatabaseFile()))
		}
		if fleet.IsOverPostgres(c.Server.Data) {
			return c.WithoutAddress()
		}
		dir = c.Server.Data
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if _, err := up.FindSupervisor(dir); err == nil {
		return fmt.Errorf("the fleet in %s runs: stop it with lyceum stop --data %s before you replace its database", dir, dir)
	} else if errors.Is(err, os.ErrPermission) {
		return err
	}
	if fleetDirectory(c) != "" {
		stopped, err := stoppedPostgres(c)
		if err != nil || stopped == "" { // it has a PostgreSQL of somebody else
			return errors.Join(err, inFleet(c, dir, fn))
		}
	}
	undo := fleet.NoteCreation(dir)
	made, done := disk.Absent(filepath.Join(dir, "postgres")), false
	defer func() {
		if done { // also when its PostgreSQL did not end well
			return
		}
		if made {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, "postgres")))
		}
		undo()
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil { // PostgreSQL may run as another user
		return err
	}
	pg, err := engines.StartPostgres(ctx, filepath.Join(dir, "postgres"))
	if err != nil {
		return fmt.Errorf("the PostgreSQL of the fleet in %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, pg.Stop()) }()
	c.Database.URL = conf.Secret(pg.URL())
	err = inFleet(c, dir, fn)
	done = err == nil
	return err
}

// inFleet calls fn with the configuration of a fleet whose directory is dir.
func inFleet(c *fleet.Config, dir string, fn func(c *fleet.Config, of string) error) (err error) {
	c.Server.Data, c.Redis.Addresses = dir, nil
	if c.Blob.Directory != "" {
		c.Blob.Shared = true
		if c.Blob.Directory, err = filepath.Abs(c.Blob.Directory); err != nil {
			return err
		}
	}
	return fn(c, dir)
}
