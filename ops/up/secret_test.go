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
}
