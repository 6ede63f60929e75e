package up

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"lyceum/fleet"
	"lyceum/platform/db"
	"lyceum/platform/engines"
)

// Check looks for what would make Start fail and can be seen at once: the settings, the data directory, the public address, a
// database of somebody else. It makes nothing.
func (u *Supervisor) Check(ctx context.Context) error {
	if err := u.checkOwn(); err != nil {
		return err
	}
	if missing := MissingRoles(&u.Config.Up); len(missing) > 0 && u.Config.Database.URL.Reveal() == "" {
		return fmt.Errorf("up.replicas: no process has %s: name each role, alone or joined by + with others, such as %s: "+
			"1, or leave up.replicas out",
			strings.Join(missing, ", "), strings.Join(missing[:min(2, len(missing))], "+"))
	}
	if err := u.checkPlace(); err != nil {
		return err
	}
	if err := engines.CheckInstalled(u.Config.Embedded(), len(u.Config.Redis.Addresses) == 0); err != nil {
		return err
	}
	if u.Config.Embedded() && !u.Config.HasUpPostgres() {
		if err := u.Config.CheckNewServer(); err != nil {
			return err
		}
	}
	l, err := u.listen()
	if err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	return u.checkDatabase(ctx)
}

// checkPlace refuses the directory of another server: a second one there would be empty, and share blobs and secret with it.
func (u *Supervisor) checkPlace() error {
	c, data := u.Config, u.Config.Server.Data
	_, err := os.Stat(c.DatabaseFile())
	own := c.HasUpPostgres()
	switch {
	case err == nil:
		return fmt.Errorf("server.data: %s is the directory of a lyceum serve, with its database %s: "+
			"start that with lyceum serve --data %s, or name another directory with --data; "+
			"to make a fleet of it: stop it, lyceum backup FILE --data %s, then for an empty directory with its file %s: "+
			"lyceum restore FILE --up --data NEW and lyceum up --data NEW",
			data, filepath.Base(c.DatabaseFile()), data, data, filepath.Base(c.SecretFile()))
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("server.data: %w", err)
	case c.Embedded() && !own && fleet.IsOverPostgres(data):
		return c.WithoutAddress()
	case !c.Embedded() && own:
		return fmt.Errorf("database.url: %s has the PostgreSQL of the fleet that lyceum up made there: remove database.url "+
			"(or LYCEUM_DATABASE_URL), or name another directory with --data; to move the fleet to the other PostgreSQL: "+
			"lyceum backup FILE --data %s without database.url, then with it lyceum restore FILE --data NEW and lyceum up --data NEW", data, data)
	}
	return nil
}

// checkDatabase connects to a PostgreSQL of somebody else, and refuses that of another server.
func (u *Supervisor) checkDatabase(ctx context.Context) error {
	if u.Config.Embedded() { // one is started
		return nil
	}
	d, err := u.Config.OpenDatabase(ctx, db.Options{Readers: 1, Own: true})
	if err != nil {
		return err
	}
	defer d.Close()
	ours, err := d.Ours(ctx)
	if err != nil {
		return err
	}
	if !ours {
		if err := u.Config.CheckNewServer(); err != nil {
			return err
		}
	}
	c := *u.Config
	return c.AdoptStoredName(ctx, d)
}

// listenWait is how long the public address may be taken: the routers of a lyceum up that was killed end a little later.
const listenWait = 3 * time.Second

func (u *Supervisor) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", u.Config.Server.Listen)
	for began := time.Now(); errors.Is(err, syscall.EADDRINUSE) && time.Since(began) < listenWait; time.Sleep(stepTime) {
		l, err = net.Listen("tcp", u.Config.Server.Listen)
	}
	if err != nil {
		return nil, fmt.Errorf("server.listen: %w: choose another address with --listen", err)
	}
	return l, nil
}

// openPublic opens the public address once for all routers and all their restarts: a connection that comes while a
// router is replaced waits instead of being refused.
func (u *Supervisor) openPublic() error {
	l, err := u.listen()
	if err != nil {
		return err
	}
	defer l.Close() // the file stays open
	u.public, err = l.(*net.TCPListener).File()
	return err
}

// openSecret looks whether the database is that of this server, and makes the secret of a fleet that has none and that nobody gives one.
func (u *Supervisor) openSecret(ctx context.Context) error {
	d, err := u.Config.OpenDatabase(ctx, db.Options{Readers: 1, Own: true})
	if err != nil {
		return err
	}
	defer d.Close()
	c := *u.Config
	if err := c.AdoptStoredName(ctx, d); err != nil {
		return err
	}
	u.Unnamed = c.Server.Name == ""
	if u.connections == 0 { // the database is not in the directory
		if err := fleet.StoreEngine(c.Server.Data, c.Server.Name); err != nil {
			return err
		}
	}
	if c.Fleet.Secret.Reveal() != "" {
		return nil
	}
	c.Redis.Addresses = nil // all processes get the secret that is made
	if _, err := c.EnsureSecret(ctx, d); err != nil {
		return err
	}
	u.env("LYCEUM_FLEET_SECRET_FILE", c.SecretFile())
	return nil
}
