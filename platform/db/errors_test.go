package db_test

import (
	"fmt"
	"net/url"
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
		child := exec.CommandContext(t.Context(), "sh", "-c",
			`ulimit -f 500; exec "$0" -test.run='^TestAFileThatCanNotBeWrittenIsTemporary$'`, os.Args[0])
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

// TestCausesAreSaidOnce: the driver tries with TLS and without, and tells of both.
func TestCausesAreSaidOnce(t *testing.T) {
	place, err := url.Parse(enginestest.TestPostgres(t))
	if err != nil {
		t.Fatal(err)
	}
	user := place.User
	place.RawQuery = "" // which allows TLS
	for want, change := range map[string]func(){
		"connection refused":             func() { place.Host = "127.0.0.1:1" },
		"password authentication failed": func() { place.User = url.UserPassword("nobody", "geheim") },
		"server refused TLS connection":  func() { place.RawQuery = "sslmode=require" },
	} {
		host := place.Host
		change()
		_, err := db.Open(t.Context(), place.String(), db.Options{})
		text := fmt.Sprint(err)
		if strings.Count(text, want) != 1 || strings.Contains(text, "\n") || strings.Contains(text, "geheim") ||
			strings.Contains(text, "TLS") != strings.Contains(want, "TLS") {
			t.Errorf("expected one line with %q, found %v", want, err)
		}
		if !db.IsUnavailable(err) {
			t.Errorf("it is not known as a database that can not be reached: %v", err)
		}
		place.Host, place.User, place.RawQuery = host, user, ""
	}
}

// TestAnErrorOfAFileIsNoDatabaseThatIsAway, though its cause looks like one of the network.
func TestAnErrorOfAFileIsNoDatabaseThatIsAway(t *testing.T) {
	dir := t.TempDir()
	_, err := os.ReadFile(dir)
	for _, err := range []error{err, os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b"))} {
		if err == nil || db.IsAway(fmt.Errorf("the secret: %w", err)) {
			t.Errorf("%v counts as a database that is away", err)
		}
	}
}
