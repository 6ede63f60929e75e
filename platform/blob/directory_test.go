package blob

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFilesOfDeadProcessesAreRemoved: at the start, and with what is stored later.
func TestFilesOfDeadProcessesAreRemoved(t *testing.T) {
	root := t.TempDir()
	write := func(name string, age time.Duration) {
		t.Helper()
		path, at := filepath.Join(root, tempDir, name), time.Now().Add(-age)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	there := func(name string) bool {
		_, err := os.Stat(filepath.Join(root, tempDir, name))
		return !errors.Is(err, fs.ErrNotExist)
	}
	write("put-dead", 2*time.Hour)
	write("put-alive", 50*time.Minute)
	d, err := OpenDirectory(root)
	if err != nil {
		t.Fatal(err)
	}
	if there("put-dead") || !there("put-alive") {
		t.Errorf("after the start: dead %v, alive %v", there("put-dead"), there("put-alive"))
	}
	put := func() {
		t.Helper()
		if _, err := d.Put(t.Context(), "media/a", strings.NewReader("a"), 1); err != nil {
			t.Fatal(err)
		}
	}
	d.now = func() time.Time { return time.Now().Add(59 * time.Minute) }
	put()
	if !there("put-alive") {
		t.Error("the directory was looked at within the hour")
	}
	d.now = func() time.Time { return time.Now().Add(61 * time.Minute) }
	write("put-new", -30*time.Minute)
	put()
	if there("put-alive") || !there("put-new") {
		t.Errorf("an hour later: alive %v, new %v", there("put-alive"), there("put-new"))
	}
}
