package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// flush is (*os.File).Sync; a test counts its calls.
var flush = (*os.File).Sync

// WriteFile replaces a file atomically: readers see the old file or all of the new one, also after a loss of power. When it returns nil,
// the new one is durable. perm is set on an existing file too. A name that is no regular file, such as a pipe, is written to as it is.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return Write(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Write is WriteFile for what fill writes.
func Write(path string, perm fs.FileMode, fill func(io.Writer) error) (err error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(fill(f), f.Close())
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // the link stays
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // half a file is of no use; the error says what went wrong
		}
	}()
	err = fill(f)
	if err == nil {
		err = errors.Join(f.Chmod(perm), flush(f))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes names in a directory durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(flush(d), d.Close())
}

// Absent reports whether nothing has the name, not even a link.
func Absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
