package up

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/goccy/go-yaml"

	"lyceum/fleet"
	"lyceum/platform/conf"
	"lyceum/platform/disk"
)

// AccessFile is the configuration with which commands such as lyceum user reach the fleet.
func (u *Supervisor) AccessFile() string { return fleet.AccessFile(u.Config.Server.Data) }

// access is the configuration for commands: that of a process which starts now, but for what each has for itself. A command that
// saw another store or another bus would be wrong about the fleet.
func (u *Supervisor) access() ([]byte, error) {
	flags := map[string]string{"server.data": fleet.CommandsDirectory(u.Config.Server.Data), "server.listen": u.Config.Server.Listen}
	if u.Config.Server.Name != "" {
		flags["server.name"] = u.Config.Server.Name
	}
	c, err := fleet.Load(conf.Sources{File: u.File, Environ: u.environ(), Flags: flags})
	if err != nil {
		return nil, err
	}
	c.Up = u.Config.Up
	c.Fleet = fleet.ProcessConfig{
		Roles: []string{fleet.AllRoles}, MachineID: "auto", Secret: c.Fleet.Secret, Internal: "127.0.0.1:0",
		Revision: c.Fleet.Revision,
	}
	text, err := c.YAML(true)
	return append([]byte("# Written by lyceum up for the commands over its fleet: lyceum status --config THIS.\n"), text...), err
}

// writeAccess writes the configuration of r, which serves, to AccessFile, which only its owner can read, unless that has the
// one of a newer process.
func (u *Supervisor) writeAccess(r *run) error {
	u.accessMu.Lock()
	defer u.accessMu.Unlock()
	if len(r.access) == 0 || r.since.Before(u.accessSince) {
		return nil
	}
	u.accessSince = r.since
	if bytes.Equal(r.access, u.accessText) {
		return nil
	}
	if err := disk.WriteFile(u.AccessFile(), r.access, 0o600); err != nil {
		return fmt.Errorf("%s does not have the configuration of the processes: %w", u.AccessFile(), err)
	}
	u.accessText = r.access
	return nil
}

// MendAccess mends the file that a lyceum up of an older version wrote into its data directory and that named an empty directory
// as the blob store. Its processes use the directory blobs, unless their configuration names a store.
func MendAccess(data string) error {
	data, err := filepath.Abs(data)
	if err != nil {
		return err
	}
	name, blobs := fleet.AccessFile(data), filepath.Join(data, "blobs")
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
	if directory, _ := section["directory"].(string); directory != fleet.CommandsDirectory(data) {
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

// StoreSecret changes the secret of a stopped fleet, in its file and in the configuration for commands.
func StoreSecret(data string, secret []byte) error {
	if err := disk.WriteFile((&fleet.Config{Server: fleet.ServerConfig{Data: data}}).SecretFile(), append(secret, '\n'), 0o600); err != nil {
		return err
	}
	name := fleet.AccessFile(data)
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	section, _ := tree["fleet"].(map[string]any)
	if section == nil {
		section = map[string]any{}
	}
	section["secret"] = string(secret)
	tree["fleet"] = section
	if text, err = yaml.Marshal(tree); err != nil {
		return err
	}
	return disk.WriteFile(name, text, 0o600)
}
