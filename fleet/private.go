package fleet

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lyceum/platform/disk"
)

// containerSecrets is where containers have their secrets: who may read them is up to the one who runs them.
const containerSecrets = "/run/secrets/"

// ReadableSecrets are the files with secrets that others than their owner and its group may read: those that the configuration names,
// the configuration itself where it holds some, and what the data directory has.
func (c *Config) ReadableSecrets() (out []string) {
	files := slices.Concat(c.secretFiles, []string{c.SecretFile(), c.DatabaseFile(), AccessFile(c.Server.Data)})
	if of := filepath.Dir(filepath.Clean(c.Server.Data)); !disk.Absent(AccessFile(of)) { // a command, or a process of lyceum up
		files = append(files, filepath.Join(of, filepath.Base(c.SecretFile())), AccessFile(of))
	}
	for _, path := range files {
		info, err := os.Stat(path)
		if abs, e := filepath.Abs(path); e == nil {
			path = abs
		}
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o004 != 0 && !strings.HasPrefix(path, containerSecrets) &&
			!slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	return out
}

// OpenDirectory is the data directory when others may look into it, though only this server needs it; "" otherwise.
func (c *Config) OpenDirectory() string {
	if !c.Embedded() { // a PostgreSQL of lyceum up may be somebody else's there
		return ""
	}
	info, err := os.Stat(c.Server.Data)
	if err != nil || info.Mode().Perm()&0o005 == 0 {
		return ""
	}
	return c.Server.Data
}

// tightenDirectory takes the permission of others away from a data directory that is empty. One in use stays as it is.
func (c *Config) tightenDirectory() error {
	if c.OpenDirectory() == "" {
		return nil
	}
	if found, err := os.ReadDir(c.Server.Data); err != nil || len(found) > 0 {
		return err
	}
	return os.Chmod(c.Server.Data, 0o700)
}

// Exposed says what others may read, with the remedy.
func (c *Config) Exposed() (out []string) {
	for _, file := range c.ReadableSecrets() {
		out = append(out, fmt.Sprintf("others may read %s, which holds secrets: chmod o= %s", file, file))
	}
	if dir := c.OpenDirectory(); dir != "" {
		out = append(out, fmt.Sprintf("others may look into the data directory %s: chmod 700 %s", dir, dir))
	}
	return out
}
