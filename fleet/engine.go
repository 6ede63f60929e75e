package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lyceum/platform/disk"
)

// engineFile names the database engine of the server to which a data directory belongs, where the database is not in it. It has the
// word postgres, and neither address nor password.
func engineFile(data string) string { return filepath.Join(data, "engine") }

// overPostgres is what the file says.
const overPostgres = "postgres"

// StoreEngine keeps in a data directory that its server is over PostgreSQL.
func StoreEngine(data string) error {
	if IsOverPostgres(data) {
		return nil
	}
	return disk.WriteFile(engineFile(data), []byte(overPostgres+"\n"), 0o600)
}

// IsOverPostgres reports whether a data directory says that its server is over a PostgreSQL elsewhere.
func IsOverPostgres(data string) bool {
	text, err := os.ReadFile(engineFile(data))
	return err == nil && strings.TrimSpace(string(text)) == overPostgres
}

// checkEngine refuses a data directory of a server over another database engine than the configured one: a server of its own beside
// it would be empty, and share its files and its secret.
func (c *Config) checkEngine() error {
	data := c.Server.Data
	_, err := os.Stat(c.DatabaseFile())
	switch {
	case c.Embedded() && err != nil && IsOverPostgres(data):
		return c.WithoutAddress()
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

// WithoutAddress is the error of a configuration without the address of the PostgreSQL that the data directory belongs to.
func (c *Config) WithoutAddress() error {
	return fmt.Errorf("database.url: %s is the directory of a server over PostgreSQL, and no address is configured: "+
		"give LYCEUM_DATABASE_URL, or database.url in the configuration, as when it was started before, or name another directory with --data",
		c.Server.Data)
}
