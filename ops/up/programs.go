package up

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"lyceum/fleet"
	"lyceum/platform/disk"
)

// keepProgram copies a binary into the data directory and returns the path of the copy, which has a hash of its content in the
// name: whatever is written in its place, of whatever version, processes are made of this one until somebody says otherwise.
func keepProgram(data, program string) (string, error) {
	data, err := filepath.Abs(data)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(fleet.ProgramsDirectory(data), 0o755); err != nil {
		return "", err
	}
	from, err := os.Open(program)
	if err != nil {
		return "", err
	}
	defer from.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, from); err != nil {
		return "", err
	}
	path := filepath.Join(fleet.ProgramsDirectory(data), "lyceum-"+hex.EncodeToString(hash.Sum(nil)[:8]))
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	copied := sha256.New()
	return path, disk.Write(path, 0o755, func(to io.Writer) error {
		if _, err := io.Copy(io.MultiWriter(to, copied), from); err != nil {
			return err
		}
		if string(copied.Sum(nil)) != string(hash.Sum(nil)) {
			return fmt.Errorf("%s was changed while it was copied: try again", program)
		}
		return nil
	})
}

// keepProgram makes all processes of a copy of the program, so that an upgrade in its place waits for a rollout.
func (u *Supervisor) keepProgram() (err error) {
	if u.Program, err = keepProgram(u.Config.Server.Data, u.Program); err != nil {
		return err
	}
	return forgetPrograms(u.Config.Server.Data, []string{u.Program})
}

// forgetPrograms removes all copies but those to keep.
func forgetPrograms(data string, keep []string) error {
	data, err := filepath.Abs(data)
	if err != nil {
		return err
	}
	kept, err := filepath.Glob(filepath.Join(fleet.ProgramsDirectory(data), "lyceum-*"))
	for _, name := range kept {
		if !slices.Contains(keep, name) {
			err = errors.Join(err, os.Remove(name))
		}
	}
	return err
}
