package fleet

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"lyceum/platform/conf"
	"lyceum/platform/disk"
)

// accessFile is the name of the configuration for commands in the data directory of lyceum up.
const accessFile = "fleet.yaml"

// AccessFile is the configuration with which commands such as lyceum user reach the fleet.
func (u *Up) AccessFile() string { return filepath.Join(u.Config.Server.Data, accessFile) }

// commandsDir is the data directory of commands: scratch, and nothing that lasts.
func commandsDir(data string) string { return filepath.Join(data, "commands") }

// writeAccess writes AccessFile, which only its owner can read. It is the configuration of the processes but for what each has
// for itself: a command that saw another store or another bus would be wrong about the fleet.
func (u *Up) writeAccess() error {
	c := *u.Config
	c.Server.Data = commandsDir(c.Server.Data)
	secret := c.Fleet.Secret
	if secret.Reveal() == "" {
		text, err := os.ReadFile(u.secretFile())
		if err != nil {
			return err
		}
		secret = conf.Secret(strings.TrimSpace(string(text)))
	}
	c.Fleet = ProcessConfig{Roles: []string{allRoles}, MachineID: "auto", Secret: secret, Internal: "127.0.0.1:0", Revision: c.Fleet.Revision}
	text, err := c.file(true)
	if err != nil {
		return err
	}
	return disk.WriteFile(u.AccessFile(), append([]byte("# Written by lyceum up for the commands over its fleet: lyceum status --config THIS.\n"), text...), 0o600)
}

// MendAccess mends the file that a lyceum up of an older version wrote into its data directory and that named an empty directory
// as the blob store. Its processes use the directory blobs, unless their configuration names a store.
func MendAccess(data string) error {
	data, err := filepath.Abs(data)
	if err != nil {
		return err
	}
	name, blobs := filepath.Join(data, accessFile), filepath.Join(data, "blobs")
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var tree map[string]any
	if json.Unmarshal(text, &tree) != nil {
		return nil // not of such a version
	}
	section, _ := tree["blob"].(map[string]any)
	if directory, _ := section["directory"].(string); directory != commandsDir(data) {
		return nil
	}
	if info, err := os.Stat(blobs); err != nil || !info.IsDir() {
		return nil
	}
	tree["blob"] = map[string]any{"directory": blobs, "directory_shared": true}
	if text, err = json.MarshalIndent(tree, "", "  "); err != nil {
		return err
	}
	return disk.WriteFile(name, append(text, '\n'), 0o600)
}
