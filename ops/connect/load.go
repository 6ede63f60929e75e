package connect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"lyceum/fleet"
	"lyceum/ops/up"
	"lyceum/platform/conf"
	"lyceum/platform/disk"
	"lyceum/platform/engines"
)

// Load is fleet.Load for commands: where the data directory is that of a fleet which lyceum up made, it reads the configuration that
// lyceum up keeps there, so that the command speaks to the fleet.
func Load(s conf.Sources) (*fleet.Config, error) {
	c, err := fleet.Load(s)
	if err != nil || !c.Embedded() || !c.IsUpDirectory() {
		return c, err
	}
	s.File = fleet.AccessFile(c.Server.Data)
	if s.Environ == nil {
		s.Environ = os.Environ()
	}
	own := map[string]bool{"LYCEUM_SERVER_DATA": true, "LYCEUM_SERVER_LISTEN": true}
	environ := []string{} // nil would be the environment of this process
	for _, pair := range s.Environ {
		if name, _, _ := strings.Cut(pair, "="); !own[name] {
			environ = append(environ, pair)
		}
	}
	flags := map[string]string{}
	for key, value := range s.Flags {
		if key != "server.data" && key != "server.listen" {
			flags[key] = value
		}
	}
	s.Environ, s.Flags = environ, flags
	return fleet.Load(s)
}

// fleetDirectory is the data directory of the lyceum up whose configuration for commands this is; "" for any other configuration.
func fleetDirectory(c *fleet.Config) string {
	dir, name := filepath.Split(filepath.Clean(c.Server.Data))
	if dir = filepath.Clean(dir); name != filepath.Base(fleet.CommandsDirectory("")) || disk.Absent(fleet.AccessFile(dir)) {
		return ""
	}
	return dir
}

// UpDirectory is the data directory of the lyceum up that a configuration belongs to: its own, or that of its processes.
func UpDirectory(c *fleet.Config) string {
	if dir := fleetDirectory(c); dir != "" {
		return dir
	}
	return c.Server.Data
}

// stoppedPostgres is the directory of the PostgreSQL that lyceum up started for this fleet and has stopped; "" when it runs or is
// somebody else's.
func stoppedPostgres(c *fleet.Config) (string, error) {
	of := fleetDirectory(c)
	if of == "" {
		return "", nil
	}
	dir := filepath.Join(of, "postgres")
	if disk.Absent(filepath.Join(dir, "data", "PG_VERSION")) {
		return "", nil
	}
	password, err := os.ReadFile(filepath.Join(dir, "password"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if !strings.Contains(c.Database.URL.Reveal(), ":"+strings.TrimSpace(string(password))+"@") {
		return "", nil // lyceum up was given another database later
	}
	text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err == nil {
		first, _, _ := strings.Cut(string(text), "\n")
		pid, err := strconv.Atoi(strings.TrimSpace(first))
		if err == nil && !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return "", nil
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if _, err := up.FindSupervisor(of); err == nil || errors.Is(err, os.ErrPermission) {
		return "", err // it starts PostgreSQL again
	}
	return dir, nil
}

// WithEngines calls fn. When the fleet of a lyceum up is stopped, it starts the PostgreSQL of that fleet for as long, and leaves Redis,
// by which processes tell each other news, out.
func WithEngines(ctx context.Context, c *fleet.Config, fn func() error) (err error) {
	dir, err := stoppedPostgres(c)
	if err != nil {
		return err
	}
	if dir == "" {
		return fn()
	}
	pg, err := engines.StartPostgres(ctx, dir)
	if err != nil {
		return fmt.Errorf("the PostgreSQL of the stopped fleet in %s: %w", fleetDirectory(c), err)
	}
	defer func() { err = errors.Join(err, pg.Stop()) }()
	c.Database.URL = conf.Secret(pg.URL())
	if !disk.Absent(filepath.Join(fleetDirectory(c), "redis")) {
		c.Redis.Addresses = nil
	}
	return fn()
}

// RefuseStopped refuses the configuration of a fleet that is stopped.
func RefuseStopped(c *fleet.Config) error {
	dir, err := stoppedPostgres(c)
	if err == nil && dir != "" {
		err = fmt.Errorf("the fleet in %s is stopped: start it with lyceum up --data %s", fleetDirectory(c), fleetDirectory(c))
	}
	return err
}
