package fleet_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lyceum/ops/opstest"
	"lyceum/platform/engines/enginestest"
)

// TestADirectoryKeepsItsEngine: without the address of its PostgreSQL, or with one over SQLite, nobody makes a second, empty server in a
// data directory.
func TestADirectoryKeepsItsEngine(t *testing.T) {
	address := "LYCEUM_DATABASE_URL=" + enginestest.TestPostgres(t)
	listen := []string{"--listen", "127.0.0.1:0"}
	backup := filepath.Join(t.TempDir(), "backup")
	refused := func(s *opstest.Site, words ...string) {
		t.Helper()
		for _, args := range [][]string{
			slices.Concat([]string{"serve"}, listen),
			{"user", "add", "zed", "--server-name", "engine.test"},
			{"user", "list"},
			{"token", "list"},
			{"status"},
			{"doctor"},
			{"backup", backup + "2"},
			{"restore", backup, "--replace"},
			{"render", "haproxy", "--live"},
			slices.Concat([]string{"up"}, listen),
		} {
			s.MustFail(t, append([]string{s.Data}, words...), args...)
		}
		opstest.NotCreated(t, backup+"2")
	}
	over := opstest.NewUpSite(t, address).Called("engine.test")
	over.MustRun(t, "user", "add", "alice") // a command is enough
	over.Called("")
	over.Process(t, over.Data)
	over.MustRun(t, "backup", backup)
	over.Stop()
	without := over.Without(address)
	refused(without, "LYCEUM_DATABASE_URL", "--data")
	if found, err := filepath.Glob(filepath.Join(over.Data, "*.db*")); err != nil || len(found) > 0 {
		t.Errorf("made %v, %v", found, err)
	}
	if text, err := os.ReadFile(filepath.Join(over.Data, "engine")); err != nil || string(text) != "postgres\nengine.test\n" {
		t.Errorf("the directory says %q, %v", text, err)
	}
	over.Process(t, over.Data)
	over.MustRun(t, "user", "token", "alice")
	over.Stop()
	another := *over // one wrong word in the address
	another.Environ = append(slices.Clone(without.Environ), "LYCEUM_DATABASE_URL="+enginestest.TestPostgres(t))
	for _, args := range [][]string{
		slices.Concat([]string{"serve"}, listen), {"user", "add", "zed", "--server-name", "engine.test"}, slices.Concat([]string{"up"}, listen),
	} {
		another.MustFail(t, []string{over.Data, "server engine.test", "is empty", "LYCEUM_DATABASE_URL"}, args...)
	}
	third := opstest.NewUpSite(t, another.Environ[len(another.Environ)-1]).Called("other.test")
	third.MustRun(t, "user", "add", "carol")
	another.MustFail(t, []string{over.Data, "server engine.test", "that of the server other.test"}, "user", "list")

	sqlite := opstest.NewUpSite(t).Called("engine.test")
	sqlite.MustRun(t, "user", "add", "bob")
	with := *sqlite
	with.Environ = append(slices.Clone(sqlite.Environ), address)
	refused(&with, "lyceum.db", "lyceum backup", "lyceum restore")
	sqlite.MustRun(t, "user", "token", "bob")
}

// TestAServerWithoutANameSaysSo once, and how to begin again; a name in capitals is refused before it is kept.
func TestAServerWithoutANameSaysSo(t *testing.T) {
	s := opstest.NewUpSite(t)
	s.MustFail(t, []string{"server.name", "give chem.uni.test"}, "serve", "--server-name", "Chem.Uni.Test", "--listen", "127.0.0.1:0")
	opstest.NotCreated(t, s.Data)
	s.MustFail(t, []string{"server.name", "give chem.uni.test"}, "up", "--server-name", "Chem.Uni.Test", "--listen", "127.0.0.1:0")
	opstest.NotCreated(t, s.Data)
	for _, says := range []bool{true, false} {
		log := s.ServeFor(t)
		if n := strings.Count(log, "no server name was given"); n > 1 || (n == 1) != says {
			t.Errorf("expected that it is said: %t, found\n%s", says, log)
		}
		for _, want := range []string{"called localhost", "can not be changed later", "remove " + s.Data, "--server-name NAME"} {
			if says && !strings.Contains(log, want) {
				t.Errorf("expected %q, found\n%s", want, log)
			}
		}
	}
}
