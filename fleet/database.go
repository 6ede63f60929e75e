package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"lyceum/platform/db"
)

// OpenDatabase opens the database that the configuration names. Its errors name the key.
func (c *Config) OpenDatabase(ctx context.Context, o db.Options) (*db.DB, error) {
	d, err := db.Open(ctx, c.DatabaseURL(), o)
	return d, c.ofDatabase(err)
}

// longStatement is how long a statement over a large table may take.
const longStatement = 24 * time.Hour

// OpenExistingDatabase is OpenDatabaseForLong, but does not make a database.
func (c *Config) OpenExistingDatabase(ctx context.Context) (*db.DB, error) {
	if err := c.checkDirectory(MustExist); err != nil {
		return nil, err
	}
	d, err := c.OpenDatabaseForLong(ctx)
	if err != nil {
		return nil, err
	}
	ours, err := d.Ours(ctx)
	if err == nil && !ours {
		err = c.noServer(MustExist)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// OpenDatabaseForLong opens the database for statements that run for long, such as those of a backup.
func (c *Config) OpenDatabaseForLong(ctx context.Context) (*db.DB, error) {
	return c.OpenDatabase(ctx, db.Options{
		Readers: 4, Own: true, Timeout: longStatement, Params: map[string]string{"idle_in_transaction_session_timeout": "0"},
	})
}

// ofData says what to do about an error of the data directory.
func (c *Config) ofData(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("server.data: %w: %s is on a file system that takes no writes: mount it for writing, "+
			"or name another directory with --data", err, c.Server.Data)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("server.data: %w: give %s to the user who runs this (chown), run it as its owner, "+
			"or name another directory with --data", err, c.Server.Data)
	}
	return fmt.Errorf("server.data: %w", err)
}

// ofDatabase says which key an error of the database is about, and what to do where its own words do not.
func (c *Config) ofDatabase(err error) error {
	key := "database.url"
	if c.Embedded() {
		key = "server.data"
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: %w: run this as the user who runs the server", key, err)
	case db.IsReadOnly(err):
		return fmt.Errorf("%s: this PostgreSQL takes no writes: it is a standby, or default_transaction_read_only is on: "+
			"name the one that takes them: %w", key, err)
	case db.IsForbidden(err):
		return fmt.Errorf("%s: the role may not do what Lyceum needs: make it the owner of the database, or GRANT ALL ON SCHEMA public TO it: %w",
			key, err)
	}
	return fmt.Errorf("%s: %w", key, err)
}
