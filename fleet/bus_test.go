package fleet

import (
	"log/slog"
	"path/filepath"
	"testing"

	"lyceum/platform/bus"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/obs"
)

// TestAStartWithoutItsRedisEnds: with the error, and not in a panic because what is closed then is there and nil.
func TestAStartWithoutItsRedisEnds(t *testing.T) {
	p := &Process{
		config: &Config{Redis: bus.Config{Addresses: []string{"http://redis.test"}}},
		obs:    &obs.Obs{Log: slog.New(slog.DiscardHandler)}, db: dbtest.Open(t, "sqlite:"+filepath.Join(t.TempDir(), "x.db"), Migrations()...),
	}
	var err error
	if p.bus, err = p.openBus(t.Context()); err == nil {
		t.Fatal("it has a bus")
	}
	p.Close()
}
