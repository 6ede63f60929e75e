package fleet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"lyceum/platform/disk"
	"lyceum/platform/role"
)

// Creation says what a process does where there is no server yet.
type Creation int

// What a process may do.
const (
	MayCreate   Creation = iota // make one
	CreateNamed                 // make one when its name is given: it can not be changed later
	MustExist                   // return an error
)

// DatabaseFile is the SQLite database of a server that runs in one process.
func (c *Config) DatabaseFile() string { return filepath.Join(c.Server.Data, "lyceum.db") }

// SecretFile is where the secret of a server is kept that is configured with none.
func (c *Config) SecretFile() string { return filepath.Join(c.Server.Data, "secret") }

// ControlSocket is the socket on which a process answers commands.
func (c *Config) ControlSocket() string { return filepath.Join(c.Server.Data, "control.sock") }

// SupervisorSocket is the socket on which a lyceum up with this data directory answers commands.
func SupervisorSocket(data string) string { return filepath.Join(data, "up.sock") }

// AccessFile is the configuration with which commands reach the fleet of a lyceum up with this data directory.
func AccessFile(data string) string { return filepath.Join(data, "fleet.yaml") }

// CommandsDirectory is the data directory of commands over the fleet of a lyceum up: scratch, and nothing that lasts.
func CommandsDirectory(data string) string { return filepath.Join(data, "commands") }

// ProgramsDirectory holds the binaries of which a lyceum up starts processes.
func ProgramsDirectory(data string) string { return filepath.Join(data, "programs") }

// IsUpDirectory reports whether the data directory is that of a fleet which lyceum up made and which commands can reach.
func (c *Config) IsUpDirectory() bool {
	return disk.Absent(c.DatabaseFile()) && !disk.Absent(AccessFile(c.Server.Data))
}

// HasUpPostgres reports whether the data directory has a PostgreSQL that lyceum up made, or a restore for it.
func (c *Config) HasUpPostgres() bool {
	return !disk.Absent(filepath.Join(c.Server.Data, postgresVersion))
}

// postgresVersion is a file of the PostgreSQL of a lyceum up.
var postgresVersion = filepath.Join("postgres", "data", "PG_VERSION")

// startedByUp are files by which the directory of lyceum up is known before it has written its configuration.
var startedByUp = []string{"up.sock", "programs", postgresVersion}

// checkDirectory refuses a data directory in which there can be no such server, before anything is made.
func (c *Config) checkDirectory(m Creation) error {
	if err := c.checkEngine(); err != nil || !c.Embedded() {
		return err
	}
	if c.IsUpDirectory() {
		return fmt.Errorf("%s is the directory of a fleet that lyceum up made: "+
			"start it with lyceum up --data %s, or name another directory with --data", c.Server.Data, c.Server.Data)
	}
	switch _, err := os.Stat(c.DatabaseFile()); {
	case errors.Is(err, os.ErrPermission):
		return c.ofDatabase(err)
	case errors.Is(err, os.ErrNotExist):
		for _, name := range startedByUp {
			if !disk.Absent(filepath.Join(c.Server.Data, name)) {
				return fmt.Errorf("%s is the directory of a fleet that lyceum up has not brought up yet: "+
					"start it with lyceum up --data %s, or name another directory with --data", c.Server.Data, c.Server.Data)
			}
		}
		for _, f := range foreign {
			if found, err := filepath.Glob(filepath.Join(c.Server.Data, f.pattern)); err == nil && len(found) > 0 {
				return fmt.Errorf("%s is the directory of a %s, which has %s there: name another one with --data",
					c.Server.Data, f.program, filepath.Base(found[0]))
			}
		}
		return c.noServer(m)
	}
	return nil
}

// foreign are files by which the directories of other servers are known.
var foreign = []struct{ pattern, program string }{
	{"PG_VERSION", "PostgreSQL"},
	{"data/PG_VERSION", "PostgreSQL"},
	{"redis.conf", "Redis"},
	{"dump.rdb", "Redis"},
	{"appendonlydir", "Redis"},
}

// noServer is the error that there is no server; nil when one may be created.
func (c *Config) noServer(m Creation) error {
	where := "in the directory " + c.Server.Data
	if !c.Embedded() {
		where = "in the database at database.url"
	}
	switch {
	case m == MustExist:
		return fmt.Errorf("there is no server %s: name the right one with --data, or its database in the configuration", where)
	case m == CreateNamed && c.Server.Name == "":
		return fmt.Errorf("there is no server %s: name the right one with --data, or its database in the configuration; "+
			"or, to make its first user before its first start, give the name that the server will have with --server-name NAME: "+
			"it can not be changed later", where)
	}
	return nil
}

// DataDirectory is the data directory of a process that starts: Close removes what was made in it, unless Keep was called.
type DataDirectory struct {
	config *Config
	made   *created // nil: nothing is removed
	lock   *os.File // held, or nil
}

