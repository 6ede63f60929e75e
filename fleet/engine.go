package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lyceum/platform/disk"
)

// engineFile names the database engine of the server to which a data directory belongs, where the database is not in it: the word
// postgres, and on a second line the server's name. It has neither address nor password.
func engineFile(data string) string { return filepath.Join(data, "engine") }

// overPostgres is the first line of the file.
const overPostgres = "postgres"

// StoreEngine keeps in a data directory that its server is over PostgreSQL, and the name of that server.
func StoreEngine(data, name string) error {
	if IsOverPostgres(data) && ServerOf(data) == name {
		return nil
	}
	return disk.WriteFile(engineFile(data), []byte(overPostgres+"\n"+name+"\n"), 0o600)
}

// IsOverPostgres reports whether a data directory says that its server is over a PostgreSQL elsewhere.
func IsOverPostgres(data string) bool {
	engine, _ := readEngine(data)
	return engine == overPostgres
}

// ServerOf is the name of the server that a data directory belongs to, "" where it does not say.
func ServerOf(data string) string {
	_, name := readEngine(data)
	return name
}

func readEngine(data string) (engine, name string) {
	text, err := os.ReadFile(engineFile(data))
	if err != nil {
		return "", ""
	}
	engine, name, _ = strings.Cut(string(text), "\n")
	return strings.TrimSpace(engine), strings.TrimSpace(name)
}

// checkServer refuses a database of another server than the one that the data directory belongs to; stored is the name in the
// database, "" when it is empty.
func (c *Config) checkServer(stored string) error {
	kept := ServerOf(c.Server.Data)
	if c.Embedded() || kept == "" || kept == stored || c.isSupervised() {
		return nil
	}
	what := "that of the server " + stored
	if stored == "" {
		what = "empty"
	}
	return fmt.Errorf("database.url: %s is the directory of the server %s, and the database at database.url is %s: correct the address "+
		"(LYCEUM_DATABASE_URL), or name another directory with --data; if the database was lost: lyceum restore FILE --data %s; "+
		"nothing was changed", c.Server.Data, kept, what, c.Server.Data)
}

// checkEngine refuses a data directory of a server over another database engine than the configured one: a server of its own beside
// it would be empty, and share its files and its secret.
func (c *Config) checkEngine() error {
	data := c.Server.Data
	_, err := os.Stat(c.DatabaseFile())
	below := ""
	if c.Embedded() && err != nil && !c.IsUpDirectory() && !c.HasUpPostgres() {
		below = fleetBelow(data)
	}
	switch {
	case c.Embedded() && err != nil && IsOverPostgres(data):
		return c.WithoutAddress()
	case below != "":
		return fmt.Errorf("database.url: %s has %s, the directory of a process of a fleet over PostgreSQL, and no address is configured: give "+
			"LYCEUM_DATABASE_URL, or database.url in the configuration, as that process has it, or name another directory with --data",
			data, below)
	case !c.Embedded() && err == nil:
		return fmt.Errorf("database.url: %s is the directory of a server over SQLite, whose database is %s: remove database.url "+
			"(or LYCEUM_DATABASE_URL), or name another directory with --data; to move the server to PostgreSQL: without database.url "+
			"lyceum backup FILE --data %s, then with it lyceum restore FILE --data ANOTHER; "+
			"if it was moved before, take %s out of %s", data, filepath.Base(c.DatabaseFile()), data, filepath.Base(c.DatabaseFile()), data)
	case !c.Embedded() && errors.Is(err, os.ErrPermission):
		return c.ofData(err)
	}
	return nil
}

// checkAbove refuses to make a server over PostgreSQL in a directory within that of a server over SQLite. One that was made before, as by
// a restore, is not asked.
func (c *Config) checkAbove() error {
	data := filepath.Clean(c.Server.Data)
	above := filepath.Join(filepath.Dir(data), filepath.Base(c.DatabaseFile()))
	if c.Embedded() || c.isSupervised() || !isFile(above) {
		return nil
	}
	return fmt.Errorf("database.url: %s is in the directory of a server over SQLite, whose database is %s, and the database at database.url "+
		"is empty: name another directory with --data; to move that server to PostgreSQL: stop it, lyceum backup FILE --data %s, "+
		"then with database.url lyceum restore FILE --data %s; if it was moved before, take %s away",
		data, above, filepath.Dir(above), data, above)
}

// fleetBelow is a directory in data that belongs to a process of a fleet over PostgreSQL, as units of systemd have it; "" for none.
func fleetBelow(data string) string {
	found, _ := filepath.Glob(engineFile(filepath.Join(data, "*"))) // the pattern is right
	for _, path := range found {
		if below := filepath.Dir(path); IsOverPostgres(below) {
			return below
		}
	}
	return ""
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// WithoutAddress is the error of a configuration without the address of the PostgreSQL that the data directory belongs to.
func (c *Config) WithoutAddress() error {
	return fmt.Errorf("database.url: %s is the directory of a server over PostgreSQL, and no address is configured: "+
		"give LYCEUM_DATABASE_URL, or database.url in the configuration, as when it was started before, or name another directory with --data",
		c.Server.Data)
}
