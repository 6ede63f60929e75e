package db_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lyceum/platform/db"
)

// A log that a reader kept from being emptied is long, and its index is short after the next start. The index has to grow when
// the log is written anew, which needs room where the rest does not.
func TestADiskWithoutRoomForTheIndexOfTheLogIsFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("this machine mounts no small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	ctx := t.Context()
	open := func(file string) *db.DB {
		d, err := db.Open(ctx, "sqlite:"+file, db.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	text := strings.Repeat("x", 3000)
	write := func(d *db.DB) error {
		_, err := d.Exec(ctx, "INSERT INTO texts (body) VALUES ($1)", text)
		return err
	}
	file := filepath.Join(t.TempDir(), "data.db")
	before := open(file)
	if _, err := before.Exec(ctx, "CREATE TABLE texts (body TEXT)"); err != nil {
		t.Fatal(err)
	}
	rows, err := before.Query(ctx, "SELECT name FROM sqlite_schema UNION ALL SELECT body FROM texts")
	if err != nil || !rows.Next() {
		t.Fatal("no row", err)
	}
	const index = 4062 * 4120 // bytes of log that the first 32 KiB of the index describe
	for long := false; !long; {
		if err := write(before); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file + "-wal")
		long = err == nil && info.Size() > index+1<<20
	}
	if err := rows.Close(); err != nil {
		t.Fatal(err)
	}
	for range 4 { // the log begins anew
		if err := write(before); err != nil {
			t.Fatal(err)
		}
	}
	killed := filepath.Join(disk, "data.db") // what a process leaves that is killed now
	for _, end := range []string{"", "-wal"} {
		data, err := os.ReadFile(file + end)
		if err == nil {
			err = os.WriteFile(killed+end, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	d := open(killed)
	if err := write(d); err != nil {
		t.Fatal(err)
	}
	plug := filepath.Join(disk, "plug")
	f, err := os.Create(plug)
	if err == nil {
		for zeros := make([]byte, 4096); err == nil; {
			_, err = f.Write(zeros)
		}
		_ = f.Close()
	}
	written := 0
	for ; written < 10_000; written++ {
		if err = write(d); err != nil {
			break
		}
	}
	if written == 0 || !db.IsFull(err) {
		t.Errorf("%d rows fit, then: %v", written, err)
	}
	if err := os.Remove(plug); err != nil {
		t.Fatal(err)
	}
	if err := write(d); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
