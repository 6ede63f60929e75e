package up_test

import (
	"os"
	"path/filepath"
	"testing"

	"lyceum/ops/opstest"
	"lyceum/platform/engines/enginestest"
)

func TestMain(m *testing.M) { os.Exit(opstest.Main(m)) }

// TestUpOverGivenEnginesMakesItsSecret, once, and never another in the place of one that is lost.
func TestUpOverGivenEnginesMakesItsSecret(t *testing.T) {
	s := opstest.NewUpSite(t, "LYCEUM_DATABASE_URL="+enginestest.TestPostgres(t), "LYCEUM_REDIS_ADDRESSES="+enginestest.TestRedis(t),
		"LYCEUM_REDIS_PREFIX="+enginestest.Unique())
	s.Up(t, "--server-name", "given.test")
	s.MustRun(t, "user", "add", "alice")
	s.MustFail(t, []string{"connections to PostgreSQL, and it takes", "raise max_connections"}, "scale", "all=100")
	s.Stop()
	secret := filepath.Join(s.Data, "secret")
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret: %v %v", info, err)
	}
	if err := os.Rename(secret, secret+".kept"); err != nil {
		t.Fatal(err)
	}
	s.MustFail(t, []string{"fleet.secret", "put that file back", secret}, "up", "--listen", "127.0.0.1:0")
	if err := os.Rename(secret+".kept", secret); err != nil {
		t.Fatal(err)
	}
	s.Up(t)
	s.MustRun(t, "user", "token", "alice")
	s.Stop()

	without := s.Without("LYCEUM_DATABASE_URL=", "LYCEUM_REDIS_") // a PostgreSQL of its own would be empty
	without.MustFail(t, []string{"database.url", "LYCEUM_DATABASE_URL"}, "up", "--listen", "127.0.0.1:0")
	opstest.NotCreated(t, filepath.Join(s.Data, "postgres"))
	own := opstest.NewUpSite(t, s.Environ[len(s.Environ)-3]) // the other way round: the given one would be another server
	if err := os.MkdirAll(filepath.Join(own.Data, "postgres", "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own.Data, "postgres", "data", "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	own.MustFail(t, []string{"database.url", own.Data, "lyceum restore"}, "up", "--listen", "127.0.0.1:0")
}

// TestUpLooksForItsProgramsFirst: nothing is made when one is missing.
func TestUpLooksForItsProgramsFirst(t *testing.T) {
	s := opstest.NewUpSite(t, "PATH="+t.TempDir())
	s.MustFail(t, []string{"redis-server", "apt-get install redis-server"}, "up", "--listen", "127.0.0.1:0")
	opstest.NotCreated(t, s.Data)
}
