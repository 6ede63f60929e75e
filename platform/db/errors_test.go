package db_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
)

// TestAServerThatRefusesConnectionsIsAway, whatever it says.
func TestAServerThatRefusesConnectionsIsAway(t *testing.T) {
	at, options, _ := strings.Cut(enginestest.TestPostgres(t), "?")
	d, err := db.Open(t.Context(), at[:strings.LastIndexByte(at, '/')+1]+"no_such_database?"+options, db.Options{})
	if err == nil {
		_ = d.Close()
		t.Fatal("a database was opened that is not there")
	}
	if !strings.Contains(err.Error(), "3D000") || !db.IsUnavailable(err) || db.IsFull(err) {
		t.Errorf("%v: away %v, full %v", err, db.IsUnavailable(err), db.IsFull(err))
	}
}

// TestAFileThatCanNotBeWrittenIsTemporary: the limit of the process may be raised, the disk may come back.
func TestAFileThatCanNotBeWrittenIsTemporary(t *testing.T) {
	const variable = "LYCEUM_TEST_LIMITED_FILE"
	file := os.Getenv(variable)
	if file == "" {
		child := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -f 500; exec "$0" -test.run='^TestAFileThatCanNotBeWrittenIsTemporary$'`, os.Args[0])
		child.Env = append(os.Environ(), variable+"="+filepath.Join(t.TempDir(), "data.db"))
		if said, err := child.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, said)
		}
		return
	}
	d, err := db.Open(t.Context(), "sqlite:"+file, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Exec(t.Context(), "CREATE TABLE texts (body TEXT)"); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if _, err = d.Exec(t.Context(), "INSERT INTO texts (body) VALUES ($1)", strings.Repeat("x", 3000)); err != nil {
			break
		}
	}
	if err == nil || !db.IsTemporary(err) && !db.IsFull(err) {
		t.Errorf("a file at its limit: %v", err)
	}
}