// OpenDataDirectory makes the data directory if it is not there. It refuses one in which there can be no such server.
func (c *Config) OpenDataDirectory(m Creation) (*DataDirectory, error) {
	if err := c.checkDirectory(m); err != nil {
		return nil, err
	}
	d := &DataDirectory{config: c, made: beforeCreation(c.Server.Data)}
	if err := os.MkdirAll(c.Server.Data, 0o700); err != nil {
		d.Close()
		return nil, c.ofData(err)
	}
	if err := c.tightenDirectory(); err != nil {
		d.Close()
		return nil, c.ofData(err)
	}
	return d, nil
}

// lockWait is how long a command such as lyceum status may use the data directory.
const lockWait = 3 * time.Second

// ErrDataInUse is the error of Lock when another process has the lock.
var ErrDataInUse = errors.New("another process uses the data directory")

// Lock makes this process the only one over the data directory until Close. It waits up to lockWait.
func (d *DataDirectory) Lock() error {
	c := d.config
	f, err := os.OpenFile(filepath.Join(c.Server.Data, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return c.ofData(err)
	}
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			break
		}
		if time.Since(began) > lockWait {
			_ = f.Close() // nothing was written
			return fmt.Errorf("%w %s: stop it, or give this one a directory of its own with --data", ErrDataInUse, c.Server.Data)
		}
	}
	d.lock = f
	if d.made == nil {
		return nil
	}
	if c.Embedded() {
		d.made.addServerFiles(c.Server.Data)
	} else if len(d.made.directories) > 0 {
		d.made.files = append(d.made.files, filepath.Join(c.Server.Data, "lock"))
	}
	return nil
}

// Keep makes Close leave everything that was made.
func (d *DataDirectory) Keep() { d.made = nil }

// Close removes what was made, unless Keep was called, and releases the lock.
func (d *DataDirectory) Close() {
	if d.made != nil {
		d.made.remove()
	}
	if d.lock != nil {
		_ = d.lock.Close()
	}
}

// DataInUse reports whether another process has the lock of the data directory. It waits for its release up to lockWait.
func (c *Config) DataInUse() bool {
	d := &DataDirectory{config: c}
	defer d.Close()
	return d.Lock() != nil
}

// needsLock reports whether the process must be the only one over its data directory. Commands share that of a process over
// PostgreSQL, and lyceum up starts the process that replaces another one in the same directory.
func (c *Config) needsLock() bool {
	if c.Embedded() {
		return true
	}
	return !slices.Contains(c.Fleet.Roles, role.NoRole) && !c.isSupervised()
}

// isSupervised reports whether this is a process of a lyceum up, whose data directory is below that of lyceum up.
func (c *Config) isSupervised() bool {
	return hasSupervisor(filepath.Dir(filepath.Clean(c.Server.Data)))
}

// Supervised is the variable in the environment of a process that lyceum up started.
const Supervised = "SUPERVISED_BY_LYCEUM_UP"

// hasSupervisor reports whether a lyceum up started this process, or, as an older one does not say so, runs over a data directory.
func hasSupervisor(data string) bool {
	if os.Getenv(Supervised) != "" {
		return true
	}
	conn, err := net.Dial("unix", SupervisorSocket(data))
	if err != nil {
		return false
	}
	_ = conn.Close() // it was only to see whether one listens
	return true
}

// created lists directories and files that were not there before a process came: they are removed when its start fails.
type created struct{ directories, files []string }

// beforeCreation notes the directories that are still to be made, and those in them. It is called before anything is made.
func beforeCreation(data string) *created {
	c := &created{}
	for dir := filepath.Clean(data); disk.Absent(dir); dir = filepath.Dir(dir) {
		c.directories = append(c.directories, dir)
	}
	if len(c.directories) > 0 {
		c.add(data, emptyDirectories...)
	}
	return c
}

// NoteCreation notes what is not there yet of a data directory; undo removes what of it was made since and holds nothing.
func NoteCreation(data string) (undo func()) { return beforeCreation(data).remove }

// emptyDirectories are directories of a data directory that hold nothing when a start has failed.
var emptyDirectories = []string{filepath.Join("blobs", "~tmp"), "blobs", "scratch"}

// add notes the names that are not there yet.
func (c *created) add(data string, names ...string) {
	for _, name := range names {
		if path := filepath.Join(data, name); disk.Absent(path) {
			c.files = append(c.files, path)
		}
	}
}

// addServerFiles notes what only the holder of the lock of a data directory makes. The secret that processes share is not among
// it: what is in their database may be sealed with it.
func (c *created) addServerFiles(data string) {
	c.add(data, append([]string{"lyceum.db", "lyceum.db-wal", "lyceum.db-shm", "secret"}, emptyDirectories...)...)
	if len(c.directories) > 0 {
		c.files = append(c.files, filepath.Join(data, "lock"))
	}
}

// remove removes what was made since. A directory that holds something stays.
func (c *created) remove() {
	for _, name := range append(c.files, c.directories...) {
		_ = os.Remove(name) // what is left over harms nobody
	}
}
