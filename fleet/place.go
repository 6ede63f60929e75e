package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// making says what a process does where there is no server yet.
type making int

const (
	mayMake   making = iota // make one
	makeNamed               // make one when its name is given: it can not be changed later
	mustExist               // say so
)

func (c *Config) databaseFile() string { return filepath.Join(c.Server.Data, "lyceum.db") }

// place refuses a data directory in which there can be no such server, before anything is made.
func (c *Config) place(m making) error {
	if !c.embedded() {
		return nil
	}
	if c.ofFleet() {
		return fmt.Errorf("%s is the directory of a fleet that lyceum up made: start it with lyceum up --data %s, or name another directory with --data",
			c.Server.Data, c.Server.Data)
	}
	switch _, err := os.Stat(c.databaseFile()); {
	case errors.Is(err, os.ErrPermission):
		return c.ofDatabase(err)
	case errors.Is(err, os.ErrNotExist):
		for _, name := range startedByUp {
			if !absent(filepath.Join(c.Server.Data, name)) {
				return fmt.Errorf("%s is the directory of a fleet that lyceum up has not brought up yet: start it with lyceum up --data %s, or name another directory with --data",
					c.Server.Data, c.Server.Data)
			}
		}
		for _, f := range foreign {
			if found, err := filepath.Glob(filepath.Join(c.Server.Data, f.pattern)); err == nil && len(found) > 0 {
				return fmt.Errorf("%s is the directory of a %s, which has %s there: name another one with --data", c.Server.Data, f.program, filepath.Base(found[0]))
			}
		}
		return c.noServer(m)
	}
	return nil
}

// foreign are files by which the directories of other servers are known.
var foreign = []struct{ pattern, program string }{
	{"PG_VERSION", "PostgreSQL"}, {"data/PG_VERSION", "PostgreSQL"}, {"redis.conf", "Redis"}, {"dump.rdb", "Redis"}, {"appendonlydir", "Redis"},
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

// remember looks at the directories that will be made, and at those in them. It is called before anything is.
func remember(data string) *fresh {
	f := &fresh{}
	for dir := filepath.Clean(data); absent(dir); dir = filepath.Dir(dir) {
		f.directories = append(f.directories, dir)
	}
	if len(f.directories) > 0 {
		f.note(data, emptied...)
	}
	return f
}

// emptied are directories of a data directory that hold nothing when a start has failed.
var emptied = []string{filepath.Join("blobs", "~tmp"), "blobs", "scratch"}

// note looks at names that are not there yet.
func (f *fresh) note(data string, names ...string) {
	for _, name := range names {
		if path := filepath.Join(data, name); absent(path) {
			f.files = append(f.files, path)
		}
	}
}

// rememberFiles looks at what only the holder of the lock of a data directory makes. The secret of a fleet is not among it: what is in
// its database may be sealed with it.
func (f *fresh) rememberFiles(data string) {
	f.note(data, append([]string{"lyceum.db", "lyceum.db-wal", "lyceum.db-shm", "secret"}, emptied...)...)
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
