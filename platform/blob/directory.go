package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Directory keeps blobs as files below one directory.
//
// Each part of a key is a directory, and the last a file whose name ends in "~f". Two levels of folders named
// after the first bytes of a part ("ab~") keep folders small: media/abcdef is me~/di~/media/ab~/cd~/abcdef~f.
// "~" is not allowed in keys, so no key meets these names, and sorting folders sorts keys.
type Directory struct {
	root  string
	now   func() time.Time
	swept atomic.Int64 // when temporary files were looked at, in Unix seconds
}

var _ Store = (*Directory)(nil)

const (
	fileMark   = "~f"
	shardMark  = "~"
	tempDir    = "~tmp"
	shardWidth = 2
	shardDepth = 2
	// A temporary file to which nothing was written for this long belongs to a process that died. Several processes may
	// share the directory.
	staleAfter = time.Hour
)

// OpenDirectory opens the store in root and makes the directory when it is missing.
func OpenDirectory(root string) (*Directory, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	temp := filepath.Join(root, tempDir)
	if err := os.MkdirAll(temp, 0o700); err != nil {
		return nil, fmt.Errorf("open the blob directory: %w", err)
	}
	d := &Directory{root: root, now: time.Now}
	if err := d.sweep(); err != nil {
		return nil, fmt.Errorf("open the blob directory: %w", err)
	}
	return d, nil
}

// sweep removes the temporary files of processes that died, at most once in staleAfter.
func (d *Directory) sweep() error {
	now, last := d.now(), d.swept.Load()
	if now.Unix()-last < int64(staleAfter.Seconds()) || !d.swept.CompareAndSwap(last, now.Unix()) {
		return nil
	}
	temp := filepath.Join(d.root, tempDir)
	entries, err := os.ReadDir(temp)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && now.Sub(info.ModTime()) > staleAfter {
			os.Remove(filepath.Join(temp, entry.Name()))
		}
	}
	return nil
}

// path returns where a key is kept.
func (d *Directory) path(key string) string {
	parts := strings.Split(key, "/")
	path := []string{d.root}
	for i, part := range parts {
		rest := part
		for range shardDepth {
			if len(rest) < shardWidth {
				break
			}
			path = append(path, rest[:shardWidth]+shardMark)
			rest = rest[shardWidth:]
		}
		if i == len(parts)-1 {
			part += fileMark
		}
		path = append(path, part)
	}
	return filepath.Join(path...)
}

// Put implements Store.
func (d *Directory) Put(ctx context.Context, key string, r io.Reader, size int64) (int64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	temp, n, err := d.writeTemp(&exactly{r: UntilDone(ctx, r), size: size})
	if err != nil {
		return 0, err
	}
	return n, d.place(temp, key)
}

func (d *Directory) putContent(_ context.Context, prefix string, r *contentReader) (string, int64, error) {
	temp, n, err := d.writeTemp(r)
	if err != nil {
		return "", 0, err
	}
	hash, key := r.sum(), prefix+r.sum()
	if err := checkKey(key); err != nil {
		os.Remove(temp)
		return "", 0, err
	}
	if info, err := os.Stat(d.path(key)); err == nil && info.Size() == n {
		return hash, n, os.Remove(temp)
	}
	return hash, n, d.place(temp, key)
}

// writeTemp writes a file that is on the disk when it returns.
func (d *Directory) writeTemp(r io.Reader) (name string, n int64, err error) {
	if err := d.sweep(); err != nil {
		return "", 0, err
	}
	temp, err := os.CreateTemp(filepath.Join(d.root, tempDir), "put-")
	if err != nil {
		return "", 0, err
	}
	n, err = io.Copy(temp, r)
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		os.Remove(temp.Name())
		return "", 0, full(err)
	}
	return temp.Name(), n, nil
}

