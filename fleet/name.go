package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/lease"
)

// nameRow is the row of table fleet with the name of the server, written once.
const nameRow = "server_name"

// DefaultName is the name of a server that nobody gives one.
const DefaultName = "localhost"

// StoredName is the name of the server whose database this is, "" when it has none. A database that an early version made has no
// row for it, and the name is that of its users: the configured name, given, when some user has it, else that of the oldest user.
func StoredName(ctx context.Context, d *db.DB, q db.Querier, given string) (name string, err error) {
	tables, err := d.Tables(ctx, q)
	if err != nil {
		return "", err
	}
	has := map[string]bool{}
	for _, t := range tables {
		has[t.Name] = true
	}
	one := func(query string, args ...any) (text string, err error) {
		err = q.QueryRow(ctx, query, args...).Scan(&text)
		if errors.Is(err, db.ErrNoRows) {
			err = nil
		}
		return text, err
	}
	if has["fleet"] {
		if name, err = one("SELECT value FROM fleet WHERE name = $1", nameRow); name != "" || err != nil {
			return name, err
		}
	}
	if !has["users"] {
		return "", nil
	}
	if given != "" { // commands without a name once made users of another one
		if id, err := one("SELECT user_id FROM users WHERE user_id LIKE $1 LIMIT 1", "%:"+given); err != nil || matrix.ServerOf(id) == given {
			return given, err
		}
	}
	id, err := one("SELECT user_id FROM users ORDER BY created_ms, user_id LIMIT 1")
	return matrix.ServerOf(id), err
}

// AdoptStoredName takes the name of the server from its database and refuses a configuration that names another one. It
// writes nothing; the name stays "" when neither has one.
func (c *Config) AdoptStoredName(ctx context.Context, d *db.DB) error {
	stored, err := StoredName(ctx, d, d, c.Server.Name)
	if err != nil {
		return err
	}
	if stored != "" {
		if err := c.checkServer(stored); err != nil {
			return err
		}
	}
	return c.AdoptName(stored)
}

// AdoptName takes stored, the name that the server has ("" for none yet), and refuses a configuration that names another one.
func (c *Config) AdoptName(stored string) error {
	if stored != "" && c.Server.Name != "" && stored != c.Server.Name {
		where := "the database at database.url"
		if c.Embedded() {
			where = "the database in " + c.Server.Data
		}
		return fmt.Errorf("server.name: %s is that of the server %s and the configuration says %s: set server.name to %s or leave it out, "+
			"for users and rooms carry it in their ids, or name another database; nothing was changed", where, stored, c.Server.Name, stored)
	}
	c.Server.Name = cmp.Or(stored, c.Server.Name)
	return nil
}

// CheckNewServer refuses the configured name, and the data directory, for a server that is about to be made in an empty database.
func (c *Config) CheckNewServer() error {
	if err := c.checkServer(""); err != nil {
		return err
	}
	return c.CheckNewName()
}

// CheckNewName refuses a configured name that no new server gets.
func (c *Config) CheckNewName() error {
	if lower := strings.ToLower(c.Server.Name); lower != c.Server.Name {
		return fmt.Errorf("server.name: %s has capitals, and user ids are compared letter by letter where host names are not: give %s",
			c.Server.Name, lower)
	}
	return nil
}

// Unnamed says that a server has the name DefaultName for ever, and how to begin again with another one: remove says what to remove,
// and start is the command that starts the server.
func Unnamed(remove, start string) string {
	return fmt.Sprintf("no server name was given, so this server is called %s, which can not be changed later, as user ids and rooms "+
		"carry it: to begin again with another name, stop it, %s and start it with %s --server-name NAME", DefaultName, remove, start)
}

// warnUnnamed logs the text of Unnamed at the first start of a server that nobody gave a name.
func (p *Process) warnUnnamed() {
	remove := "remove " + p.config.Server.Data
	if !p.config.Embedded() {
		remove = "empty the database at database.url and the directory " + p.config.Server.Data
	}
	p.process.Log.Warn(Unnamed(remove, "lyceum serve"))
}

// storeName stores the name of the server in a database that has none. When several processes start at once, one stores its name, and
// those with another name fail here.
func (c *Config) storeName(ctx context.Context, d *db.DB) error {
	if err := c.AdoptStoredName(ctx, d); err != nil {
		return err
	}
	stored, err := lease.InitValue(ctx, d, nameRow, cmp.Or(c.Server.Name, DefaultName))
	if err != nil {
		return err
	}
	return c.AdoptName(stored)
}

// StoreRestoredName stores the name of the server in a restored database that has no row for it: the name that StoredName finds, else
// that of the backup.
func StoreRestoredName(ctx context.Context, d *db.DB, tx *db.Tx, configured, backedUp string) error {
	name, err := StoredName(ctx, d, tx, configured)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "INSERT INTO fleet (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", nameRow, cmp.Or(name, backedUp))
	return err
}

// ServerName is the name of the server that a configuration describes: the configured one or that of its database.
func ServerName(ctx context.Context, c *Config) (string, error) {
	d, err := c.OpenExistingDatabase(ctx)
	if err != nil {
		return "", err
	}
	defer d.Close()
	err = c.AdoptStoredName(ctx, d)
	return cmp.Or(c.Server.Name, DefaultName), err
}
