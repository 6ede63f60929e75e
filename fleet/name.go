package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/lease"
)

// nameRow is the row of table fleet with the name of the server, written once.
const nameRow = "server_name"

// firstName is the name of a server that nobody gives one.
const firstName = "localhost"

// making says what a process does where there is no server yet.
type making int

const (
	mayMake   making = iota // make one
	makeNamed               // make one when its name is given: it can not be changed later
	mustExist               // say so
)

// storedName is the name of the server whose database this is, "" when it has none. A database of before the name was
// kept has it in its users; given, the configured name, counts there when a user has it.
func storedName(ctx context.Context, d *db.DB, q db.Querier, given string) (name string, err error) {
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

// knowName takes the name of the server from its database and refuses a configuration that names another one. It
// writes nothing; the name stays "" when neither has one.
func (c *Config) knowName(ctx context.Context, d *db.DB) error {
	stored, err := storedName(ctx, d, d, c.Server.Name)
	if err != nil {
		return err
	}
	return c.takeName(stored)
}

func (c *Config) takeName(stored string) error {
	if stored != "" && c.Server.Name != "" && stored != c.Server.Name {
		where := "the database at database.url"
		if c.embedded() {
			where = "the database in " + c.Server.Data
		}
		return fmt.Errorf("server.name: %s is that of the server %s and the configuration says %s: set server.name to %s or leave it out, "+
			"for users and rooms carry it in their ids, or name another database; nothing was changed", where, stored, c.Server.Name, stored)
	}
	c.Server.Name = cmp.Or(stored, c.Server.Name)
	return nil
}

// keepName stores the name of the server in a database that has none. Of several processes that start at once one
// stores its own, and another one that was given another name ends here.
func (c *Config) keepName(ctx context.Context, d *db.DB) error {
	if err := c.knowName(ctx, d); err != nil {
		return err
	}
	stored, err := lease.Once(ctx, d, nameRow, cmp.Or(c.Server.Name, firstName))
	if err != nil {
		return err
	}
	return c.takeName(stored)
}

// ServerName is the name of the server that a configuration describes: the configured one or that of its database.
func ServerName(ctx context.Context, c *Config) (string, error) {
	d, err := openExisting(ctx, c)
	if err != nil {
		return "", err
	}
	defer d.Close()
	err = c.knowName(ctx, d)
	return cmp.Or(c.Server.Name, firstName), err
}

func (c *Config) databaseFile() string { return filepath.Join(c.Server.Data, "lyceum.db") }

// place refuses a data directory in which there can be no such server, before anything is made.
func (c *Config) place(m making) error {
	if !c.embedded() {
		return nil
	}
	if _, err := os.Stat(filepath.Join(c.Server.Data, accessFile)); err == nil {
		if _, err := os.Stat(c.databaseFile()); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is the directory of a fleet that lyceum up made: give --config %s in place of --data",
				c.Server.Data, filepath.Join(c.Server.Data, accessFile))
		}
	}
	if _, err := os.Stat(c.databaseFile()); errors.Is(err, os.ErrNotExist) {
		return c.noServer(m)
	}
	return nil
}

// noServer says that there is no server, or none yet.
func (c *Config) noServer(m making) error {
	where := "in the directory " + c.Server.Data
	if !c.embedded() {
		where = "in the database at database.url"
	}
	switch {
	case m == mustExist:
		return fmt.Errorf("there is no server %s: name the right one with --data, or its database in the configuration", where)
	case m == makeNamed && c.Server.Name == "":
		return fmt.Errorf("there is no server %s: name the right one with --data, or its database in the configuration; or, to make its first user before its first start, "+
			"give the name that the server will have with --server-name NAME: it can not be changed later", where)
	}
	return nil
}

// fresh is what a directory did not have before a process came, to be taken away when its start fails.
type fresh struct{ directories, files []string }

// remember looks at the directories that will be made. It is called before anything is.
func remember(data string) *fresh {
	f := &fresh{}
	for dir := filepath.Clean(data); absent(dir); dir = filepath.Dir(dir) {
		f.directories = append(f.directories, dir)
	}
	return f
}

// rememberFiles looks at what only the holder of the lock of a data directory makes.
func (f *fresh) rememberFiles(data string) {
	for _, name := range []string{"lyceum.db", "lyceum.db-wal", "lyceum.db-shm", "secret", filepath.Join("blobs", "~tmp"), "blobs", "scratch"} {
		if path := filepath.Join(data, name); absent(path) {
			f.files = append(f.files, path)
		}
	}
	if len(f.directories) > 0 {
		f.files = append(f.files, filepath.Join(data, "lock"))
	}
}

func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// undo takes away what was made since. A directory that holds something stays.
func (f *fresh) undo() {
	for _, name := range append(f.files, f.directories...) {
		_ = os.Remove(name) // what is left over harms nobody
	}
}
