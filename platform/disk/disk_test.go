package disk

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestWriteFileIsDurable(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	var flushed []string
	old := flush
	defer func() { flush = old }()
	flush = func(f *os.File) error {
		// The new content is on the disk before the name is its own, and the name afterwards.
		now, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		kind := "file"
		if info.IsDir() {
			kind = "directory"
		}
		flushed = append(flushed, kind+" with "+string(now))
		return old(f)
	}
	if err := WriteFile(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(flushed, []string{"file with old", "directory with new"}) {
		t.Errorf("flushed %q", flushed)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	broken := errors.New("broken")
	if err := Write(path, 0o600, func(w io.Writer) error { _, _ = w.Write([]byte("half")); return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	flush = func(*os.File) error { return broken }
	if err := WriteFile(path, []byte("newer"), 0o600); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != "new" {
		t.Errorf("%q %v", text, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestWriteFileKeepsLinksAndDevices(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "real"), nil, 0o600), os.Symlink("real", link)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(WriteFile(link, []byte("x"), 0o600), WriteFile(os.DevNull, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link was replaced: %v %v", info, err)
	}
	if info, err := os.Stat(os.DevNull); err != nil || info.Mode().IsRegular() {
		t.Errorf("%v %v", info, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "real")); err != nil || string(text) != "x" {
		t.Errorf("%q %v", text, err)
	}
}
