package fleet

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoServerInTheDirectoryOfAnother: nothing is made in the directories of PostgreSQL and Redis.
func TestNoServerInTheDirectoryOfAnother(t *testing.T) {
	for _, name := range []string{"PG_VERSION", "data/PG_VERSION", "redis.conf", "dump.rdb"} {
		dir := t.TempDir()
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		c := &Config{Server: ServerConfig{Data: dir}}
		if err := c.checkDirectory(MayCreate); err == nil || !strings.Contains(err.Error(), "name another one with --data") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestADirectoryOfLyceumUpIsCalledSo, though a command over its stopped fleet has left a directory of a process in it.
func TestADirectoryOfLyceumUpIsCalledSo(t *testing.T) {
	for name, want := range map[string]string{
		"other": "LYCEUM_DATABASE_URL", "fleet.yaml": "lyceum up --data", postgresVersion: "lyceum up --data",
	} {
		dir := t.TempDir()
		commands, file := CommandsDirectory(dir), filepath.Join(dir, name)
		err := errors.Join(os.MkdirAll(commands, 0o700), os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0o600),
			StoreEngine(commands, "up.test"))
		if err != nil {
			t.Fatal(err)
		}
		c := &Config{Server: ServerConfig{Data: dir}}
		if err := c.checkDirectory(MayCreate); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: expected %q, found %v", name, want, err)
		}
	}
}