// place renames a temporary file to its key and makes the name durable.
func (d *Directory) place(temp, key string) error {
	path := d.path(key)
	dir := filepath.Dir(path)
	err := os.Rename(temp, path)
	made := false
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o700); err == nil {
			made = true
			err = os.Rename(temp, path)
		}
	}
	if err != nil {
		os.Remove(temp)
		return err
	}
	for ; ; dir = filepath.Dir(dir) {
		if err := syncDir(dir); err != nil {
			return err
		}
		// The names of new folders stand in the folders above them.
		if !made || dir == d.root {
			return nil
		}
	}
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Get implements Store.
func (d *Directory) Get(_ context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := errors.Join(checkKey(key), checkRange(offset, length)); err != nil {
		return nil, err
	}
	f, err := os.Open(d.path(key))
	if err != nil {
		return nil, notFound(err, key)
	}
	if length < 0 && offset == 0 {
		return f, nil // a plain file lets the kernel copy it to a socket
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	if length < 0 {
		return f, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, length), f}, nil
}

func notFound(err error, key string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	return err
}

// Stat implements Store.
func (d *Directory) Stat(_ context.Context, key string) (Info, error) {
	if err := checkKey(key); err != nil {
		return Info{}, err
	}
	info, err := os.Stat(d.path(key))
	if err != nil {
		return Info{}, notFound(err, key)
	}
	return Info{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil
}

// Delete implements Store. Empty folders stay: another process may be about to use them.
func (d *Directory) Delete(_ context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	path := d.path(key)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// Presign implements Store: a directory has no server of its own.
func (d *Directory) Presign(context.Context, string, time.Duration) (string, error) {
	return "", ErrUnsupported
}

// List implements Store.
func (d *Directory) List(ctx context.Context, prefix, after string, limit int) ([]Info, error) {
	if limit <= 0 {
		return nil, nil
	}
	l := &lister{ctx: ctx, prefix: prefix, after: after, limit: limit}
	if err := l.folder(d.root, "", ""); err != nil {
		return nil, err
	}
	return l.found, nil
}

// lister walks the folders in the order of keys and enters only those that may hold wanted keys.
type lister struct {
	ctx           context.Context
	prefix, after string
	limit         int
	found         []Info
}

// item is an entry of a folder. All keys below it begin with key; a file's key is key itself.
type item struct {
	name, key  string
	file       bool
	above      string // the key that ends in "/" of the part this entry belongs to
	shardSoFar string
}

// folder lists one folder. above is the key of the parts before, with a slash; shard is the beginning of
// the next part that the folders so far have spelt.
func (l *lister) folder(path, above, shard string) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	items := make([]item, 0, len(entries))
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case name == tempDir:
		case strings.HasSuffix(name, fileMark):
			items = append(items, item{name: name, key: above + strings.TrimSuffix(name, fileMark), file: true})
		case strings.HasSuffix(name, shardMark):
			spelt := shard + strings.TrimSuffix(name, shardMark)
			items = append(items, item{name: name, key: above + spelt, above: above, shardSoFar: spelt})
		default:
			items = append(items, item{name: name, key: above + name + "/", above: above + name + "/"})
		}
	}
	// Within a folder no folder's key is the beginning of another entry's key, except that of a file "ab"
	// before "ab/": so the order of these keys is the order of all keys below.
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	for _, it := range items {
		if len(l.found) >= l.limit {
			return nil
		}
		if !l.wanted(it) {
			continue
		}
		if !it.file {
			if err := l.folder(filepath.Join(path, it.name), it.above, it.shardSoFar); err != nil {
				return err
			}
			continue
		}
		info, err := os.Stat(filepath.Join(path, it.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		l.found = append(l.found, Info{Key: it.key, Size: info.Size(), Modified: info.ModTime()})
	}
	return nil
}

func (l *lister) wanted(it item) bool {
	if it.file {
		return strings.HasPrefix(it.key, l.prefix) && it.key > l.after
	}
	if !strings.HasPrefix(it.key, l.prefix) && !strings.HasPrefix(l.prefix, it.key) {
		return false
	}
	return it.key > l.after || strings.HasPrefix(l.after, it.key)
}
